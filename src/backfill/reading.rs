//! Reading a topic from somewhere to where it ends now.

use super::Failed;
use crate::kafka::{History, HistoryStep, Record};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Records taken at once.
const BATCH: usize = 10_000;
/// How long one wait for records is.
const WAIT: Duration = Duration::from_millis(100);
/// How long the reading may bring nothing, not even an end.
const STALL: Duration = Duration::from_secs(60);

/// Partitions, with the offsets to read from and up to.
pub type Spans = BTreeMap<i32, (i64, i64)>;

/// Where partitions can be read from, and to: from these offsets (or their logs' starts, where those are later) to what is
/// committed now.
pub fn stable_spans(history: &History, from: &BTreeMap<i32, i64>) -> Result<Spans, Failed> {
    let mut spans = Spans::new();
    for (partition, from) in from {
        let (start, end) = history.bounds(*partition)?;
        spans.insert(*partition, (*from.max(&start), end));
    }
    Ok(spans)
}

/// Reads partitions, committed records only; an end that lies behind an open transaction is waited for. `each` says whether it
/// wants more of the record's partition.
pub fn read_spans(history: &mut History, spans: &Spans, mut each: impl FnMut(Record) -> bool) -> Result<(), Failed> {
    let mut open: BTreeMap<i32, i64> = BTreeMap::new();
    for (partition, (from, end)) in spans.iter().filter(|(_, (from, end))| from < end) {
        history.start(*partition, *from)?;
        open.insert(*partition, *end);
    }
    let mut heard = Instant::now();
    while !open.is_empty() && heard.elapsed() < STALL {
        let mut steps = Vec::new();
        let read = history.read(WAIT, BATCH, |step| steps.push(step));
        let some = !steps.is_empty();
        for step in steps {
            let (partition, more) = match step {
                HistoryStep::End(partition, offset) => {
                    (partition, open.get(&partition).is_some_and(|end| offset < *end))
                }
                HistoryStep::Record(record) => {
                    let (partition, offset) = (record.partition, record.offset);
                    let Some(end) = open.get(&partition) else { continue };
                    (partition, offset < *end && each(record) && offset + 1 < *end)
                }
            };
            if !more && open.remove(&partition).is_some() {
                history.stop(partition);
            }
        }
        if some {
            // Only now: whoever takes the records may take its time.
            heard = Instant::now();
        }
        read?;
    }
    match open.keys().next() {
        None => Ok(()),
        Some(partition) => {
            Err(Failed::Later(format!("{} partition {partition} cannot be read to its end", history.topic())))
        }
    }
}
