//! The port to the disk, and the two things behind it: sled, and nothing (where the disk cannot be used).
//!
//! A store is a cache of two Kafka logs. Whatever it says that cannot be right is [`StoreError::Damaged`], and the reaction
//! is always the same: discard it and restore.

use super::block::{self, BlockId};
use hashbrown::HashMap;
use rustix::fs::{FlockOperation, flock};
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a store's failure demands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What it holds is in doubt: discard it and restore from Kafka.
    #[error("the state directory is in doubt: {0}")]
    Damaged(&'static str),
    /// It cannot be written (full, read-only, failing): go on from memory and try again.
    #[error("the state directory cannot be used: {0}")]
    Unavailable(String),
}

/// Keys and values by partition. One writer per partition at a time, any number of readers.
pub trait Store: Send + Sync {
    /// Reads a value.
    fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Writes a value.
    fn put(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    /// Removes a value.
    fn remove(&self, partition: i32, key: &[u8]) -> Result<(), StoreError>;
    /// Removes all that a partition has.
    fn drop_partition(&self, partition: i32) -> Result<(), StoreError>;
    /// The partitions that have anything.
    fn partitions(&self) -> Vec<i32>;
    /// Makes what was written reach the operating system, before a clean shutdown.
    fn flush(&self) -> Result<(), StoreError>;
}

/// sled: one tree per partition.
pub struct SledStore {
    db: sled::Db,
    trees: Mutex<HashMap<i32, sled::Tree>>,
}

/// sled's own cache; verified blocks have one of their own, so it need not be large.
const SLED_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// The file that sled locks, within its directory.
const DATABASE_FILE: &str = "db";
/// How long a former database of this process may take to be closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

impl SledStore {
    /// Opens or creates the database. It reads all that was logged since the last open and may panic on damage.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        wait_until_closed(&path.join(DATABASE_FILE));
        let open = || sled::Config::new().path(path).cache_capacity(SLED_CACHE_BYTES).open();
        let db = guarded("sled panicked while it opened", open)?;
        Ok(Self { db, trees: Mutex::new(HashMap::new()) })
    }

    fn tree(&self, partition: i32) -> Result<sled::Tree, StoreError> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = trees.get(&partition) {
            return Ok(tree.clone());
        }
        let tree = guarded("sled panicked while it opened a tree", || self.db.open_tree(tree_name(partition)))?;
        trees.insert(partition, tree.clone());
        Ok(tree)
    }
}

/// sled's own pool may hold the lock of a database a moment after its last handle was dropped, and `open` does not wait. A lock
/// that stays is what `open` then reports.
fn wait_until_closed(file: &Path) {
    let Ok(file) = File::open(file) else { return };
    let deadline = Instant::now() + CLOSE_PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn tree_name(partition: i32) -> String {
    format!("partition-{partition}")
}

/// sled answers damage with an error or a panic, and a failing disk with an error.
fn guarded<T>(panicked: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(StoreError::Unavailable(error.to_string())),
        Ok(Err(_)) => Err(StoreError::Damaged("sled reports corruption")),
        Err(_) => Err(StoreError::Damaged(panicked)),
    }
}

/// sled frees memory only when its epochs advance; without a nudge it grows by gigabytes under load.
fn collect_garbage() {
    for _ in 0..3 {
        crossbeam_epoch::pin().flush();
    }
}

impl Store for SledStore {
    fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let tree = self.tree(partition)?;
        let value = guarded("sled panicked while it read", || tree.get(key))?;
        Ok(value.map(|v| v.to_vec()))
    }
    fn put(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let tree = self.tree(partition)?;
        guarded("sled panicked while it wrote", || tree.insert(key, value))?;
        collect_garbage();
        Ok(())
    }
    fn remove(&self, partition: i32, key: &[u8]) -> Result<(), StoreError> {
        let tree = self.tree(partition)?;
        guarded("sled panicked while it removed", || tree.remove(key))?;
        Ok(())
    }
    fn drop_partition(&self, partition: i32) -> Result<(), StoreError> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
        guarded("sled panicked while it dropped a tree", || self.db.drop_tree(tree_name(partition)))?;
        collect_garbage();
        Ok(())
    }
    fn partitions(&self) -> Vec<i32> {
        let names = self.db.tree_names();
        names.iter().filter_map(|n| std::str::from_utf8(n).ok()?.strip_prefix("partition-")?.parse().ok()).collect()
    }
    fn flush(&self) -> Result<(), StoreError> {
        guarded("sled panicked while it flushed", || self.db.flush()).map(|_| ())
    }
}

