//! `replay`: history into the backfill topic, or only decided (`--dry-run`).

use super::progress::Progress as Bar;
use super::rehearse::{Rehearsed, rehearse};
use super::replay_source::{cards, id_of, origin};
use super::run::listen_for_signals;
use super::table::table;
use super::{ConfigSource, Exit, Failure, Output};
use crate::backfill::{
    Asked, Ended, Failed, Manner, Origin, Own, Placing, Prepared, Progress, Replay, ReplayTally, Report, Span, Workers,
    backfill_partitions, begin, disagreeing_key, find_own, prepare, resume, trim_processed, wait_for_answers,
};
use crate::config::Config;
use crate::domain::OnDuplicate;
use crate::kafka::{ClientSettings, KafkaReader, Sender, TopicsClient, Watchdog};
use crate::observe::{LogFormat, init};
use crate::worker::{BackfillCompletions, now_ms};
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing::level_filters::LevelFilter;

#[derive(Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Read commands from a file, one JSON object a line (plain, gzip or zstd); `-` for standard input
    #[arg(long, value_name = "NDJSON", conflicts_with_all = ["topic", "source_config", "source_bootstrap", "from", "to", "from_offset", "to_offset", "partitions"])]
    pub(super) file: Option<PathBuf>,
    /// Read commands from this topic; the worker's own commands topic if not given
    #[arg(long)]
    pub(super) topic: Option<String>,
    /// How the source's cluster is reached, as a worker's configuration file; this worker's cluster if not given
    #[arg(long, value_name = "FILE")]
    pub(super) source_config: Option<PathBuf>,
    /// The source's cluster, where its address is all that differs
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "source_config")]
    pub(super) source_bootstrap: Option<String>,
    /// Only records of this time (RFC 3339) or later
    #[arg(long, value_name = "TIME", conflicts_with = "from_offset")]
    pub(super) from: Option<String>,
    /// Only records before this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "to_offset")]
    pub(super) to: Option<String>,
    /// Begin at this offset: 1000, or by partition 0:1000,3:50 (the others are then left out)
    #[arg(long, value_name = "OFFSETS")]
    pub(super) from_offset: Option<String>,
    /// End before this offset
    #[arg(long, value_name = "OFFSETS")]
    pub(super) to_offset: Option<String>,
    /// Only this partition; may be given again
    #[arg(long = "partition", value_name = "N")]
    pub(super) partitions: Vec<i32>,
    /// Only this card; may be given again
    #[arg(long = "card", value_name = "ID")]
    pub(super) cards: Vec<String>,
    /// Only the cards that this file lists, one a line
    #[arg(long, value_name = "FILE")]
    pub(super) cards_file: Option<PathBuf>,
    /// The time (RFC 3339) of lines of a file that carry none: what is on a card since then is newer
    #[arg(long, value_name = "TIME", requires = "file")]
    pub(super) timestamp: Option<String>,
    /// Append broken lines of a file to this one, as they came; else the first ends the replay
    #[arg(long, value_name = "FILE", requires = "file")]
    pub(super) rejects: Option<PathBuf>,
    /// This replay's name: given again, it goes on where it was, after whatever ended it
    #[arg(long, value_name = "NAME")]
    pub(super) id: Option<String>,
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

/// Where broken lines go, if they are set aside.
type Rejects = Option<Box<dyn Write>>;

/// What a run has found out for the report.
struct Outcome {
    /// How it ended; an error ends it too, and what it did before counts.
    ended: Result<Ended, Failed>,
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
    let cards = cards(args)?;
    if let Some(path) = &args.report {
        Report::check(path).map_err(|e| Failure::usage(format!("--report {}: {e}", path.display())))?;
    }
    let rejects = rejects(args)?;
    let watchdog = Watchdog::default();
    watchdog.start(end_at_once)?;
    let partitions = backfill_partitions(&config.kafka)?;
    let mut workers = Workers::new(KafkaReader::new(&config.kafka, watchdog.slot("replay-reader"))?, partitions);
    let prepared = prepare(&config.kafka, &mut workers, Asked { id: id.clone(), origin, cards })?;
    check_placing(args, &config.kafka, &prepared)?;
    let (ranges, positions_kept) = (Report::ranges(&prepared.spans), prepared.placing == Placing::Own);
    let outcome = if args.dry_run {
        dry(args, &config, (prepared, rejects), &stop)?
    } else {
        send(args, &config, (&id, &watchdog), (prepared, workers, rejects), &stop)?
    };
    let report = Report {
        id,
        source,
        dry_run: args.dry_run,
        complete: outcome.ended == Ok(Ended::Sent),
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
        report.write(path)?;
    }
    show(args, &report)?;
    conclude(args, &report, outcome.ended)
}

