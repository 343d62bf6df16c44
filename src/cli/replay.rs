//! `replay`: history into the backfill topic, or only decided (`--dry-run`).

use super::progress::Progress;
use super::rehearse::{Rehearsed, rehearse};
use super::run::listen_for_signals;
use super::table::table;
use super::{ConfigSource, Exit, Failure, Output};
use crate::backfill::{
    Asked, Bound, Cards, Ended, Lines, Manner, Origin, Own, Placing, Prepared, Range, Replay, ReplayTally, Report,
    Workers, begin, disagreeing_key, find_own, prepare, resume, time_ms, trim_processed, wait_for_answers,
};
use crate::config::Config;
use crate::domain::CardId;
use crate::kafka::{ClientSettings, KafkaReader, Sender, TopicsClient, Watchdog};
use crate::observe::{LogFormat, init};
use crate::worker::now_ms;
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing::level_filters::LevelFilter;

/// Longest list of cards.
const MAX_CARDS_BYTES: u64 = 1 << 30;

#[derive(Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Read commands from a file, one JSON object a line (plain, gzip or zstd); `-` for standard input
    #[arg(long, value_name = "NDJSON", conflicts_with_all = ["topic", "source_config", "source_bootstrap", "from", "to", "from_offset", "to_offset", "partitions"])]
    file: Option<PathBuf>,
    /// Read commands from this topic; the worker's own commands topic if not given
    #[arg(long)]
    topic: Option<String>,
    /// How the source's cluster is reached, as a worker's configuration file; this worker's cluster if not given
    #[arg(long, value_name = "FILE")]
    source_config: Option<PathBuf>,
    /// The source's cluster, where its address is all that differs
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "source_config")]
    source_bootstrap: Option<String>,
    /// Only records of this time (RFC 3339) or later
    #[arg(long, value_name = "TIME", conflicts_with = "from_offset")]
    from: Option<String>,
    /// Only records before this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "to_offset")]
    to: Option<String>,
    /// Begin at this offset: 1000, or by partition 0:1000,3:50 (the others are then left out)
    #[arg(long, value_name = "OFFSETS")]
    from_offset: Option<String>,
    /// End before this offset
    #[arg(long, value_name = "OFFSETS")]
    to_offset: Option<String>,
    /// Only this partition; may be given again
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,
    /// Only this card; may be given again
    #[arg(long = "card", value_name = "ID")]
    cards: Vec<String>,
    /// Only the cards that this file lists, one a line
    #[arg(long, value_name = "FILE")]
    cards_file: Option<PathBuf>,
    /// The time (RFC 3339) of lines of a file that carry none: what is on a card since then is newer
    #[arg(long, value_name = "TIME", requires = "file")]
    timestamp: Option<String>,
    /// Set broken lines of a file aside in this one, as they came; else the first ends the replay
    #[arg(long, value_name = "FILE", requires = "file", conflicts_with = "dry_run")]
    rejects: Option<PathBuf>,
    /// This replay's name: given again, it goes on where it was, after whatever ended it
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Most commands a second; 0 for no limit
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Most commands that are sent and not yet processed by the workers
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_in_flight: u64,
    /// Send nothing: decide every command against a snapshot of the cards and say what would become of it
    #[arg(long, conflicts_with_all = ["wait", "rate", "max_in_flight"])]
    dry_run: bool,
    /// With --dry-run: write each card that would change, masked, as a line of JSON; `-` for standard output
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    changes: Option<PathBuf>,
    /// Wait until the workers have processed everything, and say what became of it
    #[arg(long)]
    wait: bool,
    /// Write a report (JSON)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Go on though retention has deleted a part of the range
    #[arg(long)]
    allow_deleted: bool,
    /// Place commands by key as Java clients do, though cards are found in other partitions
    #[arg(long)]
    trust_placing: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What a run has found out for the report.
struct Outcome {
    ended: Ended,
    commands: u64,
    passed_over: u64,
    set_aside: u64,
    tally: Option<ReplayTally>,
}

