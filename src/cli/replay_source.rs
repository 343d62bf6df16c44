//! What `replay` is told, made into what the backfill tools take: the id, the source, its range, the cards.

use super::replay::ReplayArgs;
use super::{ConfigSource, Failure};
use crate::backfill::{Bound, Cards, Lines, Origin, Range, time_ms};
use crate::config::Config;
use crate::domain::CardId;
use std::fs::File;
use std::path::Path;

/// Longest list of cards.
const MAX_CARDS_BYTES: u64 = 1 << 30;

/// The id names a group and a transaction.
pub fn id_of(args: &ReplayArgs) -> Result<String, Failure> {
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

pub fn origin(args: &ReplayArgs, config: &Config) -> Result<Origin, Failure> {
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

pub fn cards(args: &ReplayArgs) -> Result<Cards, Failure> {
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
    if named.is_empty() {
        return Err(Failure::usage("--cards-file: it names no card"));
    }
    let parse = |(index, text): (usize, &String)| {
        CardId::parse(text).ok_or_else(|| Failure::usage(format!("card {} of those named is no UUID", index + 1)))
    };
    named.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Some)
}
