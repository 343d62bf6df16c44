//! A checkpoint round: the dirty blocks, one after the other, each from memory as it then is; last the meta record.
//!
//! Fuzzy and right: memory holds only committed records (INV-1) and a changelog record holds the card's whole state, so a
//! block may be newer than the round's position but never newer than the log, and replaying from the position overwrites
//! each such card with the same or a later state (INV-2). A kill between two blocks costs nothing: the old meta record
//! still names the old position.

use super::Projection;
use super::block::{self, BlockId, Kind};
use super::meta::{Meta, Positions};
use super::sizes::sizes;
use super::writer::{Ack, Lease, NO_ROUND, Write, Writer};
use crate::mutation::{self, Mutation};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which blocks of cards the meta record on disk names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardBlocks {
    pub generation: u32,
    pub bits: u32,
}

/// Bits of a checkpoint that is not there yet.
pub const NO_BLOCKS: u32 = u32::MAX;

/// What a removal counts for in a step.
const REMOVAL_BYTES: usize = 4 * 1024;

/// A bucket that is split is read, hashed and moved before its halves are written: a step of as many bytes took
/// up to 12.6 ms of CPU, where it took up to 4.7 without.
const GROWTH_FACTOR: usize = 3;

/// Rounds are numbered through the process: the writer knows failed ones by their number.
static NEXT_ROUND: AtomicU64 = AtomicU64::new(NO_ROUND + 1);

/// A round under way.
pub struct Round {
    number: u64,
    meta: Meta,
    requests: VecDeque<BlockId>,
    bucket: usize,
    meta_sent: bool,
    /// What no longer counts once the meta record is on disk.
    obsolete: Vec<BlockId>,
    /// Records that count again when it fails.
    records: u64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No round is under way.
    Idle,
    /// More is to be written, or the writer's confirmation is awaited.
    UnderWay,
    /// The round is complete and on disk.
    Done,
    /// A write failed; what the disk holds is still the former checkpoint.
    Failed,
}

impl Projection {
    /// Begins a round at `positions`: the ends of both logs, asked for between two transactions when everything
    /// committed was applied.
    pub fn begin_round(&mut self, positions: Positions) {
        let bits = self.cards.bits() + u32::from(self.cards.is_growing());
        if bits != self.on_disk.bits {
            // Also after a doubling that failed at its end: blocks that the old meta record names stay as they are.
            self.generation = self.generation.wrapping_add(1);
        }
        let number = NEXT_ROUND.fetch_add(1, Ordering::Relaxed);
        let meta = Meta {
            identity: self.identity.clone(),
            positions,
            generation: self.generation,
            bits,
            requests: self.requests.mark(),
            decided_ms: self.decided_ms,
        };
        let mut requests: VecDeque<_> = self.requests.full_blocks().collect();
        requests.extend(self.requests.last_block().filter(|last| requests.back() != Some(last)));
        self.cards.round_begins();
        let records = std::mem::take(&mut self.records_since_round);
        self.positions = positions;
        let obsolete = std::mem::take(&mut self.expired);
        self.round = Some(Round { number, meta, requests, bucket: 0, meta_sent: false, obsolete, records });
    }

    /// A deliberate bug: the round under way notes another position than it began at.
    pub fn note(&mut self, positions: Positions) {
        if let Some(round) = &mut self.round {
            round.meta.positions = positions;
        }
    }

    /// Whether a round is under way.
    pub const fn in_round(&self) -> bool {
        self.round.is_some()
    }

    /// Writes full blocks of requests ahead, and takes the writer's confirmations, while a restore folds the log.
    pub fn spill_step(&mut self, writer: &Writer, lease: &Lease) {
        let acks: Vec<Ack> = self.acks.1.try_iter().collect();
        for ack in acks {
            // A restore has no round that could end.
            let _ = self.acknowledged(ack);
        }
        self.spill(writer, lease, &mut StepBytes::default().ahead);
    }

    /// Goes on with the round until the bytes that are `left` are handed over, which it lessens, and takes the writer's confirmations.
    pub fn checkpoint_step(&mut self, writer: &Writer, lease: &Lease, left: &mut StepBytes) -> Step {
        let acks: Vec<Ack> = self.acks.1.try_iter().collect();
        let mut outcome = if self.round.is_some() { Step::UnderWay } else { Step::Idle };
        for ack in acks {
            outcome = self.acknowledged(ack).unwrap_or(outcome);
        }
        self.spill(writer, lease, &mut left.ahead);
        while left.round > 0 {
            let Some(write) = self.unsent.take().or_else(|| self.next_write(lease)) else { break };
            left.round = left.round.saturating_sub(self.cost(&write));
            if let Err(write) = writer.try_send(write) {
                self.unsent = Some(*write);
                break;
            }
        }
        outcome
    }

    /// What a write counts of a step's bytes.
    fn cost(&self, write: &Write) -> usize {
        let grows = self.round.as_ref().is_some_and(|round| round.meta.bits > self.cards.bits());
        let factor = if grows { GROWTH_FACTOR } else { 1 };
        factor * write.bytes.as_ref().map_or(REMOVAL_BYTES, Vec::len)
    }

