//! A partition in a loop's hands: being restored, or running.

use super::leases::Held;
use crate::kafka::InputOffsets;
use crate::projection::{Positions, Projection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tells a restore that its partition has moved on.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The restore is no longer wanted.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }
    /// Whether it is no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A partition that takes commands.
pub struct Running {
    /// The local state.
    pub projection: Projection,
    /// The right to write its tree.
    pub held: Held,
    /// The offsets that are known to be committed.
    pub committed: InputOffsets,
    /// The offsets from which it reads on.
    pub next: InputOffsets,
    /// Whether both offsets must be committed soon, with or without a record.
    pub commit_due: bool,
    /// When the backfill offset was last committed, milliseconds since the epoch.
    pub backfill_committed_ms: i64,
    /// Whether the ends for a round were asked for.
    pub ends_requested: bool,
    /// The ends that came, until a commit has proven that the partition was still this member's when they were asked for.
    pub ends: Option<Positions>,
    /// When the round under way began.
    pub round_began: Option<Instant>,
    /// When the last round ended or failed, milliseconds since the epoch.
    pub last_round_ms: i64,
    /// Whether the last round failed.
    pub round_failed: bool,
    /// When the tail was last looked at, milliseconds since the epoch.
    pub looked_ms: i64,
    /// Records that it had then.
    pub tail_seen: u64,
}

/// What a loop does with a partition.
pub enum Partition {
    /// Its restore is under way elsewhere.
    Restoring(Cancel),
    /// It takes commands.
    Running(Box<Running>),
}

impl Partition {
    /// The running partition, if it is.
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::Restoring(_) => None,
        }
    }
    /// The running partition, if it is.
    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::Restoring(_) => None,
        }
    }
}
