//! Configuration: raw values from several places, then one that is valid as a whole.
//!
//! It must never let a half-valid configuration out, and never show a secret.

mod layers;
mod raw;
mod values;

pub use layers::{Layered, Origin, Value, load, misuse};
pub use raw::Raw;

use crate::domain::{AccountType, OnDuplicate, UtcOffset};
use crate::kafka::{ClientSettings, TopicNames};
use crate::observe::LogFormat;
use crate::wire::{DecodeRules, KeyPolicy, UnknownFields};
use crate::worker::{BackfillCompletions, OnTrimmed, Rules};
use secrecy::SecretString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// A configuration that cannot be used: which key, what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How clients reach Kafka.
    pub kafka: ClientSettings,
    /// What the loops work by.
    pub rules: Rules,
    /// How many partitions the topics must have, if that is set.
    pub partitions: Option<i32>,
    /// Stable over restarts: static membership.
    pub instance_id: Option<String>,
    /// Loops.
    pub threads: usize,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Whether other partitions' state is kept warm.
    pub standby: bool,
    /// How long a lost partition's tree is kept.
    pub keep_lost_for: Duration,
    /// HTTP, if it is served.
    pub http: Option<HttpSettings>,
    /// Where spans are sent, if they are.
    pub otlp_endpoint: Option<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// From which level on.
    pub log_level: LevelFilter,
}

/// How HTTP is served.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether cards and requests can be read.
    pub read_api: bool,
    /// What their readers must show.
    pub token: Option<SecretString>,
}

/// The largest request and record batch by default; brokers take 1,048,588 bytes unless told otherwise.
const BATCH_BYTES: usize = 1_000_000;
/// Measured on a local broker: markers are written some milliseconds after the commit is answered. Too short costs the 20 ms that
/// the client then holds the next transaction up, too long only itself.
const MARKER_TIME: Duration = Duration::from_millis(4);
/// The identities of loops are numbered; more than this is a mistake.
const MAX_THREADS: i64 = 256;

impl Config {
    /// Validates raw values.
    pub fn new(raw: &Raw) -> Result<Self, ConfigError> {
        let rules = rules(raw)?;
        let kafka = kafka(raw)?;
        let threads = match in_range("worker.threads", raw.worker.threads, 0, MAX_THREADS)? {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n as usize,
        };
        Ok(Self {
            kafka,
            rules,
            partitions: Some(in_range("topics.partitions", raw.topics.partitions, 0, 100_000)? as i32)
                .filter(|p| *p > 0),
            instance_id: instance_id(&raw.worker.instance_id)?,
            threads,
            state_dir: PathBuf::from(&raw.worker.state_dir),
            standby: choice("worker.standby", &raw.worker.standby, &[("none", false), ("all", true)])?,
            keep_lost_for: values::duration("state.keep_lost_for", &raw.state.keep_lost_for)?,
            http: http(&raw.http)?,
            otlp_endpoint: otlp_endpoint(&raw.tracing.otlp_endpoint)?,
            log_format: choice(
                "log.format",
                &raw.log.format,
                &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)],
            )?,
            log_level: raw.log.level.parse().map_err(|_| {
                ConfigError(format!(
                    "log.level: {:?} is no level; use error, warn, info, debug or trace",
                    raw.log.level
                ))
            })?,
        })
    }
}

fn rules(raw: &Raw) -> Result<Rules, ConfigError> {
    let positive = |key: &str, value: &str| {
        let duration = values::duration(key, value)?;
        if duration.is_zero() { Err(ConfigError(format!("{key}: must be longer than 0"))) } else { Ok(duration) }
    };
    let offset = raw.completion.utc_offset.as_bytes();
    Ok(Rules {
        decode: decode_rules(raw)?,
        on_duplicate: choice(
            "dedup.on_duplicate",
            &raw.dedup.on_duplicate,
            &[("replay", OnDuplicate::Replay), ("suppress", OnDuplicate::Suppress), ("error", OnDuplicate::Error)],
        )?,
        window_ms: positive("dedup.window", &raw.dedup.window)?.as_millis() as i64,
        utc_offset: UtcOffset::parse(offset)
            .ok_or_else(|| ConfigError("completion.utc_offset: write it as ±hh:mm, for example \"+00:30\"".into()))?,
        backfill_completions: choice(
            "backfill.completions",
            &raw.backfill.completions,
            &[("all", BackfillCompletions::All), ("applied", BackfillCompletions::Applied)],
        )?,
        backfill_max_rate: in_range("backfill.max_rate", raw.backfill.max_rate, 0, i64::MAX)? as u64,
        batch_max_records: in_range("batch.max_records", raw.batch.max_records, 1, 100_000)? as usize,
        batch_max_bytes: size("batch.max_bytes", &raw.batch.max_bytes, 1024, 256 << 20)?,
        batch_max_delay: values::duration("batch.max_delay", &raw.batch.max_delay)?.min(Duration::from_secs(5)),
        marker_time: MARKER_TIME,
        checkpoint_interval: positive("checkpoint.interval", &raw.checkpoint.interval)?,
        checkpoint_max_tail: in_range("checkpoint.max_tail_records", raw.checkpoint.max_tail_records, 1, i64::MAX)?
            as u64,
        drain_timeout: positive("worker.drain_timeout", &raw.worker.drain_timeout)?,
        on_trimmed: choice(
            "ingest.on_trimmed",
            &raw.ingest.on_trimmed,
            &[("fail", OnTrimmed::Fail), ("skip", OnTrimmed::Skip)],
        )?,
        restore_stall_timeout: positive("restore.stall_timeout", &raw.restore.stall_timeout)?,
        commands_topic: raw.topics.commands.clone(),
        backfill_topic: raw.topics.backfill.clone(),
    })
}