    /// What a confirmation changes; `Some` when it ends the round.
    fn acknowledged(&mut self, ack: Ack) -> Option<Step> {
        if let Err(reason) = ack.result {
            self.last_failure = Some(reason);
            self.spill_from = self.requests.first_unwritten();
            // Blocks of no round are only sent again; the rest of a failed round is void.
            let failed = self.round.take_if(|r| r.number == ack.round)?;
            self.unsent = None;
            self.records_since_round += failed.records;
            self.expired.extend(failed.obsolete);
            self.cards.all_dirty();
            return Some(Step::Failed);
        }
        match ack.id.kind {
            Kind::Requests => self.requests.confirm(ack.id, ack.bytes),
            Kind::Cards => {}
            Kind::Meta => {
                let round = self.round.take_if(|r| r.number == ack.round)?;
                self.last_failure = None;
                self.removals.extend(round.obsolete);
                let now = CardBlocks { generation: round.meta.generation, bits: round.meta.bits };
                let former = std::mem::replace(&mut self.on_disk, now);
                if former.generation != now.generation && former.bits != NO_BLOCKS {
                    self.removals.extend((0..1u32 << former.bits).map(|number| cards(former.generation, number)));
                }
                return Some(Step::Done);
            }
        }
        None
    }

    /// Hands full blocks of requests to the writer ahead of the round, so that few are ever in memory only.
    fn spill(&mut self, writer: &Writer, lease: &Lease, left: &mut usize) {
        while *left > 0 {
            let Some(bytes) = self.spill_next(writer, lease) else { return };
            *left = left.saturating_sub(bytes);
        }
    }

    /// Hands one over; the bytes of it, or `None` when none is due or the writer's queue is full.
    fn spill_next(&mut self, writer: &Writer, lease: &Lease) -> Option<usize> {
        // A write that waits may hold the same block, not yet full: behind the full one it would take its place on the disk.
        if self.unsent.is_some() && !mutation::on(Mutation::SpillPastWaiting) {
            return None;
        }
        let id = self.requests.next_full_block(self.spill_from)?;
        let mut block = Vec::new();
        let bytes = self.requests.write_block(id, &mut block).then_some(block.len())?;
        writer.try_send(self.write(lease, NO_ROUND, id, Some(block))).ok()?;
        self.spill_from = id.number.wrapping_add(1);
        Some(bytes)
    }

    fn next_write(&mut self, lease: &Lease) -> Option<Write> {
        let Some(mut round) = self.round.take() else {
            let id = self.removals.pop_front()?;
            return Some(self.write(lease, NO_ROUND, id, None));
        };
        let write = self.next_of(&mut round, lease);
        self.round = Some(round);
        write
    }

    fn next_of(&mut self, round: &mut Round, lease: &Lease) -> Option<Write> {
        let mut bytes = Vec::new();
        if mutation::on(Mutation::MetaBeforeBlocks) && !std::mem::replace(&mut round.meta_sent, true) {
            return Some(self.write(lease, round.number, BlockId::META, Some(round.meta.block())));
        }
        while let Some(id) = round.requests.pop_front() {
            if self.requests.write_block(id, &mut bytes) {
                return Some(self.write(lease, round.number, id, Some(bytes)));
            }
        }
        while round.bucket < 1 << round.meta.bits {
            let bucket = round.bucket;
            round.bucket += 1;
            if self.cards.bits() < round.meta.bits {
                self.cards.split_bucket(bucket / 2);
            }
            let id = cards(round.meta.generation, bucket as u32);
            block::begin(id, round.meta.positions.cards, &mut bytes);
            if self.cards.write_bucket(bucket, round.meta.bits, &mut bytes)
                && !(mutation::on(Mutation::SkipDirtyBlock) && self.on_disk.bits == round.meta.bits)
            {
                block::seal(&mut bytes);
                return Some(self.write(lease, round.number, id, Some(bytes)));
            }
        }
        if std::mem::replace(&mut round.meta_sent, true) {
            return None;
        }
        Some(self.write(lease, round.number, BlockId::META, Some(round.meta.block())))
    }

    fn write(&self, lease: &Lease, round: u64, id: BlockId, bytes: Option<Vec<u8>>) -> Write {
        Write { tree: self.tree.clone(), lease: lease.clone(), round, id, bytes, acks: self.acks.0.clone() }
    }
}

/// What a loop may yet hand to the writer in one step.
#[derive(Clone, Copy, Debug)]
pub struct StepBytes {
    /// Of rounds.
    pub round: usize,
    /// Of requests ahead of them. Where writes fail they are sent again and again: a round must fail beside them, and be heard.
    pub ahead: usize,
}

impl Default for StepBytes {
    fn default() -> Self {
        Self { round: sizes().bytes_per_step, ahead: sizes().ahead_per_step }
    }
}

impl StepBytes {
    /// Whether either is used up.
    pub const fn are_used_up(&self) -> bool {
        self.round == 0 || self.ahead == 0
    }
}

const fn cards(generation: u32, number: u32) -> BlockId {
    BlockId { kind: Kind::Cards, generation, number }
}
