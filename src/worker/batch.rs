//! One type per hop: records → [`StagedBatch`] → [`CommittedBatch`] → the projection.
//!
//! A wrong order does not compile: only a staged batch can be committed, only the proof of a commit makes a committed one,
//! and only a committed one can be applied (INV-1).

use super::tally::Tally;
use crate::domain::{CardId, Remembered, RequestId, StoredAccount};
use crate::kafka::{Committed, InputOffsets};
use crate::projection::Projection;
use std::collections::BTreeMap;
use std::ops::Range;

/// A card that a batch changes: its accounts are a range of its partition's.
#[derive(Debug)]
pub(super) struct ChangedCard {
    pub(super) card_id: CardId,
    pub(super) accounts: Range<usize>,
    /// The last record that changed it.
    pub(super) input: usize,
}

/// What a partition's part of a batch changes once it is committed.
#[derive(Debug, Default)]
pub struct PartitionChanges {
    pub(super) partition: i32,
    pub(super) next: InputOffsets,
    /// In the order in which they were first changed.
    pub(super) cards: Vec<ChangedCard>,
    /// Of all its cards; a card that was changed again has left its former ones behind.
    pub(super) accounts: Vec<StoredAccount>,
    pub(super) requests: Vec<(RequestId, Remembered)>,
    /// Completions that were staged, remembered or not.
    pub(super) answers: u64,
    pub(super) decided_ms: i64,
}

impl PartitionChanges {
    /// No changes yet of a partition that decides at `decided_ms`, in the memory of these.
    pub(super) fn anew(mut self, partition: i32, decided_ms: i64) -> Self {
        self.cards.clear();
        self.accounts.clear();
        self.requests.clear();
        let (cards, accounts, requests) = (self.cards, self.accounts, self.requests);
        Self { partition, decided_ms, cards, accounts, requests, ..Self::default() }
    }
}

/// Decided and staged, not yet committed.
#[derive(Debug, Default)]
pub struct StagedBatch {
    pub(super) changes: Vec<PartitionChanges>,
    pub(super) tally: Tally,
    /// Which of the waiting records are in it; the others wait for the next one.
    pub(super) taken: Vec<bool>,
}

impl StagedBatch {
    /// The next offsets that its transaction commits.
    pub fn offsets(&self) -> Vec<(i32, InputOffsets)> {
        self.changes.iter().map(|c| (c.partition, c.next)).collect()
    }
    /// Whether the waiting record at `index` is in it.
    pub fn takes(&self, index: usize) -> bool {
        self.taken.get(index).is_some_and(|t| *t)
    }
    /// The cards that it changes, with their partitions.
    pub(super) fn changed_cards(&self) -> impl Iterator<Item = (i32, &CardId)> {
        self.changes.iter().flat_map(|change| change.cards.iter().map(|card| (change.partition, &card.card_id)))
    }
    /// Commits a partition's offsets too, though no record of the batch moved them.
    pub(super) fn commit_offsets(&mut self, partition: i32, next: InputOffsets) {
        let at = self.changes.iter().position(|c| c.partition == partition);
        let at = at.unwrap_or_else(|| {
            self.changes.push(PartitionChanges { partition, decided_ms: i64::MIN, ..PartitionChanges::default() });
            self.changes.len() - 1
        });
        let change = &mut self.changes[at].next;
        change.live = change.live.or(next.live);
        change.backfill = change.backfill.or(next.backfill);
    }
    /// It was committed.
    pub fn committed(self, _proof: Committed) -> CommittedBatch {
        CommittedBatch { staged: self }
    }
}

/// A batch that Kafka has committed.
#[derive(Debug)]
pub struct CommittedBatch {
    staged: StagedBatch,
}

impl CommittedBatch {
    /// The changes, for their memory: what they say is done with.
    pub(super) fn into_changes(self) -> Vec<PartitionChanges> {
        self.staged.changes
    }
    /// What became of its commands.
    pub const fn tally(&self) -> &Tally {
        &self.staged.tally
    }
    /// Whether the waiting record at `index` was in it.
    pub fn took(&self, index: usize) -> bool {
        self.staged.takes(index)
    }
    /// The offsets that it committed.
    pub fn offsets(&self) -> Vec<(i32, InputOffsets)> {
        self.staged.offsets()
    }
    /// Applies it to the projections.
    pub(super) fn apply_to(&self, projections: &mut BTreeMap<i32, &mut Projection>) {
        self.staged.apply_to(projections);
    }
}

impl StagedBatch {
    /// What [`CommittedBatch::apply_to`] does; nothing else may call it (INV-1), save the bug that shows why.
    pub(super) fn apply_to(&self, projections: &mut BTreeMap<i32, &mut Projection>) {
        for change in &self.changes {
            let Some(projection) = projections.get_mut(&change.partition) else { continue };
            for card in &change.cards {
                projection.put_card(&card.card_id, &change.accounts[card.accounts.clone()]);
            }
            for (id, remembered) in &change.requests {
                projection.put_request(id, *remembered);
            }
            let others = change.answers.saturating_sub(change.requests.len() as u64);
            // Time is what completions say: a batch of dead letters leaves none that a restore would see.
            let decided_ms = if change.answers > 0 { change.decided_ms } else { i64::MIN };
            projection.put_answers(others, decided_ms);
        }
    }
}
