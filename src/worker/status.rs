//! What the process shows of itself: the state of each partition and loop, read by probes, metrics and people.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// A partition as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// What it is doing.
    pub state: PartitionState,
    /// Records that its restore (or standby) still has to read.
    pub restore_remaining: u64,
    /// When it last made progress, milliseconds since the epoch.
    pub progress_ms: i64,
    /// When its last checkpoint was complete, milliseconds since the epoch; `None` before the first.
    pub checkpoint_ms: Option<i64>,
    /// Next offset of the commands topic.
    pub live_next: i64,
    /// Next offset of the backfill topic.
    pub backfill_next: i64,
    /// Sizes of its projection.
    pub projection: crate::projection::ProjectionStats,
}

/// What the parts of a process report.
#[derive(Debug, Default)]
pub struct Status {
    partitions: Mutex<BTreeMap<i32, PartitionStatus>>,
    /// Whether the group has given this process any answer yet.
    assigned_once: AtomicU64,
    heard_ms: AtomicI64,
}

impl Status {
    /// Changes what is known of a partition.
    pub fn update(&self, partition: i32, change: impl FnOnce(&mut PartitionStatus)) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        change(partitions.entry(partition).or_default());
    }
    /// The partition is no longer here.
    pub fn remove(&self, partition: i32) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }
    /// All partitions that are here.
    pub fn partitions(&self) -> BTreeMap<i32, PartitionStatus> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// An assignment has come, possibly of nothing.
    pub fn assigned(&self) {
        self.assigned_once.store(1, Ordering::Relaxed);
    }
    /// The broker was heard.
    pub fn heard(&self, now_ms: i64) {
        self.heard_ms.fetch_max(now_ms, Ordering::Relaxed);
    }
    /// When the broker was last heard, milliseconds since the epoch.
    pub fn heard_ms(&self) -> i64 {
        self.heard_ms.load(Ordering::Relaxed)
    }
    /// Whether commands can be taken: a first assignment has come, and every partition here is restored.
    pub fn ready(&self) -> bool {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = |s: &PartitionStatus| matches!(s.state, PartitionState::Running | PartitionState::Standby);
        self.assigned_once.load(Ordering::Relaxed) == 1 && partitions.values().all(settled)
    }
}
