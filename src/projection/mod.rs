//! The local projection: cards and remembered requests in memory, and sled as their packed checkpoint.
//!
//! The only place that knows sled. It must never hold what Kafka has not committed (INV-1), never make a decision wait for
//! the disk but to verify a dedup hit, and never trust a store that is in doubt: it is discarded and restored.

mod block;
mod cards;
mod checkpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod meta;
mod packed;
mod requests;
mod sharded;
mod sizes;
mod state_dir;
mod store;
mod writer;

pub use checkpoint::{Step, StepBytes};
pub use meta::{LogIdentity, Positions};
#[cfg(any(test, feature = "simulation"))]
pub use sizes::make_small;
pub use state_dir::{StateDir, StateDirError, StateFacts};
pub use store::{BlockCache, NoStore, SledStore, Store, StoreError, Tree};
pub use writer::{Lease, Writer, WriterStats, Writing};

use crate::domain::{CardId, Remembered, RequestId, StoredAccount};
use crate::mutation::{self, Mutation};
use crate::wire::FirstCompletion;
use block::{BlockId, Kind};
use cards::Cards;
use checkpoint::{CardBlocks, NO_BLOCKS, Round};
use crossbeam_channel::{Receiver, Sender};
use meta::Meta;
use requests::Requests;
use sizes::sizes;
use std::collections::VecDeque;
use writer::{Ack, Write};

/// The fold of a partition's cards and completions logs.
pub struct Projection {
    cards: Cards,
    requests: Requests,
    tree: Tree,
    identity: LogIdentity,
    positions: Positions,
    /// The latest decision time: decisions never go back behind it.
    decided_ms: i64,
    generation: u32,
    on_disk: CardBlocks,
    round: Option<Round>,
    unsent: Option<Write>,
    acks: (Sender<Ack>, Receiver<Ack>),
    expired: Vec<BlockId>,
    removals: VecDeque<BlockId>,
    spill_from: u32,
    records_since_round: u64,
    last_failure: Option<String>,
}

/// A projection as a store has it, and the log ends that its blocks note.
pub struct Opened {
    /// The projection; positions say from where the logs must be replayed.
    pub projection: Projection,
    /// Whether it came from a checkpoint; else it is empty.
    pub from_checkpoint: bool,
    /// The greatest log ends noted: a log that ends before them is another one.
    pub noted_ends: Positions,
}

/// Sizes for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProjectionStats {
    /// Cards.
    pub cards: usize,
    /// Accounts on them.
    pub accounts: u64,
    /// Remembered requests.
    pub requests: usize,
    /// Memory of the cards, bytes.
    pub cards_bytes: u64,
    /// Memory of the requests, bytes.
    pub requests_bytes: u64,
    /// The decision time of the oldest remembered request, roughly.
    pub oldest_request_ms: Option<i64>,
}

impl Projection {
    /// An empty projection; whatever the tree holds is removed.
    pub fn empty(tree: Tree, identity: LogIdentity, window_ms: i64) -> Self {
        let cleared = tree.clear();
        let tree = match cleared {
            Ok(()) => tree,
            // What could not be removed must not be mixed with what would be written.
            Err(error) => tree.without_disk(&error),
        };
        Self::with(Cards::new(0), Requests::new(window_ms, 0), tree, identity)
    }

    fn with(cards: Cards, requests: Requests, tree: Tree, identity: LogIdentity) -> Self {
        let spill_from = requests.mark().first;
        Self {
            cards,
            requests,
            tree,
            identity,
            positions: Positions::default(),
            decided_ms: i64::MIN,
            generation: 0,
            on_disk: CardBlocks { generation: 0, bits: NO_BLOCKS },
            round: None,
            unsent: None,
            acks: writer::acks(),
            expired: Vec::new(),
            removals: VecDeque::new(),
            spill_from,
            records_since_round: 0,
            last_failure: None,
        }
    }

