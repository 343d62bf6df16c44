//! `dead-letters`: look at them, and send them again.

use super::replay_source::time;
use super::table::table;
use super::{ConfigSource, Exit, Failure, Output};
use crate::backfill::{
    Letter, LetterFilter, Redrive, Redriven, Summary, disagreeing_key, masked_text, read_letters, readable_time,
    redrive_group,
};
use crate::config::Config;
use crate::domain::DeadReason;
use crate::kafka::{ClientSettings, History, Sender, TopicsClient, Watchdog};
use crate::observe::{LogFormat, init};
use crate::worker::now_ms;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write as _;
use tracing::level_filters::LevelFilter;

#[derive(Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List dead letters, nothing of their contents
    #[command(after_help = "Example: card-update-worker dead-letters list --from 2025-01-01T00:00:00Z")]
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// Most letters shown
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show dead letters whole, their contents masked
    #[command(after_help = "Example: card-update-worker dead-letters show --at 3/1042")]
    Show {
        #[command(flatten)]
        wanted: Wanted,
        /// Show contents as they are
        #[arg(long)]
        reveal: bool,
    },
    /// Send dead letters again, through the backfill topic, each once
    #[command(
        after_help = "Example: card-update-worker dead-letters redrive --reason malformed_json --edit 'sed s/,}/}/' --dry-run"
    )]
    Redrive {
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args)]
struct Wanted {
    #[command(flatten)]
    source: ConfigSource,
    /// Only with this reason; may be given again
    #[arg(long = "reason", value_parser = clap::builder::PossibleValuesParser::new(DeadReason::ALL.iter().map(|r| r.name())))]
    reasons: Vec<String>,
    /// Only those set aside at this time (RFC 3339) or later
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only those set aside before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only of this partition; may be given again
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,
    /// Just this one; may be given again
    #[arg(long = "at", value_name = "PARTITION/OFFSET")]
    places: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args)]
struct How {
    /// A command that gets each value on its standard input and prints the mended one
    #[arg(long, value_name = "COMMAND")]
    edit: Option<String>,
    /// Send to this topic instead of the backfill topic
    #[arg(long, value_name = "TOPIC")]
    to_topic: Option<String>,
    /// Send nothing, only say what would be sent
    #[arg(long)]
    dry_run: bool,
    /// Send also letters that were sent before; only those named with --at
    #[arg(long, requires = "places")]
    again: bool,
    /// Send also letters that are older than the notes of what was sent are kept
    #[arg(long)]
    even_if_doubtful: bool,
}

impl Wanted {
    fn filter(&self) -> Result<LetterFilter, Failure> {
        let place = |text: &String| {
            let pair = text.split_once('/').and_then(|(p, o)| Some((p.parse().ok()?, o.parse().ok()?)));
            let wrong = || Failure::usage(format!("--at {text:?}: write it as PARTITION/OFFSET, for example 3/1042"));
            pair.filter(|(p, o): &(i32, i64)| *p >= 0 && *o >= 0).ok_or_else(wrong)
        };
        let (from_ms, to_ms) = (time("--from", self.from.as_ref())?, time("--to", self.to.as_ref())?);
        if from_ms.zip(to_ms).is_some_and(|(from, to)| from >= to) {
            return Err(Failure::usage("the range is backwards or empty: --from must be before --to"));
        }
        Ok(LetterFilter {
            reasons: self.reasons.clone(),
            from_ms,
            to_ms,
            partitions: self.partitions.clone(),
            places: self.places.iter().map(place).collect::<Result<_, _>>()?,
        })
    }
}

pub fn run(args: &DeadLettersArgs) -> Result<Exit, Failure> {
    init(LogFormat::Auto, LevelFilter::WARN);
    match &args.action {
        Action::List { wanted, limit } => list(wanted, *limit),
        Action::Show { wanted, reveal } => show(wanted, *reveal),
        Action::Redrive { wanted, how } => redrive(wanted, how),
    }
}

fn open(config: &Config) -> Result<History, Failure> {
    let topic = &config.kafka.topics.dead_letters;
    let missing = || Failure::usage(format!("there is no topic {topic}; make it with `topics apply`"));
    History::open(&config.kafka, topic)?.ok_or_else(missing)
}

