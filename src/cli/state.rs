//! `state`: the local projection. While a worker runs it is asked over HTTP; else its directory is read, on a copy.

use super::table::table;
use super::{ConfigSource, Exit, Failure, Output};
use crate::backfill::readable_time;
use crate::config::Config;
use crate::domain::{CardId, RequestId};
use crate::kafka::{KafkaReader, TopicsClient, Watchdog};
use crate::observe::{LogFormat, init, masked_account};
use crate::projection::{Projection, StateDir, Store, Tree};
use crate::worker::{Verified, log_identity, now_ms, verify_partition};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::io::{BufRead as _, IsTerminal as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// How long the worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct StateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    source: ConfigSource,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Subcommand)]
enum Action {
    /// A card's accounts, masked
    #[command(after_help = "Example: card-update-worker state card 019ab688-bef2-72c4-6a29-d0e08be76d95")]
    Card {
        /// The card
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// What is remembered of a request
    #[command(after_help = "Example: card-update-worker state request 019ab688-bef2-72c4-6a29-d0e08be76d95")]
    Request {
        /// The request
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// How much each partition holds
    #[command(after_help = "Example: card-update-worker state stats --config worker.toml")]
    Stats(Common),
    /// Hold the directory of a stopped worker against the topics; exit code 3 when they differ
    #[command(after_help = "Example: card-update-worker state verify --config worker.toml")]
    Verify(Common),
    /// Delete the local state: the next start restores everything from Kafka
    #[command(after_help = "Example: card-update-worker state drop --config worker.toml --yes")]
    Drop {
        #[command(flatten)]
        common: Common,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(args: &StateArgs) -> Result<Exit, Failure> {
    init(LogFormat::Auto, LevelFilter::WARN);
    match &args.action {
        Action::Card { id, common } => card(id, common),
        Action::Request { id, common } => request(id, common),
        Action::Stats(common) => stats(common),
        Action::Verify(common) => verify(common),
        Action::Drop { common, yes } => drop_state(common, *yes),
    }
}

fn card(id: &str, common: &Common) -> Result<Exit, Failure> {
    let id = CardId::parse(id).ok_or_else(|| Failure::usage("the card must be a UUID of 36 characters"))?;
    let config = common.source.load()?.config;
    let found = match ask(&config, &format!("/v1/cards/{id}"))? {
        Some(answer) => answer,
        None => in_directory(&config, |partition, projection| {
            let mut accounts = Vec::new();
            let known = projection.card(&id, &mut accounts);
            let accounts: Vec<Value> = accounts.iter().map(masked_account).collect();
            Ok(known.then(|| json!({ "card_id": id.to_string(), "partition": partition, "accounts": accounts })))
        })?,
    };
    shown(found, common.output, "the card is unknown here", |card| {
        let cell = |account: &Value, name: &str| match &account[name] {
            Value::String(text) => text.clone(),
            Value::Number(ms) if name == "updated_at" => ms.as_i64().map_or_else(String::new, readable_time),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let names = ["type", "currency", "iban", "updated_at", "source_offset", "request_id"];
        let accounts = card["accounts"].as_array().cloned().unwrap_or_default();
        let rows: Vec<_> = accounts.iter().map(|a| names.iter().map(|n| cell(a, n)).collect()).collect();
        format!("card {} in partition {}\n{}", id, card["partition"], table(&names, &rows))
    })
}

fn request(id: &str, common: &Common) -> Result<Exit, Failure> {
    let id = RequestId::parse(id).ok_or_else(|| Failure::usage("the request must be a UUID of 36 characters"))?;
    let config = common.source.load()?.config;
    let found = match ask(&config, &format!("/v1/requests/{id}"))? {
        Some(answer) => answer,
        None => in_directory(&config, |partition, projection| {
            let found = projection.request(&id, now_ms()).map_err(|e| e.to_string())?;
            let alive = found.filter(|r| now_ms() - r.dt.at_ms <= config.rules.window_ms);
            Ok(alive.map(|remembered| {
                let dt = String::from_utf8_lossy(&remembered.dt.text()).into_owned();
                json!({ "request_id": id.to_string(), "request_status": "success", "dt": dt, "partition": partition })
            }))
        })?,
    };
    shown(found, common.output, "no success of this request is remembered here", |request| {
        let text = |name: &str| request[name].as_str().unwrap_or("-").to_owned();
        format!("request {id}: {} {} (partition {})\n", text("request_status"), text("dt"), request["partition"])
    })
}

fn shown(
    found: Option<Value>,
    output: Output,
    unknown: &str,
    text: impl Fn(&Value) -> String,
) -> Result<Exit, Failure> {
    let found = found.ok_or_else(|| Failure { exit: Exit::Failed, line: unknown.into() })?;
    match output {
        Output::Json => println!("{found:#}"),
        Output::Text => print!("{}", text(&found)),
    }
    Ok(Exit::Done)
}

fn stats(common: &Common) -> Result<Exit, Failure> {
    let config = common.source.load()?.config;
    let partitions = match ask(&config, "/v1/partitions")? {
        Some(answer) => answer.map(|view| view["partitions"].clone()).unwrap_or_default(),
        None => Value::Array(of_directory(&config)?),
    };
    if common.output == Output::Json {
        println!("{partitions:#}");
        return Ok(Exit::Done);
    }
    let names = ["partition", "state", "cards", "accounts", "remembered_requests"];
    let cell = |row: &Value, name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
    let rows = partitions.as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = rows.iter().map(|row| names.iter().map(|n| cell(row, n)).collect()).collect();
    print!("{}", table(&names, &rows));
    Ok(Exit::Done)
}

/// What a running worker answers: `None` when none is reached, `Some(None)` when it does not know.
fn ask(config: &Config, path: &str) -> Result<Option<Option<Value>>, Failure> {
    let Some(http) = &config.http else { return Ok(None) };
    let failed = |what: String| Failure { exit: Exit::Failed, line: what };
    let client = reqwest::blocking::Client::builder().timeout(PATIENCE).no_proxy().build();
    let client = client.map_err(|e| failed(e.to_string()))?;
    let url = format!("http://{}{path}", reachable(http.listen));
    let mut request = client.get(&url);
    if let Some(token) = &http.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let response = match request.send() {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Ok(None),
        Err(error) => return Err(failed(format!("the worker at {} does not answer: {error}", http.listen))),
    };
    let status = response.status();
    let unreadable = |e: String| failed(format!("the worker at {} gives no JSON: {e}", http.listen));
    let body = response.bytes().map_err(|e| unreadable(e.to_string()))?;
    let body: Value = serde_json::from_slice(&body).map_err(|e| unreadable(e.to_string()))?;
    match status.as_u16() {
        200 => Ok(Some(Some(body))),
        404 if http.read_api => Ok(Some(None)),
        code => {
            let detail = body["detail"].as_str().or(body["title"].as_str()).unwrap_or("no reason given");
            Err(failed(format!("the worker at {} answers {code}: {detail}", http.listen)))
        }
    }
}

/// A worker that listens on every address is reached over loopback.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        let loopback =
            if listen.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) };
        listen.set_ip(loopback);
    }
    listen
}

/// The first answer that a partition of the directory gives.
fn in_directory(
    config: &Config,
    mut look: impl FnMut(i32, &Projection) -> Result<Option<Value>, String>,
) -> Result<Option<Value>, Failure> {
    let failed = |line: String| Failure { exit: Exit::Failed, line };
    let (_copy, store) = StateDir::open_to_read(&config.state_dir).map_err(|e| held(config, &e))?;
    let store: Arc<dyn Store> = Arc::new(store);
    let mut partitions = store.partitions();
    partitions.sort_unstable();
    for partition in partitions {
        let tree = Tree::new(partition, store.clone(), Arc::default());
        let opened = Projection::open_as_found(tree).map_err(|e| failed(format!("partition {partition}: {e}")))?;
        let Some(projection) = opened else { continue };
        if let Some(found) = look(partition, &projection).map_err(failed)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn of_directory(config: &Config) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    in_directory(config, |partition, projection| {
        let stats = projection.stats();
        let positions = projection.positions();
        all.push(json!({
            "partition": partition,
            "state": "on disk",
            "cards": stats.cards,
            "accounts": stats.accounts,
            "remembered_requests": stats.requests,
            "cards_position": positions.cards,
            "completions_position": positions.completions,
        }));
        Ok(None)
    })?;
    Ok(all)
}

/// Why a directory cannot be read, and what to do.
fn held(config: &Config, why: &str) -> Failure {
    let hint = match &config.http {
        Some(http) => format!("no worker answers at {} either", http.listen),
        None => "the worker's HTTP is off".to_owned(),
    };
    Failure { exit: Exit::Failed, line: format!("{why} ({hint})") }
}

fn verify(common: &Common) -> Result<Exit, Failure> {
    let config = common.source.load()?.config;
    let (_copy, store) = StateDir::open_to_read(&config.state_dir)
        .map_err(|e| Failure { exit: Exit::Failed, line: format!("{e}. `verify` wants the worker stopped") })?;
    let store: Arc<dyn Store> = Arc::new(store);
    let identity = log_identity(&config, &TopicsClient::new(&config.kafka)?)?;
    let mut reader = KafkaReader::new(&config.kafka, Watchdog::default().slot("verify"))?;
    let mut bar = super::progress::Progress::new("partitions");
    let (mut partitions, mut all) = (store.partitions(), Vec::new());
    partitions.sort_unstable();
    for partition in &partitions {
        let mut verify = || verify_partition((&mut reader, &config.rules, &identity), *partition, &store, now_ms());
        let verified = verify()?;
        // Compaction may have come between the two readings while other workers write: a difference is one when it stays.
        all.push(if verified.different > 0 { verify()? } else { verified });
        bar.at("verifying", all.len() as u64, Some(partitions.len() as u64));
    }
    drop(bar);
    show_verified(&all, common.output);
    Ok(if all.iter().any(|v| v.different > 0) { Exit::Differs } else { Exit::Done })
}

fn show_verified(all: &[Verified], output: Output) {
    if output == Output::Json {
        let row = |v: &Verified| json!({ "partition": v.partition, "cards": v.cards, "requests": v.requests, "different": v.different, "first": v.told });
        println!("{:#}", Value::Array(all.iter().map(row).collect()));
        return;
    }
    for verified in all {
        let Verified { partition, cards, requests, different, told } = verified;
        println!("partition {partition}: {cards} cards and {requests} requests in the topics, {different} differences");
        told.iter().for_each(|line| println!("  {line}"));
    }
    if all.is_empty() {
        println!("the directory holds no partition");
    }
}

fn drop_state(common: &Common, yes: bool) -> Result<Exit, Failure> {
    let config = common.source.load()?.config;
    let path = config.state_dir.display().to_string();
    let mut state =
        StateDir::lock(&config.state_dir).map_err(|e| Failure { exit: Exit::Failed, line: e.to_string() })?;
    if !yes && !confirmed(&path)? {
        return Err(Failure { exit: Exit::Failed, line: "nothing was dropped".into() });
    }
    let dropped = state.drop_store()?;
    let what =
        if dropped { "dropped: the next start restores everything from Kafka" } else { "there was nothing to drop" };
    match common.output {
        Output::Json => println!("{:#}", json!({ "state_dir": path, "dropped": dropped })),
        Output::Text => println!("{path}: {what}"),
    }
    Ok(Exit::Done)
}

fn confirmed(path: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked: add --yes"));
    }
    eprint!("Drop the local state in {path}? The next start restores everything from Kafka. Type yes: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
