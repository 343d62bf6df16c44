//! The dedup memory: a tag for each remembered request, and its full record in blocks in the completions log's order.
//!
//! A tag is 40 bits of a hash of the id beside the number of the block that holds the record; a hit is always verified
//! against the record itself, so a hash collision never makes an answer. Only the newest blocks are held in memory.

use super::block::{self, BlockId, Kind};
use super::packed::Reader;
use super::sharded::Sharded;
use super::sizes::sizes;
use super::store::{StoreError, Tree};
use crate::domain::{Dt, Fingerprint, Remembered, RequestId, UtcOffset};
use crate::mutation::{self, Mutation};
use std::collections::VecDeque;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Id, fingerprint, decision time, offset of the `dt` in minutes.
const RECORD: usize = 16 + 16 + 8 + 2;
const NUMBER_BITS: u32 = 24;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
/// Blocks that expire in one step at most: more requests than a step can bring.
const EXPIRED_PER_STEP: usize = 64;
/// Tags that a shard holds on average before the next one is split.
const TAGS_PER_SHARD: usize = 200;

/// Where a block's records are.
enum Body {
    /// In memory: the block is being filled, or was not yet confirmed to be on disk.
    Memory(Arc<Vec<u8>>),
    /// In sled only.
    Disk,
}

struct Block {
    body: Body,
    records: u32,
    newest_ms: i64,
    /// The completions log's end when it was last added to.
    log_end: i64,
}

/// The fold of the completions topic over the window, for one partition.
pub struct Requests {
    window_ms: i64,
    /// 40 bits of the id's hash, then the low 24 bits of the block's number.
    tags: Sharded<u64>,
    /// Distinguishes the blocks of this store from those of a discarded one.
    generation: u32,
    first: u32,
    blocks: VecDeque<Block>,
    /// How many blocks at the front are on disk only.
    written: usize,
    sweep_from: usize,
    sweep_left: usize,
}

/// Up to where the blocks hold the log, as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RequestMark {
    /// Number of the first block.
    pub first: u32,
    /// Number of blocks.
    pub blocks: u32,
    /// Records in the last of them.
    pub last_records: u32,
    /// Tells blocks of this store from those of a discarded one.
    pub generation: u32,
}

fn hash(id: &RequestId) -> u64 {
    xxh3_64(id.as_bytes())
}

/// A tag must place itself: its leading 40 bits are the hash as far as the table knows it.
fn hash_tag(tag: &u64) -> u64 {
    let known = tag >> NUMBER_BITS;
    (known << NUMBER_BITS) | (known >> 16)
}

