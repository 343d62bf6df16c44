//! The cards in memory: packed, in shards that are also the buckets on disk.

use super::packed::{self, Reader, push_varint};
use super::sharded::{Shard, Sharded, leading};
use super::sizes::sizes;
use crate::domain::{CardId, StoredAccount};
use xxhash_rust::xxh3::xxh3_64;

/// The fold of the cards topic for one partition.
pub struct Cards {
    table: Sharded<Box<[u8]>>,
    bytes: u64,
    accounts: u64,
    changed_bytes: u64,
    scratch: Vec<u8>,
}

fn hash(card_id: &CardId) -> u64 {
    xxh3_64(card_id.as_bytes())
}

// The table's entries are boxes, and it hands out references to its entries.
#[allow(clippy::borrowed_box)]
fn hash_packed(packed: &Box<[u8]>) -> u64 {
    xxh3_64(&packed[..16])
}

/// What an entry takes in a block: a length before it.
#[allow(clippy::borrowed_box)]
fn stored_bytes(packed: &Box<[u8]>) -> u32 {
    packed.len() as u32 + 2
}

fn is_card<'c>(card_id: &'c CardId) -> impl Fn(&Box<[u8]>) -> bool + use<'c> {
    move |packed| packed[..16] == card_id.as_bytes()[..]
}

impl Cards {
    /// No cards, in `2^bits` buckets.
    pub fn new(bits: u32) -> Self {
        Self { table: Sharded::new(bits, hash_packed), bytes: 0, accounts: 0, changed_bytes: 0, scratch: Vec::new() }
    }
    pub const fn len(&self) -> usize {
        self.table.len()
    }
    pub const fn accounts(&self) -> u64 {
        self.accounts
    }
    /// An estimate of the memory held: entries, and 17 bytes a table slot at 60 % load.
    pub const fn memory_bytes(&self) -> u64 {
        self.bytes + self.table.len() as u64 * 28
    }
    /// Bytes of cards put since the last round began.
    pub const fn changed_bytes(&self) -> u64 {
        self.changed_bytes
    }
    /// Bytes that a round would write now.
    pub fn dirty_bytes(&self) -> u64 {
        self.table.all().filter(|s| s.dirty).map(|s| u64::from(s.bytes)).sum()
    }
    pub const fn bits(&self) -> u32 {
        self.table.bits()
    }

    /// Reads a card's accounts into `out`; an unknown card has none.
    pub fn get(&self, card_id: &CardId, out: &mut Vec<StoredAccount>) -> bool {
        out.clear();
        let found = self.table.find(hash(card_id), is_card(card_id));
        found.is_some_and(|packed| packed::unpack(packed, out).is_some())
    }

    /// Makes the card what a committed record says. Without accounts it is gone.
    pub fn put(&mut self, card_id: &CardId, accounts: &[StoredAccount]) {
        let hash = hash(card_id);
        let former = if accounts.is_empty() {
            let Some((former, shard)) = self.table.remove(hash, is_card(card_id)) else { return };
            shard.dirty = true;
            shard.bytes -= stored_bytes(&former);
            Some(former)
        } else {
            packed::pack(card_id, accounts, &mut self.scratch);
            self.accounts += accounts.len() as u64;
            if self.overwrite(hash, card_id) {
                return;
            }
            let entry: Box<[u8]> = self.scratch.as_slice().into();
            let size = stored_bytes(&entry);
            let (former, shard) = self.table.put(hash, entry, is_card(card_id));
            shard.dirty = true;
            shard.bytes = shard.bytes + size - former.as_ref().map_or(0, stored_bytes);
            self.bytes += u64::from(size);
            self.changed_bytes += u64::from(size);
            former
        };
        if let Some(former) = former {
            self.bytes -= u64::from(stored_bytes(&former));
            self.accounts -= packed::accounts(&former);
        }
    }

    /// Puts what was packed in the place of a card of the same size, without an allocation: the usual case of a replacement.
    fn overwrite(&mut self, hash: u64, card_id: &CardId) -> bool {
        let found = self.table.find_mut(hash, is_card(card_id));
        let Some((entry, dirty)) = found.filter(|(entry, _)| entry.len() == self.scratch.len()) else { return false };
        self.accounts -= packed::accounts(entry);
        entry.copy_from_slice(&self.scratch);
        *dirty = true;
        self.changed_bytes += u64::from(stored_bytes(entry));
        true
    }

    /// Splits a bucket when the mean has outgrown its bound. Never while a round is under way: it numbers the buckets.
    pub fn grow(&mut self) {
        if self.bytes > sizes().grow_at_mean_bytes * self.table.shards() as u64 {
            self.table.split_next(stored_bytes);
        }
    }
    /// Whether some buckets are split and others not: a round ends that.
    pub const fn is_growing(&self) -> bool {
        self.table.split() > 0
    }
    /// A round begins: what changes from now on counts for the next one.
    pub const fn round_begins(&mut self) {
        self.changed_bytes = 0;
    }
    /// A round failed: nothing of it counts.
    pub fn all_dirty(&mut self) {
        self.table.all_mut().for_each(|s| s.dirty = true);
    }
    /// Splits the next bucket, unless it was.
    pub fn split_bucket(&mut self, bucket: usize) {
        if bucket >= self.table.split() {
            self.table.split_next(stored_bytes);
        }
    }
    /// Appends the block body of a bucket and clears its dirty mark; `false` when it was clean.
    ///
    /// `bits` says at which size of the table the bucket is numbered: while it grows, halves count with one bit more.
    pub fn write_bucket(&mut self, bucket: usize, bits: u32, out: &mut Vec<u8>) -> bool {
        let growing = self.table.split() > 0 && bits > self.table.bits();
        let shard = if growing { self.table.half(bucket) } else { self.table.whole(bucket) };
        if !std::mem::replace(&mut shard.dirty, false) {
            return false;
        }
        out.reserve(shard.bytes as usize);
        write_shard(shard, out);
        true
    }

    /// Loads a bucket's block body; `None` when it is no block of this bucket.
    pub fn load_bucket(&mut self, bucket: usize, body: &[u8]) -> Option<()> {
        let mut reader = Reader(body);
        let mut accounts = Vec::new();
        while !reader.0.is_empty() {
            let len = reader.varint()?;
            let packed: Box<[u8]> = reader.take(usize::try_from(len).ok()?)?.into();
            packed::unpack(&packed, &mut accounts)?;
            let hash = hash_packed(&packed);
            if leading(hash, self.table.bits()) != bucket {
                return None;
            }
            self.accounts += accounts.len() as u64;
            self.bytes += u64::from(stored_bytes(&packed));
            self.table.whole(bucket).bytes += stored_bytes(&packed);
            self.table.add(hash, packed);
        }
        self.table.whole(bucket).dirty = false;
        Some(())
    }

    /// Calls `f` for each card.
    pub fn for_each(&self, mut f: impl FnMut(&CardId, &[StoredAccount])) {
        let mut accounts = Vec::new();
        for entry in self.table.all().flat_map(|s| s.table.iter()) {
            if let Some(card_id) = packed::unpack(entry, &mut accounts) {
                f(&card_id, &accounts);
            }
        }
    }
}

fn write_shard(shard: &Shard<Box<[u8]>>, out: &mut Vec<u8>) {
    for packed in &shard.table {
        push_varint(out, packed.len() as u64);
        out.extend_from_slice(packed);
    }
}
