//! Stores for the simulation: none, a real one, one that stops taking writes, and one that fails as a disk does.

use crate::projection::{NoStore, SledStore, Store, StoreError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No disk.
pub fn no_store() -> Arc<dyn Store> {
    Arc::new(NoStore("a test without a disk".into()))
}

/// The database in a directory.
pub fn sled(path: &Path) -> Arc<dyn Store> {
    Arc::new(SledStore::open(path).unwrap())
}

/// A disk that takes only so many writes: what comes after them never arrives, as after a kill.
pub struct CutStore {
    pub inner: Arc<dyn Store>,
    pub left: AtomicUsize,
}

impl CutStore {
    pub fn is_cut(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
    fn takes(&self) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}

impl Store for CutStore {
    fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(partition, key)
    }
    fn put(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if self.takes() { self.inner.put(partition, key, value) } else { Ok(()) }
    }
    fn remove(&self, partition: i32, key: &[u8]) -> Result<(), StoreError> {
        if self.takes() { self.inner.remove(partition, key) } else { Ok(()) }
    }
    fn drop_partition(&self, partition: i32) -> Result<(), StoreError> {
        self.inner.drop_partition(partition)
    }
    fn partitions(&self) -> Vec<i32> {
        self.inner.partitions()
    }
    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }
}

/// What a simulated disk does.
#[derive(Default)]
struct Disk {
    values: BTreeMap<(i32, Vec<u8>), Vec<u8>>,
    /// It takes no writes.
    full: bool,
    /// So many reads fail, and so many writes.
    bad_reads: usize,
    bad_writes: usize,
}

/// A disk in memory.
#[derive(Default)]
pub struct SimStore(Mutex<Disk>);

impl SimStore {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Whether it takes no writes from now on.
    pub fn fill(&self, full: bool) {
        self.disk().full = full;
    }
    /// The next reads fail.
    pub fn fail_reads(&self, reads: usize) {
        self.disk().bad_reads = reads;
    }
    /// Whether the next read fails.
    pub fn fails(&self) -> bool {
        self.disk().bad_reads > 0
    }
    /// The next writes fail.
    pub fn fail_writes(&self, writes: usize) {
        self.disk().bad_writes = writes;
    }
    /// How many values it holds.
    pub fn values(&self) -> usize {
        self.disk().values.len()
    }
    /// A value is gone, cut, or has a bit flipped, as numbers choose.
    pub fn damage(&self, which: usize, how: u64) {
        let values = &mut self.disk().values;
        let Some(key) = values.keys().nth(which).cloned() else { return };
        let Some(value) = values.get_mut(&key) else { return };
        let at = (how >> 8) as usize % value.len().max(1);
        match how % 3 {
            0 => drop(values.remove(&key)),
            1 => value.truncate(at),
            _ => value.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (how % 8)),
        }
    }
    /// All that it held is gone.
    pub fn wipe(&self) {
        self.disk().values.clear();
    }
}

impl Store for SimStore {
    fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut disk = self.disk();
        if let Some(left) = disk.bad_reads.checked_sub(1) {
            disk.bad_reads = left;
            return Err(StoreError::Damaged("a simulated read fails"));
        }
        Ok(disk.values.get(&(partition, key.to_vec())).cloned())
    }
    fn put(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut disk = self.disk();
        let bad = disk.bad_writes > 0;
        disk.bad_writes = disk.bad_writes.saturating_sub(1);
        if disk.full || bad {
            return Err(StoreError::Unavailable("the simulated disk is full".into()));
        }
        disk.values.insert((partition, key.to_vec()), value.to_vec());
        Ok(())
    }
    fn remove(&self, partition: i32, key: &[u8]) -> Result<(), StoreError> {
        self.disk().values.remove(&(partition, key.to_vec()));
        Ok(())
    }
    fn drop_partition(&self, partition: i32) -> Result<(), StoreError> {
        self.disk().values.retain(|(p, _), _| *p != partition);
        Ok(())
    }
    fn partitions(&self) -> Vec<i32> {
        let mut partitions: Vec<i32> = self.disk().values.keys().map(|(p, _)| *p).collect();
        partitions.dedup();
        partitions
    }
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
