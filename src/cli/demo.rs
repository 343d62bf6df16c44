//! `demo`: the whole thing on an in-process Kafka, with nothing to set up.

use super::run::listen_for_signals;
use super::table::table;
use super::{ConfigSource, Exit, Failure};
use crate::config::Config;
use crate::kafka::{CompletionReader, MockKafka, Upstream};
use crate::observe::{LogFormat, init};
use crate::worker::{ProcessOptions, run as run_process};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;

/// The public API's own example.
const EXAMPLE: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";
const IBANS: [&str; 4] =
    ["ES7921000813610123456789", "DE89370400440532013000", "FR1420041010050500013M02606", "GB29NWBK60161331926819"];
const PARTITIONS: i32 = 4;
/// How long the demo waits without an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between commands of the steady trickle.
const TRICKLE: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct DemoArgs {
    /// How many commands to send besides the shown ones
    #[arg(long, default_value_t = 1000)]
    commands: u64,
    /// Stay up with HTTP and a steady trickle of commands
    #[arg(long)]
    serve: bool,
    /// Where HTTP listens with --serve
    #[arg(long, default_value = "127.0.0.1:9464")]
    listen: String,
}

/// A command of the demo and what it shows.
struct Shown {
    what: &'static str,
    key: String,
    value: String,
}

pub fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    init(LogFormat::Auto, LevelFilter::WARN);
    let state = std::env::temp_dir().join(format!("card-update-demo-{}", std::process::id()));
    let result = demo(args, &state);
    // Only this run's own directory; one that cannot be removed is left to the system's own cleaning.
    let _ = std::fs::remove_dir_all(&state);
    result
}

fn demo(args: &DemoArgs, state: &std::path::Path) -> Result<Exit, Failure> {
    let mut source = ConfigSource { config: None, sets: Vec::new() };
    source.sets.push(format!("worker.state_dir={}", state.display()));
    source.sets.push("worker.threads=2".into());
    source.sets.push(format!("http.listen={}", if args.serve { args.listen.as_str() } else { "" }));
    let mut config = source.load()?.config;
    let mock = MockKafka::start(&config.kafka.topics, PARTITIONS)?;
    config.kafka.bootstrap_servers = mock.bootstrap_servers();
    println!(
        "An in-process Kafka (no isolation, no fencing: nothing about exactly-once is proven here) and one worker.\n"
    );

    let shutdown = Arc::new(AtomicBool::new(false));
    listen_for_signals(shutdown.clone())?;
    let options = ProcessOptions { mock: true, shutdown: shutdown.clone(), ..ProcessOptions::default() };
    let status = options.status.clone();
    let worker = {
        let config = config.clone();
        std::thread::spawn(move || run_process(&config, &options))
    };
    let deadline = Instant::now() + PATIENCE;
    while !status.ready() && !worker.is_finished() && Instant::now() < deadline {
        // Nobody tells when it is ready: it is looked at, up to a deadline.
        std::thread::sleep(Duration::from_millis(20));
    }
    let shown = show(args, &config, &shutdown);
    shutdown.store(true, Ordering::Release);
    let ended = worker.join().map_err(|_| Failure::from(std::io::Error::other("the worker panicked")))?;
    shown?;
    ended?;
    Ok(Exit::Done)
}

fn show(args: &DemoArgs, config: &Config, shutdown: &AtomicBool) -> Result<(), Failure> {
    let topics = &config.kafka.topics;
    let mut reader = CompletionReader::new(&config.kafka, &[&topics.completions, &topics.dead_letters], true)?;
    let upstream = Upstream::new(&config.kafka, &topics.commands)?;
    let mut rows = Vec::new();
    for shown in shown_commands() {
        upstream.send(Some(shown.key.as_bytes()), shown.value.as_bytes(), &[])?;
        upstream.flush()?;
        let answer = next_answers(&mut reader, 1, shutdown)?.into_iter().next().unwrap_or_default();
        rows.push(vec![shown.what.to_owned(), answer.result, answer.dt]);
    }
    println!("{}", table(&["command", "what became of it", "dt"], &rows));
    let began = Instant::now();
    for i in 0..args.commands {
        let (key, value) = mixed(i);
        upstream.send(Some(key.as_bytes()), value.as_bytes(), &[])?;
    }
    upstream.flush()?;
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    for answer in next_answers(&mut reader, args.commands, shutdown)? {
        *tally.entry(answer.result).or_default() += 1;
    }
    let rows: Vec<_> = tally.into_iter().map(|(result, count)| vec![result, count.to_string()]).collect();
    println!("{}", table(&["what became of the mix", "commands"], &rows));
    println!("{} commands, each answered once, in {:.2} s.", args.commands, began.elapsed().as_secs_f32());
    if args.serve {
        trickle(args, &upstream, shutdown)?;
    }
    Ok(())
}

