//! `send`: produces commands the way an upstream does.

use super::{ConfigSource, Exit, Failure};
use crate::config::Config;
use crate::domain::RequestId;
use crate::kafka::{CompletionReader, Upstream};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long `--wait` waits without an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest line of a file.
const MAX_LINE_BYTES: u64 = 64 << 20;

#[derive(Args)]
pub struct SendArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Commands, one JSON object a line; `-` for standard input. The record key is the line's card_id
    #[arg(long, value_name = "NDJSON", conflicts_with_all = ["card", "accounts"])]
    file: Option<PathBuf>,
    /// One command: its card
    #[arg(long, value_name = "ID", required_unless_present = "file", requires = "accounts")]
    card: Option<String>,
    /// An account of the one command
    #[arg(long = "account", value_name = "IBAN:CUR[:TYPE]", requires = "card")]
    accounts: Vec<String>,
    /// The one command's id; made if not given
    #[arg(long, value_name = "ID", requires = "card")]
    request_id: Option<String>,
    /// Wait for the completions and print them; exit code 1 when one has not come after 60 s without any
    #[arg(long)]
    wait: bool,
}

/// Commands that were sent and are to be answered.
#[derive(Default)]
struct Sent {
    commands: u64,
    awaited: BTreeSet<String>,
    unanswerable: u64,
}

pub fn run(args: &SendArgs) -> Result<Exit, Failure> {
    let config = args.source.load()?.config;
    let one = args.card.as_ref().map(|card| one_command(card, args)).transpose()?;
    // Opened before anything is sent, so that no answer is missed.
    let reader = args.wait.then(|| CompletionReader::new(&config.kafka, &[&config.kafka.topics.completions], false));
    let reader = reader.transpose()?;
    let upstream = Upstream::new(&config.kafka, &config.kafka.topics.commands)?;
    let mut sent = Sent::default();
    match one {
        Some(command) => sent.send(&upstream, command.to_string().as_bytes())?,
        None => send_lines(args, &upstream, &mut sent)?,
    }
    let delivered = upstream.flush()?;
    eprintln!("sent {delivered} commands");
    if sent.unanswerable > 0 {
        eprintln!("{} of them have no readable request_id: they will be dead letters", sent.unanswerable);
    }
    match reader {
        Some(reader) => wait(reader, sent, &config),
        None => Ok(Exit::Done),
    }
}

fn one_command(card: &str, args: &SendArgs) -> Result<Value, Failure> {
    let accounts = args.accounts.iter().map(|text| {
        let mut parts = text.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(iban), Some(currency), kind, None) => {
                Ok(json!({ "iban": iban, "currency": currency, "type": kind.unwrap_or("IBAN") }))
            }
            _ => Err(Failure::usage("--account: write it as IBAN:CUR or IBAN:CUR:TYPE")),
        }
    });
    let accounts = accounts.collect::<Result<Vec<_>, _>>()?;
    let request_id = args.request_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Ok(json!({ "request_id": request_id, "card_id": card, "accounts": accounts }))
}

fn send_lines(args: &SendArgs, upstream: &Upstream, sent: &mut Sent) -> Result<(), Failure> {
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from("-"));
    let input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => {
            Box::new(std::fs::File::open(&path).map_err(|e| Failure::usage(format!("--file {}: {e}", path.display())))?)
        }
    };
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    while input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        let command = line.trim_ascii();
        if !command.is_empty() {
            sent.send(upstream, command)?;
        }
        line.clear();
    }
    Ok(())
}

impl Sent {
    /// Sends the bytes as they are; the key is the card_id in lower case, where there is one.
    fn send(&mut self, upstream: &Upstream, command: &[u8]) -> Result<(), Failure> {
        let parsed: Option<Value> = serde_json::from_slice(command).ok();
        let field = |name: &str| parsed.as_ref()?.get(name)?.as_str().map(str::to_ascii_lowercase);
        if parsed.as_ref().is_some_and(|v| v.get("value").is_some() && v.get("request_id").is_none()) {
            return Err(Failure::usage("a line is an envelope around a command: `replay --file` takes those"));
        }
        let key = field("card_id");
        upstream.send(key.as_deref().map(str::as_bytes), command, &[])?;
        self.commands += 1;
        match field("request_id").filter(|id| RequestId::parse(id).is_some()) {
            Some(id) => drop(self.awaited.insert(id)),
            None => self.unanswerable += 1,
        }
        Ok(())
    }
}

fn wait(mut reader: CompletionReader, mut sent: Sent, config: &Config) -> Result<Exit, Failure> {
    let mut deadline = Instant::now() + PATIENCE;
    while !sent.awaited.is_empty() {
        if Instant::now() > deadline {
            eprintln!(
                "{} commands have no completion in {} after {} s; is a worker running?",
                sent.awaited.len(),
                config.kafka.topics.completions,
                PATIENCE.as_secs()
            );
            return Ok(Exit::Failed);
        }
        let mut out = std::io::stdout().lock();
        let mut written = Ok(());
        reader.read(Duration::from_millis(200), |received| {
            let value = received.record.value().unwrap_or_default();
            let id = serde_json::from_slice::<Value>(value)
                .ok()
                .and_then(|v| Some(v.get("request_id")?.as_str()?.to_owned()));
            if id.is_some_and(|id| sent.awaited.remove(&id)) {
                deadline = Instant::now() + PATIENCE;
                written = out.write_all(value).and_then(|()| out.write_all(b"\n"));
            }
        });
        written?;
    }
    Ok(Exit::Done)
}