pub fn run(args: &ReplayArgs) -> Result<Exit, Failure> {
    let config = args.source.load()?.config;
    init(LogFormat::Auto, LevelFilter::WARN);
    let stop = Arc::new(AtomicBool::new(false));
    listen_for_signals(stop.clone())?;
    let id = id_of(args)?;
    let began_ms = now_ms();
    let origin = origin(args, &config)?;
    let source = match &origin {
        Origin::Topic { topic, .. } => topic.clone(),
        Origin::File { name, .. } => name.clone(),
    };
    let prepared = prepare(&config.kafka, Asked { id: id.clone(), origin, cards: cards(args)? })?;
    say_what_is_gone(args, &prepared)?;
    check_placing(args, &config.kafka, &prepared)?;
    let (ranges, positions_kept) = (Report::ranges(&prepared.spans), prepared.placing == Placing::Own);
    let outcome = if args.dry_run { dry(args, &config, prepared)? } else { send(args, &config, &id, prepared, &stop)? };
    let report = Report {
        id,
        source,
        dry_run: args.dry_run,
        complete: outcome.ended == Ended::Sent,
        positions_kept,
        ranges,
        commands: outcome.commands,
        passed_over: outcome.passed_over,
        set_aside: outcome.set_aside,
        tally: outcome.tally,
        began_ms,
        ended_ms: now_ms(),
    };
    if let Some(path) = &args.report {
        report.write(path).map_err(|e| Failure::usage(format!("--report {}: {e}", path.display())))?;
    }
    show(args, &report)?;
    conclude(args, &report, &outcome.ended)
}

/// The id names a group and a transaction.
fn id_of(args: &ReplayArgs) -> Result<String, Failure> {
    let Some(id) = &args.id else { return Ok(uuid::Uuid::new_v4().to_string()) };
    let legal =
        !id.is_empty() && id.len() <= 100 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if legal { Ok(id.clone()) } else { Err(Failure::usage("--id: 1 to 100 letters, digits, '.', '_' and '-'")) }
}

pub fn time(option: &str, text: Option<&String>) -> Result<Option<i64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || Failure::usage(format!("{option}: {text:?} is no time; write it as 2025-01-31T08:00:00+01:00"));
    time_ms(text).ok_or_else(wrong).map(Some)
}

fn origin(args: &ReplayArgs, config: &Config) -> Result<Origin, Failure> {
    match &args.file {
        Some(path) => file(args, path),
        None => topic(args, config),
    }
}

fn file(args: &ReplayArgs, path: &Path) -> Result<Origin, Failure> {
    let unreadable = |e: std::io::Error| Failure::usage(format!("--file {}: {e}", path.display()));
    let (name, lines) = if path == Path::new("-") {
        ("stdin".to_owned(), Lines::new(std::io::stdin()))
    } else {
        let name = path.file_name().map_or("file".into(), |n| n.to_string_lossy().into_owned());
        (name, File::open(path).and_then(Lines::new))
    };
    let default_ms = time("--timestamp", args.timestamp.as_ref())?;
    if default_ms.is_some_and(|at| at <= 0) {
        return Err(Failure::usage("--timestamp: must be later than 1970"));
    }
    Ok(Origin::File { name, lines: lines.map_err(unreadable)?, default_ms, set_aside: args.rejects.is_some() })
}

fn topic(args: &ReplayArgs, config: &Config) -> Result<Origin, Failure> {
    let mut settings = config.kafka.clone();
    if let Some(path) = &args.source_config {
        let source = ConfigSource { config: Some(path.clone()), sets: Vec::new() };
        settings = source.load()?.config.kafka;
    }
    if let Some(bootstrap) = &args.source_bootstrap {
        settings.bootstrap_servers.clone_from(bootstrap);
    }
    let topic = args.topic.clone().unwrap_or_else(|| settings.topics.commands.clone());
    if topic == config.kafka.topics.backfill && settings.bootstrap_servers == config.kafka.bootstrap_servers {
        return Err(Failure::usage(format!("{topic} is where commands are replayed to: it cannot be the source too")));
    }
    let bound = |time_option, time_text: Option<&String>, offsets: Option<&String>| match (
        time(time_option, time_text)?,
        offsets,
    ) {
        (Some(ms), _) => Ok(Bound::Time(ms)),
        (None, Some(text)) => Bound::offsets(text).map_err(|e| Failure::usage(e.to_string())),
        (None, None) => Ok(Bound::Whole),
    };
    let range = Range {
        from: bound("--from", args.from.as_ref(), args.from_offset.as_ref())?,
        to: bound("--to", args.to.as_ref(), args.to_offset.as_ref())?,
        partitions: args.partitions.clone(),
    };
    Ok(Origin::Topic { settings: Box::new(settings), topic, range })
}