fn decode_rules(raw: &Raw) -> Result<DecodeRules, ConfigError> {
    let types = raw.ingest.account_types.iter().map(|name| {
        AccountType::new(name.as_bytes()).ok_or_else(|| {
            ConfigError(format!("ingest.account_types: {name:?} must be 1 to 31 printable ASCII characters"))
        })
    });
    Ok(DecodeRules {
        key_policy: choice(
            "ingest.key_policy",
            &raw.ingest.key_policy,
            &[("strict", KeyPolicy::Strict), ("trust", KeyPolicy::Trust)],
        )?,
        account_types: types.collect::<Result<_, _>>()?,
        unknown_fields: choice(
            "ingest.unknown_fields",
            &raw.ingest.unknown_fields,
            &[("reject", UnknownFields::Reject), ("ignore", UnknownFields::Ignore)],
        )?,
        max_accounts: in_range("ingest.max_accounts", raw.ingest.max_accounts, 1, 10_000)? as usize,
        max_payload: size("ingest.max_payload", &raw.ingest.max_payload, 256, 64 << 20)?,
    })
}

fn kafka(raw: &Raw) -> Result<ClientSettings, ConfigError> {
    let topics = &raw.topics;
    let topics = TopicNames {
        commands: topics.commands.clone(),
        backfill: topics.backfill.clone(),
        completions: topics.completions.clone(),
        cards: topics.cards.clone(),
        dead_letters: topics.dead_letters.clone(),
    };
    let mut names = topics.all().to_vec();
    names.sort_unstable();
    names.dedup();
    let legal = |name: &&str| {
        !name.is_empty() && name.len() <= 249 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if names.len() != topics.all().len() || !names.iter().all(legal) {
        return Err(ConfigError(
            "topics: give the five topics five different names of letters, digits, '.', '_' and '-'".into(),
        ));
    }
    if raw.kafka.group_id.is_empty() || raw.kafka.bootstrap_servers.is_empty() {
        return Err(ConfigError("kafka.bootstrap_servers and kafka.group_id must not be empty".into()));
    }
    for property in raw.kafka.client.keys() {
        if !ClientSettings::may_set(property) {
            return Err(ConfigError(format!(
                "kafka.client.{property:?} may not be set: the worker's guarantees rest on it; remove it"
            )));
        }
    }
    Ok(ClientSettings {
        bootstrap_servers: raw.kafka.bootstrap_servers.clone(),
        group_id: raw.kafka.group_id.clone(),
        client: values::with_secrets(&raw.kafka.client)?,
        topics,
        batch_bytes: BATCH_BYTES,
    })
}

fn instance_id(text: &str) -> Result<Option<String>, ConfigError> {
    let legal = text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !legal {
        return Err(ConfigError("worker.instance_id: at most 128 letters, digits, '.', '_' and '-'".into()));
    }
    Ok(Some(text.to_owned()).filter(|t| !t.is_empty()))
}

fn http(raw: &raw::Http) -> Result<Option<HttpSettings>, ConfigError> {
    if raw.listen.is_empty() {
        return Ok(None);
    }
    let listen: SocketAddr = raw
        .listen
        .parse()
        .map_err(|_| ConfigError(format!("http.listen: {:?} is no address; write it as 127.0.0.1:9464", raw.listen)))?;
    let token = match raw.read_api_token_file.as_str() {
        "" => None,
        file => Some(values::secret("http.read_api_token_file", file)?),
    };
    if raw.read_api && token.is_none() && !listen.ip().is_loopback() {
        return Err(ConfigError(format!(
            "http.listen: {listen} can be reached from elsewhere, and the read API shows cards: set http.read_api_token_file, or \
             http.read_api = false"
        )));
    }
    Ok(Some(HttpSettings { listen, read_api: raw.read_api, token }))
}

fn otlp_endpoint(text: &str) -> Result<Option<String>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Err(ConfigError(format!(
            "tracing.otlp_endpoint: {text:?} is no URL; write it as http://localhost:4318"
        )));
    }
    Ok(Some(text.to_owned()))
}

fn choice<T: Copy>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
    let found = choices.iter().find(|(name, _)| *name == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        ConfigError(format!("{key}: {value:?} is not one of {}", names.join(", ")))
    })
}

fn in_range(key: &str, value: i64, least: i64, most: i64) -> Result<i64, ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let most = if most == i64::MAX { "no limit".to_owned() } else { most.to_string() };
    Err(ConfigError(format!("{key}: {value} is out of range ({least} to {most})")))
}

fn size(key: &str, value: &str, least: usize, most: usize) -> Result<usize, ConfigError> {
    let bytes = values::size(key, value)?;
    if bytes < least as u64 || bytes > most as u64 {
        return Err(ConfigError(format!("{key}: {value} is out of range ({least} B to {} MiB)", most >> 20)));
    }
    Ok(bytes as usize)
}

#[cfg(test)]
mod tests;