impl Requests {
    pub fn new(window_ms: i64, generation: u32) -> Self {
        let tags = Sharded::new(0, hash_tag);
        Self {
            window_ms,
            tags,
            generation,
            first: 0,
            blocks: VecDeque::new(),
            written: 0,
            sweep_from: 0,
            sweep_left: 0,
        }
    }
    pub const fn len(&self) -> usize {
        self.tags.len()
    }
    /// The oldest decision time that a block may hold, roughly: the newest of the first block.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.blocks.front().map(|b| b.newest_ms)
    }
    /// Memory held: 9 bytes a slot at 60 % load, and the blocks not on disk.
    pub fn memory_bytes(&self) -> u64 {
        self.tags.len() as u64 * 15 + self.unwritten_bytes()
    }
    /// Bytes of the blocks whose only copy is in memory.
    pub fn unwritten_bytes(&self) -> u64 {
        ((self.blocks.len() - self.written) * sizes().requests_per_block * RECORD) as u64
    }
    /// Number of the first block whose only copy is in memory.
    pub const fn first_unwritten(&self) -> u32 {
        self.first.wrapping_add(self.written as u32)
    }

    /// What is remembered of an id at `now_ms`, if anything. Reads the disk only to verify a tag's hit.
    pub fn find(&self, id: &RequestId, now_ms: i64, tree: &Tree) -> Result<Option<Remembered>, StoreError> {
        let mut newest: Option<Remembered> = None;
        for index in self.blocks_that_may_hold(id) {
            if let Some(found) = self.look_up(index, id, tree)? {
                let alive = self.is_alive(found.dt.at_ms, now_ms) || mutation::on(Mutation::ForgetNothing);
                if alive && newest.is_none_or(|n| n.dt.at_ms < found.dt.at_ms) {
                    newest = Some(found);
                }
            }
        }
        Ok(newest)
    }

    /// Remembers a committed `ok` completion. The same id, fingerprint and time again is nothing new.
    pub fn insert(
        &mut self,
        id: &RequestId,
        remembered: Remembered,
        log_end: i64,
        tree: &Tree,
    ) -> Result<(), StoreError> {
        for index in self.blocks_that_may_hold(id) {
            let body = self.body(index, tree)?;
            if records_of(id, &body).any(|record| read_record(record) == Some((*id, remembered))) {
                return Ok(());
            }
        }
        self.append(id, remembered, log_end);
        Ok(())
    }

    /// Remembers one that is known to be new.
    pub fn append(&mut self, id: &RequestId, remembered: Remembered, log_end: i64) {
        if self.blocks.back().is_none_or(|b| b.records as usize >= sizes().requests_per_block) {
            let body = Body::Memory(Arc::new(Vec::with_capacity(sizes().requests_per_block * RECORD)));
            self.blocks.push_back(Block { body, records: 0, newest_ms: i64::MIN, log_end });
        }
        let number = self.first.wrapping_add(self.blocks.len() as u32 - 1);
        // A block exists now, and the last one is in memory as long as it is not full.
        let Some(Block { body: Body::Memory(bytes), records, newest_ms, log_end: end }) = self.blocks.back_mut() else {
            return;
        };
        push_record(Arc::make_mut(bytes), id, remembered);
        *records += 1;
        *newest_ms = (*newest_ms).max(remembered.dt.at_ms);
        *end = log_end;
        self.tag(id, number);
    }

    fn tag(&mut self, id: &RequestId, number: u32) {
        let tag = (hash(id) & !NUMBER_MASK) | (u64::from(number) & NUMBER_MASK);
        self.tags.add(hash_tag(&tag), tag);
        if self.tags.len() > TAGS_PER_SHARD * self.tags.shards() {
            self.tags.split_next(|_| 0);
        }
    }

    /// Drops what has expired, a bounded step at a time; gives the blocks that may be removed from disk.
    pub fn expire(&mut self, now_ms: i64) -> Vec<BlockId> {
        let mut gone = Vec::new();
        while gone.len() < EXPIRED_PER_STEP && self.blocks.front().is_some_and(|b| !self.is_alive(b.newest_ms, now_ms))
        {
            // The block that is being filled stays, so that a number is never given twice.
            if self.blocks.len() == 1 {
                break;
            }
            self.blocks.pop_front();
            self.written = self.written.saturating_sub(1);
            gone.push(self.id(self.first));
            self.first = self.first.wrapping_add(1);
            self.sweep_left = self.tags.shards();
        }
        for _ in 0..self.sweep_left.min(16) {
            let (first, blocks) = (self.first, self.blocks.len());
            self.tags.retain_in(self.sweep_from, |tag| offset_in(*tag, first) < blocks);
            self.sweep_from = (self.sweep_from + 1) % self.tags.shards();
            self.sweep_left -= 1;
        }
        gone
    }

    /// Up to where the blocks reach now.
    pub fn mark(&self) -> RequestMark {
        let last_records = self.blocks.back().map_or(0, |b| b.records);
        RequestMark { first: self.first, blocks: self.blocks.len() as u32, last_records, generation: self.generation }
    }

    /// Blocks in memory that are full: they can be written at any time.
    pub fn full_blocks(&self) -> impl Iterator<Item = BlockId> {
        (self.written..self.blocks.len())
            .filter(|i| self.blocks[*i].records as usize == sizes().requests_per_block)
            .map(|i| self.id(self.first.wrapping_add(i as u32)))
    }

    /// The first block in memory from this number on, if it is full.
    pub fn next_full_block(&self, from: u32) -> Option<BlockId> {
        // Numbers wrap: one behind the first unwritten is far behind, not far ahead.
        let ahead = from.wrapping_sub(self.first_unwritten()) as i32;
        let index = self.written + usize::try_from(ahead).unwrap_or(0);
        let full = self.blocks.get(index)?.records as usize == sizes().requests_per_block;
        full.then(|| self.id(self.first.wrapping_add(index as u32)))
    }

    /// The sealed block of this id, if it is in memory.
    pub fn write_block(&self, id: BlockId, out: &mut Vec<u8>) -> bool {
        let Some(block) = self.blocks.get(id.number.wrapping_sub(self.first) as usize) else { return false };
        let Body::Memory(bytes) = &block.body else { return false };
        out.reserve(block::HEADER + bytes.len());
        block::begin(id, block.log_end, out);
        out.extend_from_slice(bytes);
        block::seal(out);
        true
    }

    /// The block that is being filled.
    pub fn last_block(&self) -> Option<BlockId> {
        let index = (self.blocks.len() as u32).checked_sub(1)?;
        Some(self.id(self.first.wrapping_add(index)))
    }

    /// A full block is on disk now: memory lets go of it. Confirmations come in order; one that is early is passed over,
    /// and its block written again.
    /// `bytes` is what was written: a block that was filled only after it had been handed over is not whole on disk.
    pub fn confirm(&mut self, id: BlockId, bytes: usize) {
        let index = id.number.wrapping_sub(self.first) as usize;
        let Some(block) = self.blocks.get_mut(index) else { return };
        if index == self.written && bytes == block::HEADER + sizes().requests_per_block * RECORD {
            block.body = Body::Disk;
            self.written += 1;
        }
    }

    /// Loads what a mark says from disk, verifying every block; also the latest log end and decision time noted.
    pub fn load(window_ms: i64, mark: RequestMark, tree: &Tree) -> Result<(Self, i64), StoreError> {
        let mut requests = Self { first: mark.first, ..Self::new(window_ms, mark.generation) };
        let mut log_end = 0;
        for i in 0..mark.blocks {
            let id = requests.id(mark.first.wrapping_add(i));
            let stored = tree.get(&id.key())?.ok_or(StoreError::Damaged("a block of requests is missing"))?;
            let (noted, body) =
                block::open(id, &stored).ok_or(StoreError::Damaged("a block of requests is damaged"))?;
            log_end = log_end.max(noted);
            let last = i + 1 == mark.blocks;
            let records = if last { mark.last_records as usize } else { sizes().requests_per_block };
            requests.load_block(id, body, records, noted)?;
        }
        Ok((requests, log_end))
    }

    fn load_block(&mut self, id: BlockId, body: &[u8], records: usize, log_end: i64) -> Result<(), StoreError> {
        let full = records == sizes().requests_per_block;
        // One of another size than is written now would be read in part.
        if full && body.len() != records * RECORD {
            return Err(StoreError::Damaged("a block of requests has another size"));
        }
        // The last block may have grown since the mark: what came later is read from the log again.
        let body = body.get(..records * RECORD).ok_or(StoreError::Damaged("a block of requests is short"))?;
        let mut newest_ms = i64::MIN;
        for record in body.chunks_exact(RECORD) {
            let (request, remembered) = read_record(record).ok_or(StoreError::Damaged("a request is damaged"))?;
            newest_ms = newest_ms.max(remembered.dt.at_ms);
            self.tag(&request, id.number);
        }
        self.written += usize::from(full);
        let body = if full { Body::Disk } else { Body::Memory(Arc::new(body.to_vec())) };
        self.blocks.push_back(Block { body, records: records as u32, newest_ms, log_end });
        Ok(())
    }

    /// Calls `f` for each request that is remembered at `now_ms`.
    pub fn for_each(
        &self,
        now_ms: i64,
        tree: &Tree,
        mut f: impl FnMut(&RequestId, Remembered),
    ) -> Result<(), StoreError> {
        for index in 0..self.blocks.len() {
            let body = self.body(index, tree)?;
            for record in body.chunks_exact(RECORD) {
                let (id, remembered) = read_record(record).ok_or(StoreError::Damaged("a request is damaged"))?;
                if self.is_alive(remembered.dt.at_ms, now_ms) {
                    f(&id, remembered);
                }
            }
        }
        Ok(())
    }

    /// Whether a decision time is within the window. It comes from a record's timestamp, which may be any number.
    const fn is_alive(&self, at_ms: i64, now_ms: i64) -> bool {
        now_ms.saturating_sub(at_ms) <= self.window_ms
    }
    fn id(&self, number: u32) -> BlockId {
        BlockId { kind: Kind::Requests, generation: self.generation, number }
    }
    fn blocks_that_may_hold(&self, id: &RequestId) -> impl Iterator<Item = usize> {
        let tag = hash(id) >> NUMBER_BITS;
        let candidates = self.tags.candidates(hash_tag(&(tag << NUMBER_BITS)));
        candidates.filter(move |e| *e >> NUMBER_BITS == tag).filter_map(|e| self.index_of(*e))
    }
    fn index_of(&self, tag: u64) -> Option<usize> {
        Some(offset_in(tag, self.first)).filter(|i| *i < self.blocks.len())
    }
    fn look_up(&self, index: usize, id: &RequestId, tree: &Tree) -> Result<Option<Remembered>, StoreError> {
        let body = self.body(index, tree)?;
        let mut newest: Option<Remembered> = None;
        for record in records_of(id, &body) {
            let (_, found) = read_record(record).ok_or(StoreError::Damaged("a request is damaged"))?;
            // A replay of the log may append an older record of the id behind a newer one.
            if newest.is_none_or(|n| n.dt.at_ms < found.dt.at_ms) {
                newest = Some(found);
            }
        }
        Ok(newest)
    }
    fn body(&self, index: usize, tree: &Tree) -> Result<Arc<Vec<u8>>, StoreError> {
        match &self.blocks[index].body {
            Body::Memory(bytes) => Ok(bytes.clone()),
            Body::Disk => tree.verified(self.id(self.first.wrapping_add(index as u32))),
        }
    }
}

/// How far behind the first block a tag's block is; the numbers wrap at 24 bits.
fn offset_in(tag: u64, first: u32) -> usize {
    (tag.wrapping_sub(u64::from(first)) & NUMBER_MASK) as usize
}

fn records_of<'b>(id: &'b RequestId, body: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
    body.chunks_exact(RECORD).filter(|r| r[..16] == id.as_bytes()[..])
}

fn push_record(out: &mut Vec<u8>, id: &RequestId, remembered: Remembered) {
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&remembered.fingerprint.0.to_le_bytes());
    out.extend_from_slice(&remembered.dt.at_ms.to_le_bytes());
    out.extend_from_slice(&remembered.dt.offset.minutes().to_le_bytes());
}

fn read_record(record: &[u8]) -> Option<(RequestId, Remembered)> {
    let mut reader = Reader(record);
    let id = RequestId::from_bytes(reader.array()?);
    let fingerprint = Fingerprint(u128::from_le_bytes(reader.array()?));
    let at_ms = i64::from_le_bytes(reader.array()?);
    let offset = UtcOffset::from_minutes(i16::from_le_bytes(reader.array()?))?;
    Some((id, Remembered { fingerprint, dt: Dt { at_ms, offset } }))
}
