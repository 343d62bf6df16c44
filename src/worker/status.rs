//! What the process shows of itself: the state of each partition, read by probes, metrics and people.
//!
//! It must never hold anything that identifies a card or a request.

use crate::kafka::Input;
use crate::projection::ProjectionStats;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a partition is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartitionState {
    /// Its state is being restored; no command is decided.
    #[default]
    Restoring,
    /// It takes commands.
    Running,
    /// It is being given up.
    Draining,
    /// Another process has it; its state is kept warm here.
    Standby,
    /// It cannot go on; the process ends.
    Failed,
}

impl PartitionState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Restoring, Self::Running, Self::Draining, Self::Standby, Self::Failed];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restoring => "restoring",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Standby => "standby",
            Self::Failed => "failed",
        }
    }
}

/// One input of a partition as last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InputStatus {
    /// The next offset to be committed.
    pub next: i64,
    /// Up to where it was read, over whatever holds no record (transaction markers); `None` until that is known.
    pub read_to: Option<i64>,
    /// Records that were read and are not committed.
    pub waiting: u64,
    /// The timestamp of the oldest of them, milliseconds since the epoch.
    pub oldest_ms: Option<i64>,
    /// The log's end as last asked, for a reader of committed records.
    pub end: Option<i64>,
    /// Since when something has been waiting, as far as this process has seen it, milliseconds since the epoch.
    pub seen_waiting_ms: Option<i64>,
    /// Records a second that were committed lately.
    pub rate: f64,
}

impl InputStatus {
    /// Records that wait to be committed; exactly 0 when none does.
    pub fn lag_records(&self) -> u64 {
        let unread = self.end.zip(self.read_to).map_or(0, |(end, read_to)| (end - read_to).max(0)) as u64;
        unread + self.waiting
    }

    /// How long the oldest of them has been waiting, seconds. A backfilled record's own timestamp is not when it was put there.
    pub fn lag_seconds(&self, input: Input, now_ms: i64) -> f64 {
        if self.lag_records() == 0 {
            return 0.0;
        }
        let since = match input {
            Input::Live => self.oldest_ms.or(self.seen_waiting_ms),
            Input::Backfill => self.seen_waiting_ms,
        };
        since.map_or(0.0, |since| (now_ms - since).max(0) as f64 / 1000.0)
    }
}

/// A partition as last seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionStatus {
    /// What it is doing.
    pub state: PartitionState,
    /// Records that its restore still has to read.
    pub restore_remaining: u64,
    /// Records that its restore had to read when it began.
    pub restore_total: u64,
    /// When it last made progress (a commit, a step of its restore), milliseconds since the epoch.
    pub progress_ms: i64,
    /// When its last checkpoint was complete, or its restore if there was none yet, milliseconds since the epoch.
    pub checkpoint_ms: Option<i64>,
    /// Whether it takes no commands until the disk has followed.
    pub waits_for_disk: bool,
    /// Its inputs, by [`Input`].
    pub inputs: [InputStatus; 2],
    /// Up to where a standby has read the cards and completions logs.
    pub standby_read_to: [i64; 2],
    /// Records that a standby is behind its logs.
    pub standby_lag: u64,
    /// Sizes of its projection.
    pub projection: ProjectionStats,
}

/// The partitions that are here.
pub type Partitions = BTreeMap<i32, PartitionStatus>;