    /// Opens what the tree holds; empty when it holds nothing or another log's checkpoint.
    pub fn open(tree: Tree, identity: LogIdentity, window_ms: i64) -> Result<Opened, StoreError> {
        let Some(meta) = Meta::load(&tree)? else {
            let projection = Self::empty(tree, identity, window_ms);
            return Ok(Opened { projection, from_checkpoint: false, noted_ends: Positions::default() });
        };
        if meta.identity != identity && !mutation::on(Mutation::IgnoreIdentity) {
            return Err(StoreError::Damaged("it belongs to other topics or another cluster"));
        }
        Self::load(meta, tree, window_ms)
    }

    /// Opens what the tree holds, whosever it is, to look at it: every request counts, however old.
    pub fn open_as_found(tree: Tree) -> Result<Option<Self>, StoreError> {
        let Some(meta) = Meta::load(&tree)? else { return Ok(None) };
        Self::load(meta, tree, i64::MAX).map(|opened| Some(opened.projection))
    }

    fn load(meta: Meta, tree: Tree, window_ms: i64) -> Result<Opened, StoreError> {
        let mut cards = Cards::new(meta.bits);
        let mut noted_ends = meta.positions;
        for bucket in 0..1u32 << meta.bits {
            let id = BlockId { kind: Kind::Cards, generation: meta.generation, number: bucket };
            let stored = tree.get(&id.key())?.ok_or(StoreError::Damaged("a block of cards is missing"))?;
            let (end, body) = block::open(id, &stored).ok_or(StoreError::Damaged("a block of cards is damaged"))?;
            noted_ends.cards = noted_ends.cards.max(end);
            cards.load_bucket(bucket as usize, body).ok_or(StoreError::Damaged("a block of cards is misplaced"))?;
        }
        let (requests, end) = Requests::load(window_ms, meta.requests, &tree)?;
        noted_ends.completions = noted_ends.completions.max(end);
        let mut projection = Self::with(cards, requests, tree, meta.identity);
        projection.positions = meta.positions;
        projection.decided_ms = meta.decided_ms;
        projection.generation = meta.generation;
        projection.on_disk = CardBlocks { generation: meta.generation, bits: meta.bits };
        Ok(Opened { projection, from_checkpoint: true, noted_ends })
    }

    /// Takes an empty tree for its own: whatever it held is removed, and the next round writes everything.
    pub fn move_to(&mut self, tree: Tree) {
        let cleared = tree.clear();
        self.tree = match cleared {
            Ok(()) => tree,
            Err(error) => tree.without_disk(&error),
        };
        self.cards.all_dirty();
        self.expired.clear();
        self.on_disk = CardBlocks { generation: self.generation, bits: NO_BLOCKS };
    }