/// What retention has deleted is said, and how much; unasked, nothing goes on without it.
fn accept_deleted(args: &ReplayArgs, gone: &[String]) -> Result<(), Failure> {
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

/// What is gone of the range of a replay that begins.
fn deleted_before(args: &ReplayArgs, spans: &[Span]) -> Vec<String> {
    let by_time = args.from.is_some();
    let deleted = spans.iter().filter(|s| s.deleted > 0);
    let words = |s: &Span| match by_time {
        true => format!("partition {}: up to {} records before offset {}", s.partition, s.deleted, s.from),
        false => format!("partition {}: {} offsets before offset {}", s.partition, s.deleted, s.from),
    };
    deleted.map(words).collect()
}

/// What is gone of what a replay that goes on had left; its lanes go on where the log begins now.
fn deleted_meanwhile(prepared: &Prepared, progress: &mut Progress) -> Result<Vec<String>, Failure> {
    let mut gone = Vec::new();
    for (partition, next, start) in prepared.source.overtaken(&progress.lanes)? {
        gone.push(format!("partition {partition}: offsets {next} to {} since the last run", start - 1));
        if let Some(lane) = progress.lanes.get_mut(&partition) {
            lane.next = lane.to.map_or(start, |to| start.min(to));
        }
    }
    Ok(gone)
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
    Failure::usage("the range is empty: no record that the workers have processed lies in it")
}

fn dry(
    args: &ReplayArgs,
    config: &Config,
    (prepared, rejects): (Prepared, Rejects),
    stop: &AtomicBool,
) -> Result<Outcome, Failure> {
    accept_deleted(args, &deleted_before(args, &prepared.spans))?;
    if is_empty(&prepared) {
        return Err(empty_range());
    }
    let rehearsed = rehearse(config, prepared, (args.changes.as_deref(), rejects), stop)?;
    let Rehearsed { tally, commands, passed_over, set_aside, ended } = rehearsed;
    Ok(Outcome { ended: Ok(ended), commands, passed_over, set_aside, tally: Some(tally) })
}

fn send(
    args: &ReplayArgs,
    config: &Config,
    (id, watchdog): (&str, &Watchdog),
    (prepared, mut workers, rejects): (Prepared, Workers, Rejects),
    stop: &Arc<AtomicBool>,
) -> Result<Outcome, Failure> {
    let kafka = &config.kafka;
    let (group, topic) = (format!("{}-replay-{id}", kafka.group_id), kafka.topics.backfill.clone());
    // Fences and decides an earlier run: only then do its notes hold.
    let sender = Sender::start(kafka, &group, &topic, watchdog.slot("replay"))?;
    let mut own = Own::default();
    let progress = match resume(kafka, &group, &prepared)? {
        Some(mut progress) => {
            eprintln!("replay {id} goes on: {} commands were sent already", progress.sent());
            accept_deleted(args, &deleted_meanwhile(&prepared, &mut progress)?)?;
            find_own(kafka, &mut workers, (id, &progress), &mut own)?;
            say_what_is_untold(&progress, &own);
            progress
        }
        None => {
            accept_deleted(args, &deleted_before(args, &prepared.spans))?;
            if is_empty(&prepared) {
                return Err(empty_range());
            }
            eprintln!("replay {id} begins; after an interruption, the same command with --id {id} goes on");
            trim(kafka, &mut workers);
            begin(&prepared, &mut workers)?
        }
    };
    let mut source = prepared.source;
    source.start(&progress.lanes, progress.digest)?;
    let manner = Manner { rate: args.rate, max_in_flight: args.max_in_flight, rejects, stop: stop.clone() };
    let replay = Replay { group, topic, sender, workers, source, manner, progress, own, passed_over: 0, set_aside: 0 };
    Ok(carry_out(args, config, replay, stop))
}

fn carry_out(args: &ReplayArgs, config: &Config, mut replay: Replay, stop: &AtomicBool) -> Outcome {
    let mut bar = Bar::new("records");
    let mut ended = replay.run(&mut |seen| {
        bar.at(if seen.waiting { "waiting for the workers" } else { "sending" }, seen.done, seen.of);
    });
    drop(bar);
    let mut tally = None;
    if args.wait && ended == Ok(Ended::Sent) {
        match wait(config, &mut replay, stop) {
            Ok(Some(counted)) => tally = Some(counted),
            Ok(None) => ended = Ok(Ended::Interrupted),
            Err(failed) => ended = Err(failed),
        }
    }
    let (commands, passed_over, set_aside) = (replay.progress.sent(), replay.passed_over, replay.set_aside);
    Outcome { ended, commands, passed_over, set_aside, tally }
}

fn wait(config: &Config, replay: &mut Replay, stop: &AtomicBool) -> Result<Option<ReplayTally>, Failed> {
    let silent = config.rules.on_duplicate == OnDuplicate::Suppress
        || config.rules.backfill_completions == BackfillCompletions::Applied;
    let mut bar = Bar::new("commands");
    let all = replay.own.count();
    let told = (&replay.progress, &replay.own, silent);
    let see = &mut |n| bar.at("processed", n, Some(all));
    let tally = wait_for_answers(&config.kafka, &mut replay.workers, told, stop, see)?;
    drop(bar);
    if tally.is_some() {
        trim(&config.kafka, &mut replay.workers);
    }
    Ok(tally)
}

/// Appended to: a replay that goes on goes on there too.
fn rejects(args: &ReplayArgs) -> Result<Rejects, Failure> {
    let Some(path) = &args.rejects else { return Ok(None) };
    let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("--rejects {}: {why}", path.display()));
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if args.file.as_deref().and_then(real).is_some_and(|input| real(path) == Some(input)) {
        return Err(wrong(&"it is the input itself"));
    }
    let file = File::options().create(true).append(true).open(path).map_err(|e| wrong(&e))?;
    Ok(Some(Box::new(file)))
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

fn say_what_is_untold(progress: &Progress, own: &Own) {
    let untold = progress.sent().saturating_sub(own.count());
    if untold > 0 {
        eprintln!(
            "{untold} of them were processed and are deleted from the backfill topic: their answers are not in a tally"
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

fn conclude(args: &ReplayArgs, report: &Report, ended: Result<Ended, Failed>) -> Result<Exit, Failure> {
    let again = format!("The same command with --id {} goes on", report.id);
    let failed = |line: String| Err(Failure { exit: Exit::Failed, line });
    match ended {
        Err(failure @ Failed::Misuse(_)) => Err(failure.into()),
        Err(failure) => failed(format!("{failure}. {again}")),
        Ok(Ended::Interrupted) if args.dry_run => failed("interrupted".into()),
        Ok(Ended::Interrupted) => failed(format!("interrupted. {again}")),
        Ok(Ended::Broken(broken)) if args.dry_run => failed(format!("{broken}. Nothing behind it was decided")),
        Ok(Ended::Broken(broken)) => failed(format!(
            "{broken}. Everything before it is sent, nothing behind it. Mend the line, or set such lines aside with --rejects. {again}"
        )),
        Ok(Ended::Sent) if report.commands == 0 && args.file.is_none() => {
            Err(Failure::usage("the range is empty: none of its records is meant"))
        }
        Ok(Ended::Sent) if report.set_aside > 0 => Ok(Exit::Differs),
        Ok(Ended::Sent) if report.tally.as_ref().is_some_and(|t| !t.is_clean()) => Ok(Exit::Differs),
        Ok(Ended::Sent) => Ok(Exit::Done),
    }
}