/// What the parts of a process report.
#[derive(Debug, Default)]
pub struct Status {
    partitions: Mutex<Partitions>,
    assigned_once: AtomicBool,
    ending: AtomicBool,
    heard_ms: AtomicI64,
    disk_failure: Mutex<Option<String>>,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, Partitions> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Changes what is known of a partition.
    pub fn update(&self, partition: i32, change: impl FnOnce(&mut PartitionStatus)) {
        change(self.lock().entry(partition).or_default());
    }
    /// Changes what is known of a partition, unless it has gone: what comes late must not make it look as if it were here.
    pub fn amend(&self, partition: i32, change: impl FnOnce(&mut PartitionStatus)) {
        if let Some(status) = self.lock().get_mut(&partition) {
            change(status);
        }
    }
    /// A partition of another process is kept warm here, unless it is this one's by now.
    pub fn standby(&self, partition: i32) {
        let standby = PartitionStatus { state: PartitionState::Standby, ..PartitionStatus::default() };
        self.lock().entry(partition).or_insert(standby);
    }
    /// A partition is no longer kept warm here.
    pub fn no_standby(&self, partition: i32) {
        self.lock().retain(|p, status| *p != partition || status.state != PartitionState::Standby);
    }
    /// Changes what is known of partitions that are here.
    pub fn update_here(&self, change: impl FnOnce(&mut Partitions)) {
        change(&mut self.lock());
    }
    /// The partition is no longer here.
    pub fn remove(&self, partition: i32) {
        self.lock().remove(&partition);
    }
    /// All partitions that are here.
    pub fn partitions(&self) -> Partitions {
        self.lock().clone()
    }
    /// An assignment has come, possibly of nothing.
    pub fn assigned(&self) {
        self.assigned_once.store(true, Ordering::Relaxed);
    }
    /// Partitions were taken away because this process was out of the group: until it is in again, it is not ready.
    pub fn lost(&self) {
        self.assigned_once.store(false, Ordering::Relaxed);
    }
    /// Whether the group has given this process any answer yet.
    pub fn is_assigned(&self) -> bool {
        self.assigned_once.load(Ordering::Relaxed)
    }
    /// The process ends in order.
    pub fn ends(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }
    /// Whether the process is ending.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
    /// The broker was heard.
    pub fn heard(&self, now_ms: i64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }
    /// When the broker was last heard, milliseconds since the epoch; 0 before the first time.
    pub fn heard_ms(&self) -> i64 {
        self.heard_ms.load(Ordering::Relaxed)
    }
    /// The state directory cannot be used, or can again.
    pub fn disk(&self, failure: Option<String>) {
        *self.disk_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
    /// Why the state directory cannot be used, if so.
    pub fn disk_failure(&self) -> Option<String> {
        self.disk_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Whether every partition that is here takes commands, and the group has said which these are.
    pub fn ready(&self) -> bool {
        let settled = |s: &PartitionStatus| matches!(s.state, PartitionState::Running | PartitionState::Standby);
        self.is_assigned() && self.lock().values().all(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_brings_no_partition_back() {
        let status = Status::default();
        status.assigned();
        status.amend(1, |s| s.restore_remaining = 3);
        assert!(status.ready() && status.partitions().is_empty());
        status.update(1, |s| s.state = PartitionState::Restoring);
        status.standby(1);
        status.no_standby(1);
        assert!(!status.ready(), "it is this process's, and being restored");
        status.standby(2);
        status.no_standby(2);
        assert_eq!(status.partitions().len(), 1);
    }

    #[test]
    fn lag_is_0_exactly_when_nothing_waits_and_markers_do_not_count() {
        let mut input =
            InputStatus { next: 7, read_to: Some(7), end: Some(9), seen_waiting_ms: Some(1000), ..Default::default() };
        assert_eq!((input.lag_records(), input.lag_seconds(Input::Live, 3000)), (2, 2.0));
        // What lay between was a marker: the reader has met the end.
        input.read_to = Some(9);
        assert_eq!((input.lag_records(), input.lag_seconds(Input::Live, 3000)), (0, 0.0));
        // Read, not committed: it waits by its own timestamp, but for a backfill.
        (input.waiting, input.oldest_ms) = (1, Some(2500));
        assert_eq!((input.lag_records(), input.lag_seconds(Input::Live, 3000)), (1, 0.5));
        assert_eq!(input.lag_seconds(Input::Backfill, 3000), 2.0);
        // Records that came after the end was asked for.
        (input.read_to, input.waiting) = (Some(12), 0);
        assert_eq!(input.lag_records(), 0);
        // Before a restore has found out where it goes on, nothing is said.
        input.read_to = None;
        assert_eq!(input.lag_records(), 0);
    }
}