fn list(wanted: &Wanted, limit: usize) -> Result<Exit, Failure> {
    let config = wanted.source.load()?.config;
    let mut letters: Vec<Summary> = Vec::new();
    let mut more = false;
    let foreign = read_letters(&mut open(&config)?, &wanted.filter()?, |letter| {
        more = letters.len() >= limit;
        if !more {
            letters.push(letter.summary());
        }
        Ok(!more)
    })?;
    match wanted.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&letters).map_err(std::io::Error::from)?),
        Output::Text => {
            let row = |l: &Summary| {
                let bytes =
                    if l.value_omitted { format!("{} (left out)", l.value_bytes) } else { l.value_bytes.to_string() };
                let place = format!("{}/{}", l.partition, l.offset);
                vec![place, readable_time(l.at_ms), l.reason.clone(), l.source.clone(), bytes]
            };
            let rows: Vec<_> = letters.iter().map(row).collect();
            match rows.is_empty() {
                true => println!("no dead letters"),
                false => print!("{}", table(&["at", "set aside", "reason", "from", "bytes"], &rows)),
            }
        }
    }
    if more {
        eprintln!("only the first {limit} are shown; see --limit");
    }
    say_foreign(foreign);
    Ok(Exit::Done)
}

fn say_foreign(count: u64) {
    if count > 0 {
        eprintln!("{count} records of the topic are no dead letters of a worker");
    }
}

fn show(wanted: &Wanted, reveal: bool) -> Result<Exit, Failure> {
    let config = wanted.source.load()?.config;
    let mut shown = 0;
    let mut out = std::io::stdout().lock();
    let foreign = read_letters(&mut open(&config)?, &wanted.filter()?, |letter| {
        shown += 1;
        match wanted.output {
            Output::Json => writeln!(out, "{}", as_json(&letter, reveal))?,
            Output::Text => writeln!(out, "{}", as_text(&letter, reveal))?,
        }
        Ok(true)
    })?;
    say_foreign(foreign);
    if shown == 0 {
        return Err(Failure { exit: Exit::Failed, line: "no such dead letter".into() });
    }
    Ok(Exit::Done)
}

fn content(bytes: &[u8], reveal: bool) -> String {
    if reveal { String::from_utf8_lossy(bytes).into_owned() } else { masked_text(bytes) }
}

fn headers(letter: &Letter, reveal: bool) -> impl Iterator<Item = (&str, Option<String>)> {
    letter.original.headers.iter().map(move |(n, v)| (n.as_str(), v.as_deref().map(|v| content(v, reveal))))
}

fn as_json(letter: &Letter, reveal: bool) -> Value {
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|b| content(b, reveal));
    json!({
        "partition": letter.partition,
        "offset": letter.offset,
        "at_ms": letter.at_ms,
        "reason": letter.reason,
        "message": letter.message,
        "source": letter.summary().source,
        "timestamp_ms": letter.timestamp_ms,
        "headers": headers(letter, reveal).collect::<Vec<_>>(),
        "key": optional(&letter.original.key),
        "value": optional(&letter.original.value),
        "value_omitted_bytes": letter.omitted,
        "masked": !reveal,
    })
}

fn as_text(letter: &Letter, reveal: bool) -> String {
    let summary = letter.summary();
    let time = |ms: Option<i64>| ms.map_or("none".to_owned(), readable_time);
    let mut text = format!(
        "dead letter {}/{}\n  set aside  {}\n  reason     {} ({})\n  from       {}, of {}\n",
        letter.partition,
        letter.offset,
        readable_time(letter.at_ms),
        letter.reason,
        letter.message,
        summary.source,
        time(letter.timestamp_ms)
    );
    for (name, value) in headers(letter, reveal) {
        text += &format!("  header     {name}: {}\n", value.unwrap_or_else(|| "(null)".into()));
    }
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or("(none)".to_owned(), |b| content(b, reveal));
    text += &format!("  key        {}\n", optional(&letter.original.key));
    match letter.omitted {
        Some(bytes) => text += &format!("  value      left out for its size: {bytes} bytes\n"),
        None => text += &format!("  value      {}\n", optional(&letter.original.value)),
    }
    text
}