fn trickle(args: &DemoArgs, upstream: &Upstream, shutdown: &AtomicBool) -> Result<(), Failure> {
    println!("\nhttp://{} stays up with a steady trickle; end it with Ctrl-C.", args.listen);
    let mut i = args.commands;
    while !shutdown.load(Ordering::Acquire) {
        let (key, value) = mixed(i);
        upstream.send(Some(key.as_bytes()), value.as_bytes(), &[])?;
        upstream.flush()?;
        // The pace of the commands.
        std::thread::sleep(TRICKLE);
        i += 1;
    }
    Ok(())
}

#[derive(Default)]
struct Answered {
    result: String,
    dt: String,
}

fn next_answers(reader: &mut CompletionReader, count: u64, shutdown: &AtomicBool) -> Result<Vec<Answered>, Failure> {
    let mut answers = Vec::new();
    let mut deadline = Instant::now() + PATIENCE;
    while (answers.len() as u64) < count {
        if Instant::now() > deadline || shutdown.load(Ordering::Acquire) {
            let line = format!("only {} of {count} answers came", answers.len());
            return Err(Failure::from(std::io::Error::other(line)));
        }
        reader.read(Duration::from_millis(100), |received| {
            deadline = Instant::now() + PATIENCE;
            let record = &received.record;
            let header = |name: &str| {
                let value = record.headers().filter(|(n, _)| *n == name).last()?.1?;
                Some(String::from_utf8_lossy(value).into_owned())
            };
            let body: Value = serde_json::from_slice(record.value().unwrap_or_default()).unwrap_or_default();
            let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let result = match (received.topic, text("/status").as_str()) {
                (1, _) => format!("dead letter: {}", header("dlq-reason").unwrap_or_default()),
                (_, "ok") if header("idempotent-replayed").is_some() => "ok, the first answer again".to_owned(),
                (_, "ok") => "ok".to_owned(),
                _ => format!("error {} {}", text("/error/code"), text("/error/path")),
            };
            answers.push(Answered { result, dt: text("/dt") });
        });
    }
    Ok(answers)
}

fn command(request: &str, card: &str, iban: &str, currency: &str) -> String {
    let account = json!({ "iban": iban, "currency": currency, "type": "IBAN" });
    json!({ "request_id": request, "card_id": card, "accounts": [account] }).to_string()
}

fn shown_commands() -> Vec<Shown> {
    let shown = |what, value: String| Shown { what, key: EXAMPLE.to_owned(), value };
    let other = "019ab688-bef2-72c4-6a29-000000000002";
    let example = command(EXAMPLE, EXAMPLE, IBANS[0], "USD");
    vec![
        shown("the API's example", example.clone()),
        shown("the same again", example),
        shown("its request_id for another account", command(EXAMPLE, EXAMPLE, IBANS[1], "USD")),
        shown("a second account, in EUR", command(other, EXAMPLE, IBANS[1], "EUR")),
        shown(
            "an IBAN with a wrong check digit",
            command("019ab688-bef2-72c4-6a29-000000000003", EXAMPLE, "ES7921000813610123456780", "USD"),
        ),
        shown(
            "a currency that was withdrawn",
            command("019ab688-bef2-72c4-6a29-000000000004", EXAMPLE, IBANS[0], "HRK"),
        ),
        shown("no JSON at all", "hello".to_owned()),
    ]
}

/// The i-th command of the mix: mostly new, some repeated, some wrong.
fn mixed(i: u64) -> (String, String) {
    let id = |n: u64| format!("00000000-0000-4000-8000-{n:012x}");
    let card = id(i % 200);
    let iban = IBANS[(i % 4) as usize];
    let value = match i % 20 {
        0 if i >= 200 => command(&id(1_000_000 + i - 200), &card, IBANS[((i - 200) % 4) as usize], "USD"),
        19 => command(&id(1_000_000 + i), &card, "not an iban", "USD"),
        _ => command(&id(1_000_000 + i), &card, iban, "USD"),
    };
    (card, value)
}
