//! What became of a replay's commands, told by the topics alone: first the workers' offsets say that all are processed, then
//! completions and dead letters are read.

use super::Failed;
use super::letters::Letter;
use super::notes::{Baseline, Progress};
use super::own::Own;
use super::reading::{Spans, read_spans};
use super::tally::ReplayTally;
use super::workers::Workers;
use crate::kafka::{Changelog, ClientSettings, History, Reader as _, Record, TopicsClient};
use crate::wire::{SOURCE, Source, names};
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pause between two looks at the workers.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until all are processed, then counts their answers; `None` when it is told to stop first. `see` is told how many are
/// processed. `silent` says that the workers leave some without an answer, by their configuration.
pub fn wait_for_answers(
    settings: &ClientSettings,
    workers: &mut Workers,
    (progress, own, silent): (&Progress, &Own, bool),
    stop: &AtomicBool,
    see: &mut dyn FnMut(u64),
) -> Result<Option<ReplayTally>, Failed> {
    workers.reset_patience();
    loop {
        let processed = workers.processed(own)?;
        see(processed);
        if processed >= own.count() {
            break;
        }
        if stop.load(Ordering::Acquire) {
            return Ok(None);
        }
        workers.check_patience()?;
        std::thread::park_timeout(PAUSE);
    }
    let mut tally = count(settings, workers, progress, own)?;
    let missing = own.count().saturating_sub(tally.answered());
    (tally.suppressed, tally.untold) = if silent { (missing, 0) } else { (0, missing) };
    // Their places were trimmed since an earlier run sent them.
    tally.untold += progress.sent().saturating_sub(own.count());
    Ok(Some(tally))
}

/// From the baselines to the true ends (read_uncommitted): the last stable offset can lag behind an answer whose input offset
/// is committed.
fn spans(
    workers: &mut Workers,
    log: Changelog,
    progress: &Progress,
    from: fn(&Baseline) -> i64,
) -> Result<Spans, Failed> {
    let mut spans = Spans::new();
    for (partition, baseline) in (0..).zip(&progress.baselines) {
        let (start, end) = workers.reader().bounds(log, partition)?;
        spans.insert(partition, (from(baseline).max(start), end));
    }
    Ok(spans)
}

fn count(
    settings: &ClientSettings,
    workers: &mut Workers,
    progress: &Progress,
    own: &Own,
) -> Result<ReplayTally, Failed> {
    let topics = &settings.topics;
    let mut tally = ReplayTally::default();
    let mut unreadable = None;
    let answers = spans(workers, Changelog::Completions, progress, |b| b.completions)?;
    read_spans(&mut open(settings, &topics.completions)?, &answers, |record| {
        if is_own(&record, &topics.backfill, own) && !count_completion(&record, &mut tally) {
            unreadable = unreadable.or(Some((record.partition, record.offset)));
        }
        true
    })?;
    if let Some((partition, offset)) = unreadable {
        return Err(Failed::Stop(format!(
            "{} partition {partition} offset {offset} is no completion: someone else writes there",
            topics.completions
        )));
    }
    let dead = spans(workers, Changelog::DeadLetters, progress, |b| b.dead_letters)?;
    read_spans(&mut open(settings, &topics.dead_letters)?, &dead, |record| {
        if let Some(letter) = Letter::read(&record)
            && letter.topic == topics.backfill
            && own.has(letter.source_partition, letter.source_offset)
        {
            tally.dead_letter(&letter.reason);
        }
        true
    })?;
    Ok(tally)
}

fn open(settings: &ClientSettings, topic: &str) -> Result<History, Failed> {
    History::open(settings, topic)?.ok_or_else(|| Failed::Misuse(format!("there is no topic {topic}")))
}

fn is_own(record: &Record, backfill: &str, own: &Own) -> bool {
    let source = record.headers().find(|(name, _)| *name == SOURCE).and_then(|(_, value)| Source::parse(value?));
    source.is_some_and(|s| s.topic == backfill && own.has(s.partition, s.offset))
}

#[derive(Deserialize)]
struct Completion<'c> {
    #[serde(borrow)]
    error: Option<CompletionError<'c>>,
}

#[derive(Deserialize)]
struct CompletionError<'c> {
    #[serde(borrow)]
    code: Cow<'c, str>,
}

/// `false` when it is not readable.
fn count_completion(record: &Record, tally: &mut ReplayTally) -> bool {
    let Ok(completion) = serde_json::from_slice::<Completion<'_>>(record.value().unwrap_or_default()) else {
        return false;
    };
    let replayed = record.headers().any(|(name, _)| name == names::IDEMPOTENT_REPLAYED);
    tally.completion(replayed, completion.error.as_ref().map(|e| &*e.code));
    true
}

/// Deletes from the backfill topic what its workers have processed; its retention keeps everything else. Gives the number of
/// offsets deleted.
pub async fn trim_processed(
    client: &TopicsClient,
    settings: &ClientSettings,
    workers: &mut Workers,
) -> Result<u64, Failed> {
    let topic = &settings.topics.backfill;
    let history = open(settings, topic)?;
    let (mut before, mut deleted) = (Vec::new(), 0);
    for (partition, committed) in workers.committed()? {
        let (start, _) = history.bounds(*partition)?;
        if *committed > start {
            before.push((*partition, *committed));
            deleted += (committed - start) as u64;
        }
    }
    client.trim(topic, &before).await?;
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::{Body, MemoryRecord};

    fn record(source: &str, value: &str, more: &[&str]) -> Record {
        let mut headers = vec![("source".to_owned(), Some(source.as_bytes().to_vec()))];
        headers.extend(more.iter().map(|name| ((*name).to_owned(), Some(b"true".to_vec()))));
        let memory = MemoryRecord { value: Some(value.as_bytes().to_vec()), headers, ..MemoryRecord::default() };
        Record { partition: 0, offset: 0, body: Body::Memory(Box::new(memory)) }
    }

    #[test]
    fn only_answers_to_the_replays_own_commands_are_its() {
        let mut own = Own::default();
        own.add(3, 7);
        for (source, is) in [("b/3/7", true), ("b/3/8", false), ("b/2/7", false), ("c/3/7", false), ("x", false)] {
            assert_eq!(is_own(&record(source, "{}", &[]), "b", &own), is, "{source}");
        }
    }

    #[test]
    fn completions_count_by_mark_and_code() {
        let mut tally = ReplayTally::default();
        let error = r#"{"status":"error","error":{"code":"stale_command","message":"m","path":"/accounts"}}"#;
        assert!(count_completion(&record("b/0/0", r#"{"status":"ok"}"#, &[]), &mut tally));
        assert!(count_completion(&record("b/0/0", r#"{"status":"ok"}"#, &["idempotent-replayed"]), &mut tally));
        assert!(count_completion(&record("b/0/0", error, &[]), &mut tally));
        assert!(!count_completion(&record("b/0/0", "no", &[]), &mut tally));
        assert_eq!((tally.applied, tally.replayed, tally.stale, tally.answered()), (1, 1, 1, 3));
    }
}
