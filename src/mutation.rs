//! Deliberate protocol bugs, to show that the simulation sees them. It must never be on in what is deployed: without the feature
//! `simulation` (and outside tests) [`on`] is the constant `false`.

/// A bug; a run has at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A batch is applied when it is staged.
    ApplyBeforeCommit,
    /// An aborted batch is applied as if it were committed.
    TakeAbortForCommit,
    /// An unknown outcome is taken for a commit.
    GuessCommitted,
    /// An unknown outcome is taken for an abort.
    GuessNotCommitted,
    /// A fenced producer runs its batch again without asking what became of it.
    TakeFencedForAborted,
    /// Offsets as staged are taken for a commit, whoever has committed them.
    TrustOffsetsAlone,
    /// A restore takes committed offsets while a transaction holds newer ones.
    SkipStableWait,
    /// A restore ends where committed records can be read now, not at the true end.
    EndFromReadCommitted,
    /// A restore ends when the cards are read, before the completions are.
    RestoreCardsOnly,
    /// A restore begins one record behind the checkpoint's position.
    RestoreFromNextRecord,
    /// A checkpoint notes the log's end as of the end of its round.
    NotePositionAtRoundEnd,
    /// A round begins at ends that nobody has proven to be one's own.
    BeginRoundUnproven,
    /// The last round of partitions that go begins without that proof.
    LastRoundUnproven,
    /// The meta record is written before the blocks that it names.
    MetaBeforeBlocks,
    /// A round leaves out a dirty block.
    SkipDirtyBlock,
    /// A full block overtakes a write that waits, of the same block when it was not full.
    SpillPastWaiting,
    /// A write that failed is confirmed.
    ConfirmFailedWrites,
    /// A checkpoint of other topics is used.
    IgnoreIdentity,
    /// A checkpoint beyond the logs' ends is used.
    IgnoreLogsEnd,
    /// The dedup lookup misses the batch's own requests.
    BatchBlindRequests,
    /// The patch misses the batch's own changes.
    BatchBlindCards,
    /// The offset of the last record is committed, not the next one.
    CommitLastOffset,
    /// The backfill's offset is left out of the transaction.
    OmitBackfillOffset,
    /// A revoked partition is given up while its batch is still to be committed.
    GiveUpBeforeTransaction,
    /// What waits of a partition stays when the partition goes.
    KeepWaitingRecords,
    /// Requests are remembered beyond the window.
    ForgetNothing,
    /// Decision time follows a clock that goes back.
    TimeGoesBack,
    /// A backfilled command is applied like a live one.
    NoStaleCheck,
}

/// Whether the code of this thread has a bug.
#[cfg(not(any(test, feature = "simulation")))]
pub const fn on(_: Mutation) -> bool {
    false
}

#[cfg(any(test, feature = "simulation"))]
pub use switch::{on, set};

/// Switches bugs on and off, for one thread.
#[cfg(any(test, feature = "simulation"))]
mod switch {
    use super::Mutation;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether the code of this thread has a bug.
    pub fn on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }
    /// The bug that the code of this thread has from now on.
    pub fn set(mutation: Option<Mutation>) {
        ON.set(mutation);
    }
    impl Mutation {
        /// All of them.
        pub const ALL: [Self; 28] = [
            Self::ApplyBeforeCommit,
            Self::TakeAbortForCommit,
            Self::GuessCommitted,
            Self::GuessNotCommitted,
            Self::TakeFencedForAborted,
            Self::TrustOffsetsAlone,
            Self::SkipStableWait,
            Self::EndFromReadCommitted,
            Self::RestoreCardsOnly,
            Self::RestoreFromNextRecord,
            Self::NotePositionAtRoundEnd,
            Self::BeginRoundUnproven,
            Self::LastRoundUnproven,
            Self::MetaBeforeBlocks,
            Self::SkipDirtyBlock,
            Self::SpillPastWaiting,
            Self::ConfirmFailedWrites,
            Self::IgnoreIdentity,
            Self::IgnoreLogsEnd,
            Self::BatchBlindRequests,
            Self::BatchBlindCards,
            Self::CommitLastOffset,
            Self::OmitBackfillOffset,
            Self::GiveUpBeforeTransaction,
            Self::KeepWaitingRecords,
            Self::ForgetNothing,
            Self::TimeGoesBack,
            Self::NoStaleCheck,
        ];
    }
}