/// No disk: everything stays in memory, up to its bounds.
pub struct NoStore(pub String);

impl Store for NoStore {
    fn get(&self, _: i32, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }
    fn put(&self, _: i32, _: &[u8], _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::Unavailable(self.0.clone()))
    }
    fn remove(&self, _: i32, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::Unavailable(self.0.clone()))
    }
    fn drop_partition(&self, _: i32) -> Result<(), StoreError> {
        Ok(())
    }
    fn partitions(&self) -> Vec<i32> {
        Vec::new()
    }
    fn flush(&self) -> Result<(), StoreError> {
        Err(StoreError::Unavailable(self.0.clone()))
    }
}

/// Blocks of requests that the verified cache holds: 4 KiB each, so 1 MiB a process.
const CACHED_BLOCKS: usize = 256;

type Cached = (i32, BlockId, Arc<Vec<u8>>);

/// Verified blocks, the most recently used last.
#[derive(Default)]
pub struct BlockCache(Mutex<VecDeque<Cached>>);

impl BlockCache {
    fn find(&self, partition: i32, id: BlockId) -> Option<Arc<Vec<u8>>> {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = blocks.iter().rposition(|(p, b, _)| (*p, *b) == (partition, id))?;
        let found = blocks.remove(at)?;
        let body = found.2.clone();
        blocks.push_back(found);
        Some(body)
    }
    fn insert(&self, partition: i32, id: BlockId, body: Arc<Vec<u8>>) {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= CACHED_BLOCKS {
            blocks.pop_front();
        }
        blocks.push_back((partition, id, body));
    }
    fn forget(&self, partition: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(p, ..)| *p != partition);
    }
}

/// One partition's part of the store.
#[derive(Clone)]
pub struct Tree {
    partition: i32,
    store: Arc<dyn Store>,
    cache: Arc<BlockCache>,
}

impl Tree {
    /// A partition's part of a store.
    pub fn new(partition: i32, store: Arc<dyn Store>, cache: Arc<BlockCache>) -> Self {
        Self { partition, store, cache }
    }
    /// The partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }
    /// Reads a value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(self.partition, key)
    }
    /// Writes a value or removes it.
    pub fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        match value {
            Some(value) => self.store.put(self.partition, key, value),
            None => self.store.remove(self.partition, key),
        }
    }
    /// The same partition with nothing behind it.
    pub fn without_disk(&self, error: &StoreError) -> Self {
        Self { store: Arc::new(NoStore(error.to_string())), ..self.clone() }
    }
    /// Removes all that the partition has.
    pub fn clear(&self) -> Result<(), StoreError> {
        self.cache.forget(self.partition);
        self.store.drop_partition(self.partition)
    }
    /// The body of a block that must be there, verified.
    pub fn verified(&self, id: BlockId) -> Result<Arc<Vec<u8>>, StoreError> {
        if let Some(body) = self.cache.find(self.partition, id) {
            return Ok(body);
        }
        let stored = self.get(&id.key())?.ok_or(StoreError::Damaged("a block is missing"))?;
        let (_, body) = block::open(id, &stored).ok_or(StoreError::Damaged("a block is damaged"))?;
        let body = Arc::new(body.to_vec());
        self.cache.insert(self.partition, id, body.clone());
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_still_being_closed_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        drop(SledStore::open(dir.path()).unwrap());
        let former = File::open(dir.path().join(DATABASE_FILE)).unwrap();
        flock(&former, FlockOperation::LockExclusive).unwrap();
        let (opening, opens) = crossbeam_channel::bounded(0);
        std::thread::scope(|scope| {
            let path = dir.path();
            let opened = scope.spawn(move || {
                opening.send(()).unwrap();
                SledStore::open(path)
            });
            opens.recv().unwrap();
            assert!(
                matches!(sled::Config::new().path(path).open(), Err(sled::Error::Io(_))),
                "sled itself does not wait"
            );
            drop(former);
            assert!(opened.join().unwrap().is_ok());
        });
    }
}