    /// The partition's tree.
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }
    /// The next offsets of both logs from which a replay would have to start.
    pub const fn positions(&self) -> Positions {
        self.positions
    }
    /// The time to decide at: `now_ms`, but never before an earlier decision.
    pub fn decision_time_ms(&self, now_ms: i64) -> i64 {
        if mutation::on(Mutation::TimeGoesBack) { now_ms } else { self.decided_ms.max(now_ms) }
    }
    /// Reads a card's accounts into `out`; `false` when it is unknown.
    pub fn card(&self, card_id: &CardId, out: &mut Vec<StoredAccount>) -> bool {
        self.cards.get(card_id, out)
    }
    /// What is remembered of a request at `now_ms`.
    pub fn request(&self, id: &RequestId, now_ms: i64) -> Result<Option<Remembered>, StoreError> {
        self.requests.find(id, now_ms, &self.tree)
    }

    /// A committed card record.
    pub fn put_card(&mut self, card_id: &CardId, accounts: &[StoredAccount]) {
        self.cards.put(card_id, accounts);
        if self.round.is_none() {
            self.cards.grow();
        }
        self.records_since_round += 1;
    }
    /// A committed completion of this worker: its request is known to be new.
    pub fn put_request(&mut self, id: &RequestId, remembered: Remembered) {
        self.requests.append(id, remembered, self.positions.completions);
        self.decided_ms = self.decided_ms.max(remembered.dt.at_ms);
        self.records_since_round += 1;
    }
    /// A completion was committed, remembered or not: the tail to replay grows and time does not go back behind it.
    pub fn put_answers(&mut self, answers: u64, decided_ms: i64) {
        self.records_since_round += answers;
        self.decided_ms = self.decided_ms.max(decided_ms);
    }

    /// A card record read back from the log, and the offset after it.
    pub fn fold_card(&mut self, card_id: &CardId, accounts: &[StoredAccount], next: i64) {
        self.put_card(card_id, accounts);
        self.positions.cards = next;
    }
    /// A completion read back from the log (`None`: not one to remember), and the offset after it.
    pub fn fold_completion(
        &mut self,
        first: Option<FirstCompletion>,
        decided_ms: i64,
        next: i64,
    ) -> Result<(), StoreError> {
        if let Some(first) = first {
            self.requests.insert(&first.request_id, first.remembered, next, &self.tree)?;
        }
        self.put_answers(1, decided_ms);
        self.positions.completions = next;
        Ok(())
    }
    /// A log was read to its end, over whatever holds no record for a reader.
    pub fn fold_ends(&mut self, positions: Positions) {
        self.positions = positions;
    }

    /// Drops expired requests, a bounded step at a time: by the latest decision's time, which Kafka has accepted. A clock that runs
    /// ahead for a while must not empty the memory.
    pub fn expire(&mut self) {
        self.expired.extend(self.requests.expire(self.decided_ms));
    }

    /// Drops all that has expired of a state that has nothing on a disk, where nobody removes it later.
    pub fn expire_in_memory(&mut self) {
        while !self.requests.expire(self.decided_ms).is_empty() {}
    }

    /// Records that a replay from the last round's position would read.
    pub const fn tail_records(&self) -> u64 {
        self.records_since_round
    }
    /// Whether a periodic round is worth its writes: at most 8 times the bytes that changed.
    pub fn round_pays(&self) -> bool {
        self.records_since_round > 0
            && self.cards.dirty_bytes() <= 8 * self.cards.changed_bytes().max(sizes().least_change_bytes)
    }
    /// Whether a last round would write nothing that a later start would miss: a replay from the last one reads no record.
    pub const fn is_checkpointed(&self) -> bool {
        let nothing = self.cards.len() == 0 && self.requests.len() == 0;
        self.round.is_none() && self.records_since_round == 0 && (self.on_disk.bits != NO_BLOCKS || nothing)
    }
    /// Whether so much is in memory only that no more commands may be taken.
    pub fn must_wait_for_disk(&self) -> bool {
        self.requests.unwritten_bytes() > sizes().max_unwritten_bytes
    }
    /// Why the last write failed, if it did.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }
    /// Sizes for metrics.
    pub fn stats(&self) -> ProjectionStats {
        ProjectionStats {
            cards: self.cards.len(),
            accounts: self.cards.accounts(),
            requests: self.requests.len(),
            cards_bytes: self.cards.memory_bytes(),
            requests_bytes: self.requests.memory_bytes(),
            oldest_request_ms: self.requests.oldest_ms(),
        }
    }
    /// Calls `f` for each card.
    pub fn for_each_card(&self, f: impl FnMut(&CardId, &[StoredAccount])) {
        self.cards.for_each(f);
    }
    /// Calls `f` for each request that is remembered at `now_ms`.
    pub fn for_each_request(&self, now_ms: i64, f: impl FnMut(&RequestId, Remembered)) -> Result<(), StoreError> {
        self.requests.for_each(now_ms, &self.tree, f)
    }
}

#[cfg(test)]
mod tests;