fn cards(args: &ReplayArgs) -> Result<Cards, Failure> {
    if args.cards.is_empty() && args.cards_file.is_none() {
        return Ok(None);
    }
    let mut named = args.cards.clone();
    if let Some(path) = &args.cards_file {
        let unreadable = |e: std::io::Error| Failure::usage(format!("--cards-file {}: {e}", path.display()));
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_CARDS_BYTES {
            return Err(Failure::usage(format!("--cards-file {}: larger than 1 GiB", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        named.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
    }
    let parse = |(index, text): (usize, &String)| {
        CardId::parse(text).ok_or_else(|| Failure::usage(format!("card {} of those named is no UUID", index + 1)))
    };
    named.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Some)
}

/// What retention has deleted is said, and how much; unasked, nothing goes on without it.
fn say_what_is_gone(args: &ReplayArgs, prepared: &Prepared) -> Result<(), Failure> {
    let by_time = args.from.is_some();
    let gone: Vec<String> = prepared
        .spans
        .iter()
        .filter(|s| s.deleted > 0)
        .map(|s| match by_time {
            true => format!("partition {}: up to {} records before offset {}", s.partition, s.deleted, s.from),
            false => format!("partition {}: {} offsets before offset {}", s.partition, s.deleted, s.from),
        })
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let line = format!("retention has deleted a part of the range: {}", gone.join("; "));
    if !args.allow_deleted {
        return Err(Failure {
            exit: Exit::Failed,
            line: format!("{line}. To replay what is left, add --allow-deleted"),
        });
    }
    eprintln!("{line}");
    Ok(())
}

fn check_placing(args: &ReplayArgs, kafka: &ClientSettings, prepared: &Prepared) -> Result<(), Failure> {
    if prepared.placing != Placing::ByKey || args.trust_placing {
        return Ok(());
    }
    match disagreeing_key(kafka)? {
        None => Ok(()),
        Some((is, wanted)) => Err(Failure {
            exit: Exit::Failed,
            line: format!(
                "a card lies in partition {is}, where Java clients would put its key in {wanted}: placed by key, commands would meet \
                 partitions that do not know their cards. Give each line its partition, then add --trust-placing"
            ),
        }),
    }
}

fn is_empty(prepared: &Prepared) -> bool {
    !prepared.spans.is_empty() && prepared.spans.iter().all(|s| s.from >= s.to)
}

fn empty_range() -> Failure {
    Failure::usage("the range is empty: no record lies in it")
}

fn dry(args: &ReplayArgs, config: &Config, prepared: Prepared) -> Result<Outcome, Failure> {
    if is_empty(&prepared) {
        return Err(empty_range());
    }
    let Rehearsed { tally, commands, passed_over, broken } = rehearse(config, prepared, args.changes.as_deref())?;
    let ended = broken.map_or(Ended::Sent, Ended::Broken);
    Ok(Outcome { ended, commands, passed_over, set_aside: 0, tally: Some(tally) })
}

fn send(
    args: &ReplayArgs,
    config: &Config,
    id: &str,
    prepared: Prepared,
    stop: &Arc<AtomicBool>,
) -> Result<Outcome, Failure> {
    let kafka = &config.kafka;
    let watchdog = Watchdog::default();
    watchdog.start(end_at_once)?;
    let mut workers = Workers::new(KafkaReader::new(kafka, watchdog.slot("replay-reader"))?, prepared.partitions);
    let (group, topic) = (format!("{}-replay-{id}", kafka.group_id), kafka.topics.backfill.clone());
    let sender = Sender::start(kafka, &group, &topic, watchdog.slot("replay"))?;
    let mut own = Own::default();
    let earlier = resume(&sender, &group, &topic, &prepared)?;
    if earlier.is_none() && is_empty(&prepared) {
        return Err(empty_range());
    }
    let progress = match earlier {
        Some(progress) => {
            eprintln!("replay {id} goes on: {} commands were sent already", progress.sent());
            say_what_is_untold(find_own(kafka, id, &progress, &mut own)?);
            progress
        }
        None => {
            eprintln!("replay {id} begins; after an interruption, the same command with --id {id} goes on");
            trim(kafka, &mut workers);
            begin(&prepared, &mut workers)?
        }
    };
    let mut source = prepared.source;
    source.start(&progress.lanes)?;
    let manner = Manner {
        rate: args.rate,
        max_in_flight: args.max_in_flight,
        rejects: args.rejects.as_deref().map(rejects).transpose()?,
        stop: stop.clone(),
    };
    let mut replay =
        Replay { group, topic, sender, workers, source, manner, progress, own, passed_over: 0, set_aside: 0 };
    let mut bar = Progress::new("records");
    let ended = replay.run(&mut |seen| {
        bar.at(if seen.waiting { "waiting for the workers" } else { "sending" }, seen.done, seen.of);
    })?;
    drop(bar);
    let tally = if args.wait && ended == Ended::Sent { wait(kafka, &mut replay, stop)? } else { None };
    let ended = if args.wait && ended == Ended::Sent && tally.is_none() { Ended::Interrupted } else { ended };
    let (commands, passed_over, set_aside) = (replay.progress.sent(), replay.passed_over, replay.set_aside);
    Ok(Outcome { ended, commands, passed_over, set_aside, tally })
}

fn wait(kafka: &ClientSettings, replay: &mut Replay, stop: &AtomicBool) -> Result<Option<ReplayTally>, Failure> {
    let mut bar = Progress::new("commands");
    let all = replay.own.count();
    let told = (&replay.progress, &replay.own);
    let tally = wait_for_answers(kafka, &mut replay.workers, told, stop, &mut |n| bar.at("processed", n, Some(all)))?;
    drop(bar);
    if tally.is_some() {
        trim(kafka, &mut replay.workers);
    }
    Ok(tally)
}

fn rejects(path: &Path) -> Result<Box<dyn Write>, Failure> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.map_err(|e| Failure::usage(format!("--rejects {}: {e}", path.display())))?;
    Ok(Box::new(file))
}

/// What is processed is no longer needed; where it cannot be deleted it only takes room.
fn trim(kafka: &ClientSettings, workers: &mut Workers) {
    let trimmed = TopicsClient::new(kafka).map_err(Failure::from).and_then(|client| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(trim_processed(&client, kafka, workers))?)
    });
    if let Err(failure) = trimmed {
        tracing::warn!(why = failure.line, "what is processed of the backfill topic cannot be deleted and stays");
    }
}

