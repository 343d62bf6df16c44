//! What of the configuration the loop and its restores work by.

use crate::domain::{OnDuplicate, UtcOffset};
use crate::wire::DecodeRules;
use std::time::Duration;

/// Which backfilled commands get a completion (`backfill.completions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillCompletions {
    /// All.
    All,
    /// Stale and replayed ones are suppressed and counted.
    Applied,
}

/// What an input trimmed past the committed offset demands (`ingest.on_trimmed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTrimmed {
    /// Stop, with the range that is gone.
    Fail,
    /// Go on from the log's start, and say so.
    Skip,
}

/// The rules of one process.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How commands are decoded.
    pub decode: DecodeRules,
    /// What a repeated command gets.
    pub on_duplicate: OnDuplicate,
    /// How long requests are remembered, milliseconds.
    pub window_ms: i64,
    /// The offset that `dt` is shown with.
    pub utc_offset: UtcOffset,
    /// Which backfilled commands get a completion.
    pub backfill_completions: BackfillCompletions,
    /// Backfilled commands a second and process; 0 for no limit of its own.
    pub backfill_max_rate: u64,
    /// Most records of a batch.
    pub batch_max_records: usize,
    /// Most bytes of keys and values of a batch.
    pub batch_max_bytes: usize,
    /// Longest time that a batch is filled while more is waiting.
    pub batch_max_delay: Duration,
    /// How long the broker takes to write a transaction's markers, roughly.
    pub marker_time: Duration,
    /// Time after which a round is due if it pays.
    pub checkpoint_interval: Duration,
    /// Records to replay beyond which a round is due.
    pub checkpoint_max_tail: u64,
    /// Longest time that the end of a partition may take.
    pub drain_timeout: Duration,
    /// What a trimmed input demands.
    pub on_trimmed: OnTrimmed,
    /// Longest time that a restore may make no progress.
    pub restore_stall_timeout: Duration,
    /// The name of the commands topic, as `source` headers carry it.
    pub commands_topic: String,
    /// The name of the backfill topic.
    pub backfill_topic: String,
}
