//! A hash table in many small shards that grows one shard at a time.
//!
//! A single large table stops the loop for as long as its rehash takes; here the longest pause is one shard's. Shards are
//! numbered by the leading bits of the hash, so that a shard of the cards is also a bucket on disk.

use hashbrown::HashTable;

/// One shard and what the checkpoint needs to know of it.
#[derive(Default)]
pub struct Shard<T> {
    pub table: HashTable<T>,
    /// Packed size of the entries in bytes, where the owner counts it.
    pub bytes: u32,
    /// Whether it changed since it was last written.
    pub dirty: bool,
}

/// `2^bits` shards, of which the first `split` were already replaced by two halves each.
pub struct Sharded<T> {
    bits: u32,
    whole: Vec<Shard<T>>,
    halves: Vec<Shard<T>>,
    hash: fn(&T) -> u64,
    len: usize,
}

impl<T> Sharded<T> {
    pub fn new(bits: u32, hash: fn(&T) -> u64) -> Self {
        let whole = std::iter::repeat_with(Shard::new).take(1 << bits).collect();
        Self { bits, whole, halves: Vec::new(), hash, len: 0 }
    }
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Leading bits that number the whole shards.
    pub const fn bits(&self) -> u32 {
        self.bits
    }
    /// Shards there are now.
    pub const fn shards(&self) -> usize {
        self.whole.len() + self.halves.len() / 2
    }
    /// How many whole shards were already split; 0 when no growth is under way.
    pub const fn split(&self) -> usize {
        self.halves.len() / 2
    }

    /// The shard for a hash.
    pub fn shard(&self, hash: u64) -> &Shard<T> {
        let index = leading(hash, self.bits);
        if index < self.split() { &self.halves[leading(hash, self.bits + 1)] } else { &self.whole[index] }
    }
    fn shard_mut(&mut self, hash: u64) -> &mut Shard<T> {
        let index = leading(hash, self.bits);
        if index < self.split() { &mut self.halves[leading(hash, self.bits + 1)] } else { &mut self.whole[index] }
    }
    /// The whole shard with this number, which must not be split yet.
    pub fn whole(&mut self, index: usize) -> &mut Shard<T> {
        &mut self.whole[index]
    }
    /// The half with this number, which must exist.
    pub fn half(&mut self, index: usize) -> &mut Shard<T> {
        &mut self.halves[index]
    }

    pub fn find(&self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&T> {
        self.shard(hash).table.find(spread(hash), eq)
    }
    pub fn find_mut(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<(&mut T, &mut bool)> {
        let Shard { table, dirty, .. } = self.shard_mut(hash);
        Some((table.find_mut(spread(hash), eq)?, dirty))
    }
    /// All entries whose hash may be this one.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = &T> {
        self.shard(hash).table.iter_hash(spread(hash))
    }
    /// Puts an entry, replacing the one that `eq` finds, which is returned.
    pub fn put(&mut self, hash: u64, entry: T, eq: impl FnMut(&T) -> bool) -> (Option<T>, &mut Shard<T>) {
        let of = self.hash;
        let index = leading(hash, self.bits);
        let shard =
            if index < self.split() { &mut self.halves[leading(hash, self.bits + 1)] } else { &mut self.whole[index] };
        let former = match shard.table.find_mut(spread(hash), eq) {
            Some(found) => Some(std::mem::replace(found, entry)),
            None => {
                shard.table.insert_unique(spread(hash), entry, |e| spread(of(e)));
                self.len += 1;
                None
            }
        };
        (former, shard)
    }
    /// Adds an entry without looking for an equal one.
    pub fn add(&mut self, hash: u64, entry: T) {
        let of = self.hash;
        self.shard_mut(hash).table.insert_unique(spread(hash), entry, |e| spread(of(e)));
        self.len += 1;
    }
    pub fn remove(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<(T, &mut Shard<T>)> {
        let index = leading(hash, self.bits);
        let shard =
            if index < self.split() { &mut self.halves[leading(hash, self.bits + 1)] } else { &mut self.whole[index] };
        let (entry, _) = shard.table.find_entry(spread(hash), eq).ok()?.remove();
        self.len -= 1;
        Some((entry, shard))
    }
    /// Keeps what `keep` says of one shard; the number wraps around.
    pub fn retain_in(&mut self, number: usize, keep: impl FnMut(&mut T) -> bool) {
        let (split, wholes) = (self.split(), self.whole.len());
        let number = number % self.shards();
        let shard = if number < 2 * split {
            &mut self.halves[number]
        } else {
            &mut self.whole[(number - split).min(wholes - 1)]
        };
        let before = shard.table.len();
        shard.table.retain(keep);
        self.len -= before - shard.table.len();
        let of = self.hash;
        if shard.table.len() * 4 < shard.table.capacity() {
            shard.table.shrink_to_fit(|e| spread(of(e)));
        }
    }

    /// Replaces the next whole shard by two halves; with the last one the number of shards has doubled.
    /// `bytes` tells an entry's packed size.
    pub fn split_next(&mut self, bytes: impl Fn(&T) -> u32) {
        let index = self.split();
        let Some(shard) = self.whole.get_mut(index) else { return };
        let whole = std::mem::replace(shard, Shard::new());
        let (of, bits) = (self.hash, self.bits + 1);
        let mut halves = [Shard::new(), Shard::new()];
        for half in &mut halves {
            half.dirty = true;
            half.table.reserve(whole.table.len() / 2, |e| spread(of(e)));
        }
        for entry in whole.table {
            let hash = of(&entry);
            let half = &mut halves[leading(hash, bits) & 1];
            half.bytes += bytes(&entry);
            half.table.insert_unique(spread(hash), entry, |e| spread(of(e)));
        }
        self.halves.extend(halves);
        if self.split() == self.whole.len() {
            self.whole = std::mem::take(&mut self.halves);
            self.bits += 1;
        }
    }

    /// Every shard, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &Shard<T>> {
        self.whole[self.split()..].iter().chain(&self.halves)
    }
    /// Every shard, in no particular order.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Shard<T>> {
        let split = self.split();
        self.whole[split..].iter_mut().chain(&mut self.halves)
    }
}

impl<T> Shard<T> {
    fn new() -> Self {
        Self { table: HashTable::new(), bytes: 0, dirty: true }
    }
}

/// The number that the leading `bits` of a hash make.
pub const fn leading(hash: u64, bits: u32) -> usize {
    if bits == 0 { 0 } else { (hash >> (64 - bits)) as usize }
}

/// hashbrown takes its tag from the top bits and the place from the low ones; the top ones are equal within a shard.
const fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(value: &u64) -> u64 {
        value.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn entries_are_found_at_every_stage_of_growth() {
        let mut table = Sharded::new(1, mix);
        for value in 0..2000u64 {
            table.put(mix(&value), value, |v| *v == value);
            if value % 50 == 0 {
                table.split_next(|_| 1);
            }
            for probe in [0, value / 2, value] {
                assert_eq!(table.find(mix(&probe), |v| *v == probe), Some(&probe));
            }
        }
        assert_eq!(table.len(), 2000);
        assert_eq!(table.all().map(|s| s.table.len()).sum::<usize>(), 2000);
        let shards = table.shards();
        for number in 0..shards {
            table.retain_in(number, |v| *v % 2 == 0);
        }
        assert_eq!(table.len(), 1000);
        assert!(table.remove(mix(&4), |v| *v == 4).is_some());
        assert!(table.remove(mix(&5), |v| *v == 5).is_none());
        assert_eq!(table.len(), 999);
    }
}