fn say_what_is_untold(trimmed: u64) {
    if trimmed > 0 {
        eprintln!(
            "{trimmed} offsets of the backfill topic were trimmed since this replay began: commands of it that lay there are processed, \
             but their answers are not in the tally"
        );
    }
}

fn end_at_once(line: String) {
    eprintln!("card-update-worker: {line}; the same id goes on");
    std::process::exit(Exit::Failed as i32);
}

fn show(args: &ReplayArgs, report: &Report) -> Result<(), Failure> {
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(report).map_err(std::io::Error::from)?);
        return Ok(());
    }
    let done = if report.dry_run { "decided" } else { "sent" };
    println!("{done} {} commands of {}; {} records passed over", report.commands, report.source, report.passed_over);
    if report.set_aside > 0 {
        println!("{} lines set aside", report.set_aside);
    }
    if let Some(tally) = &report.tally {
        let rows: Vec<_> = tally.rows().into_iter().map(|(what, count)| vec![what, count.to_string()]).collect();
        println!("\n{}", table(&["what became of them", "commands"], &rows));
    }
    Ok(())
}

fn conclude(args: &ReplayArgs, report: &Report, ended: &Ended) -> Result<Exit, Failure> {
    let again = format!("The same command with --id {} goes on", report.id);
    let failed = |line: String| Err(Failure { exit: Exit::Failed, line });
    match ended {
        Ended::Interrupted => failed(format!("interrupted. {again}")),
        Ended::Broken(broken) if args.dry_run => failed(format!("{broken}. Nothing behind it was decided")),
        Ended::Broken(broken) => failed(format!(
            "{broken}. Everything before it is sent, nothing behind it. Mend the line, or set such lines aside with --rejects. {again}"
        )),
        Ended::Sent if report.tally.as_ref().is_some_and(|t| !t.is_clean()) => Ok(Exit::Differs),
        Ended::Sent => Ok(Exit::Done),
    }
}
