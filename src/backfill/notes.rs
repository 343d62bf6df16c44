//! How far a replay is, as it stands in Kafka: committed with the records themselves, in one transaction, as the metadata of
//! a group's offset. Pure: text to positions and back.
//!
//! One note a partition of the backfill topic; each carries the positions of some partitions of the source, so that a note
//! stays within the broker's `offset.metadata.max.bytes` (4096 by default).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The broker's default limit on a note.
pub const MAX_NOTE_BYTES: usize = 4096;

/// How far the reading of one source partition (or file, as partition 0) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Where it began.
    pub from: i64,
    /// What comes next: an offset, or the number of lines that are done.
    pub next: i64,
    /// Where it ends; `None` for a file, whose end is met.
    pub to: Option<i64>,
}

/// Where answers to a replay can begin, by partition: the ends of the outputs when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The backfill topic's end.
    pub backfill: i64,
    /// The completions topic's end.
    pub completions: i64,
    /// The dead-letter topic's end.
    pub dead_letters: i64,
}

/// Everything that is known of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A hash of what was asked: an id must not be gone on with by another command line.
    pub plan: String,
    /// By source partition.
    pub lanes: BTreeMap<i32, Lane>,
    /// By partition of the backfill topic.
    pub baselines: Vec<Baseline>,
    /// Commands sent, by partition of the backfill topic.
    pub sent: Vec<u64>,
    /// A hash over the lines of a file that are done.
    pub digest: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    plan: String,
    base: Baseline,
    sent: u64,
    lanes: Vec<(i32, Lane)>,
    digest: Option<u64>,
}

impl Progress {
    /// Commands sent.
    pub fn sent(&self) -> u64 {
        self.sent.iter().sum()
    }

    /// The notes, by partition of the backfill topic.
    pub fn notes(&self) -> Vec<String> {
        let count = self.baselines.len() as i32;
        let note = |(partition, base): (i32, &Baseline)| {
            let lanes = self.lanes.iter().filter(|(lane, _)| **lane % count == partition);
            let sent = self.sent.get(partition as usize).copied().unwrap_or(0);
            let lanes = lanes.map(|(p, l)| (*p, *l)).collect();
            let note = Note { plan: self.plan.clone(), base: *base, sent, lanes, digest: self.digest };
            // Strings and numbers always have a text.
            serde_json::to_string(&note).unwrap_or_default()
        };
        (0..).zip(&self.baselines).map(note).collect()
    }

    /// Reads notes, in the order of the partitions: `None` when there is none, an error when one is not readable or missing.
    pub fn read(notes: &[Option<String>]) -> Result<Option<Self>, String> {
        if notes.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut progress = Self::default();
        for (partition, note) in notes.iter().enumerate() {
            let text = note.as_deref().ok_or_else(|| format!("the note of partition {partition} is missing"))?;
            let note: Note =
                serde_json::from_str(text).map_err(|_| format!("the note of partition {partition} is no replay's"))?;
            progress.plan = note.plan;
            progress.baselines.push(note.base);
            progress.sent.push(note.sent);
            progress.digest = note.digest;
            progress.lanes.extend(note.lanes);
        }
        Ok(Some(progress))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(lanes: i32, partitions: usize) -> Progress {
        Progress {
            plan: "0123456789abcdef".into(),
            lanes: (0..lanes).map(|p| (p, Lane { from: 1, next: i64::MAX - 1, to: Some(i64::MAX) })).collect(),
            baselines: vec![Baseline { backfill: 1, completions: 2, dead_letters: i64::MAX }; partitions],
            sent: vec![7; partitions],
            digest: Some(u64::MAX),
        }
    }

    #[test]
    fn notes_survive_the_round_trip_whatever_the_partition_counts() {
        for (lanes, partitions) in [(1, 8), (8, 8), (20, 3), (0, 1)] {
            let before = progress(lanes, partitions);
            let notes: Vec<_> = before.notes().into_iter().map(Some).collect();
            assert_eq!(notes.len(), partitions);
            assert_eq!(Progress::read(&notes), Ok(Some(before)));
        }
    }

    #[test]
    fn thirty_source_partitions_a_partition_stay_within_the_brokers_limit() {
        assert!(progress(30 * 8, 8).notes().iter().all(|n| n.len() <= MAX_NOTE_BYTES));
    }

    #[test]
    fn no_notes_are_a_first_start_and_some_of_them_none_to_go_on_from() {
        assert_eq!(Progress::read(&[None, None]), Ok(None));
        let mut notes: Vec<_> = progress(2, 2).notes().into_iter().map(Some).collect();
        notes[1] = None;
        assert!(Progress::read(&notes).is_err());
        assert!(Progress::read(&[Some("{}".into())]).is_err());
    }
}