fn redrive(wanted: &Wanted, how: &How) -> Result<Exit, Failure> {
    let config = wanted.source.load()?.config;
    let filter = wanted.filter()?;
    let mut letters = open(&config)?;
    let (to, partitions) = destination(&config.kafka, how)?;
    let watchdog = Watchdog::default();
    watchdog.start(|line| {
        eprintln!("card-update-worker: {line}; run the command again, nothing is sent twice");
        std::process::exit(Exit::Failed as i32);
    })?;
    // A dry run has no producer: that would end a redrive that runs.
    let start = || Sender::start(&config.kafka, &redrive_group(&config.kafka), &to, watchdog.slot("redrive"));
    let sender = (!how.dry_run).then(start).transpose()?;
    let from = (config.kafka.topics.dead_letters.clone(), letters.partitions());
    let mut redrive = Redrive::new(&config.kafka, sender, from, partitions);
    (redrive.edit, redrive.again) = (how.edit.clone(), how.again);
    redrive.places_by_key = disagreeing_key(&config.kafka)?.is_none();
    if !how.even_if_doubtful {
        redrive.certain_from_ms = now_ms() - notes_kept_ms(&config.kafka)?;
    }
    let foreign = read_letters(&mut letters, &filter, |letter| redrive.take(&letter).map(|()| true))?;
    redrive.flush()?;
    say_foreign(foreign);
    conclude(&redrive.done, &to, how, wanted.output)
}

/// Where letters go: live has no stale check, so that a mended old command would overwrite newer data there.
fn destination(kafka: &ClientSettings, how: &How) -> Result<(String, i32), Failure> {
    let to = how.to_topic.clone().unwrap_or_else(|| kafka.topics.backfill.clone());
    let found = TopicsClient::new(kafka)?.describe(&[to.as_str()])?.into_iter().flatten().next();
    let partitions = found.ok_or_else(|| Failure::usage(format!("there is no topic {to}")))?.partitions;
    if to == kafka.topics.commands {
        eprintln!("warning: commands sent to {to} are never stale: what they name overwrites newer accounts");
    } else if to != kafka.topics.backfill {
        eprintln!("warning: no worker of this configuration reads {to}");
    }
    Ok((to, partitions))
}

fn notes_kept_ms(kafka: &ClientSettings) -> Result<i64, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(TopicsClient::new(kafka)?.offsets_retention_ms());
    told.ok_or_else(|| Failure {
        exit: Exit::Failed,
        line: "the brokers do not say how long notes of what was sent are kept (offsets.retention.minutes): grant DescribeConfigs on \
               the brokers, or add --even-if-doubtful"
            .into(),
    })
}

fn conclude(done: &Redriven, to: &str, how: &How, output: Output) -> Result<Exit, Failure> {
    let place = |(partition, offset): &(i32, i64)| format!("{partition}/{offset}");
    let unedited: Vec<Value> =
        done.unedited.iter().map(|(p, o, why)| json!({ "at": place(&(*p, *o)), "why": why })).collect();
    let places = |of: &[(i32, i64)]| of.iter().map(place).collect::<Vec<_>>();
    let (omitted, doubtful, misplaced) = (places(&done.omitted), places(&done.doubtful), places(&done.misplaced));
    if output == Output::Json {
        let report = json!({
            "dry_run": how.dry_run, "to": to, "sent": done.sent, "sent_before": done.before,
            "value_omitted": omitted, "doubtful": doubtful, "misplaced": misplaced, "unedited": unedited,
        });
        println!("{report:#}");
    } else {
        let sent = if how.dry_run { "would be sent" } else { "sent" };
        println!("{} {sent} to {to}; {} sent before", done.sent, done.before);
        omitted.iter().for_each(|at| println!("{at} not sent: its value was left out for its size"));
        doubtful.iter().for_each(|at| {
            println!("{at} not sent: it is older than the notes of what was sent are kept; if nobody has, add --even-if-doubtful");
        });
        misplaced.iter().for_each(|at| println!("{at} not sent: its partition in {to} cannot be told"));
        done.unedited.iter().for_each(|(p, o, why)| println!("{p}/{o} not sent: {why}"));
    }
    let kept_back = ![&omitted, &doubtful, &misplaced].iter().all(|of| of.is_empty()) || !unedited.is_empty();
    Ok(if kept_back { Exit::Differs } else { Exit::Done })
}
