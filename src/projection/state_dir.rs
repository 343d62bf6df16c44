//! The state directory: who holds it, and whether what it holds may be trusted.
//!
//! Trusted is a clean-shutdown mark, or no mark but the same boot, device and inode as noted: after a mere kill the page
//! cache survives. Everything else is doubt, and doubt is discarded: power loss leaves sled silently inconsistent in a
//! few of a hundred cases.

use super::block::FORMAT;
use super::store::{NoStore, SledStore, Store, StoreError};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// Opening sled reads all that was logged since the last open, 1–4 s per GB; longer than this is doubt.
const OPEN_DEADLINE: Duration = Duration::from_secs(120);
/// A process that was killed holds its lock until its memory is given back: a quick restart waits for that.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOCK: &str = "lock";
const INSTANCE: &str = "instance-id";
const FACTS: &str = "state.json";
const CLEAN: &str = "clean";
const DATABASE: &str = "sled";

/// What the directory remembers of the world outside; compared by the worker at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFacts {
    /// The cluster's id.
    pub cluster: String,
    /// Topic names and their ids.
    pub topics: BTreeMap<String, String>,
    /// How many partitions the topics have.
    pub partitions: i32,
}

#[derive(Default, Serialize, Deserialize)]
struct Noted {
    format: u8,
    boot_id: String,
    device: u64,
    inode: u64,
    #[serde(default)]
    facts: Option<StateFacts>,
}

/// Why a directory cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process holds it.
    #[error("the state directory {0} is in use by another worker: give each worker a worker.state_dir of its own")]
    InUse(PathBuf),
}

/// A state directory, locked by this process.
pub struct StateDir {
    path: PathBuf,
    /// Held for its lock; `None` when the directory cannot be written.
    lock: Option<File>,
    instance: Uuid,
    unusable: Option<String>,
}

impl StateDir {
    /// Creates (mode 0700) and locks the directory. One that cannot be written is no error: the worker goes on from memory.
    pub fn lock(path: &Path) -> Result<Self, StateDirError> {
        let locked = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)));
        let file = match locked {
            Ok(file) => file,
            Err(error) => return Ok(Self::unusable(path, &error)),
        };
        let deadline = Instant::now() + LOCK_PATIENCE;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > deadline {
                return Err(StateDirError::InUse(path.to_owned()));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        match instance_id(path) {
            Ok(instance) => Ok(Self { path: path.to_owned(), lock: Some(file), instance, unusable: None }),
            Err(error) => Ok(Self { lock: Some(file), ..Self::unusable(path, &error) }),
        }
    }

    fn unusable(path: &Path, error: &io::Error) -> Self {
        let why = format!("{} cannot be written: {error}", path.display());
        Self { path: path.to_owned(), lock: None, instance: Uuid::new_v4(), unusable: Some(why) }
    }

    /// Made once and kept here: it names this worker's transactions when `worker.instance_id` is empty.
    pub const fn instance(&self) -> Uuid {
        self.instance
    }
    /// Why the directory cannot be used, if so.
    pub fn why_unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }
    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that a directory takes, and that are free where it lies.
    pub fn usage(path: &Path) -> io::Result<(u64, u64)> {
        Ok((size_of_tree(path)?, Self::free(path)?))
    }

    /// Bytes that are free where a path lies.
    pub fn free(path: &Path) -> io::Result<u64> {
        let room = rustix::fs::statvfs(path)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    /// What was noted of the cluster, if anything.
    pub fn facts(&self) -> Option<StateFacts> {
        self.noted()?.facts
    }

    fn noted(&self) -> Option<Noted> {
        unsigned(&fs::read(self.path.join(FACTS)).ok()?)
    }

    /// Opens the store; also the reason when what was there had to be discarded.
    pub fn open_store(&mut self, facts: &StateFacts) -> (Arc<dyn Store>, Option<&'static str>) {
        if let Some(why) = &self.unusable {
            return (Arc::new(NoStore(why.clone())), None);
        }
        match self.try_open(facts) {
            Ok((store, discarded)) => (Arc::new(store), discarded),
            Err(error) => {
                self.unusable = Some(error.to_string());
                (Arc::new(NoStore(error.to_string())), None)
            }
        }
    }

    fn try_open(&self, facts: &StateFacts) -> Result<(SledStore, Option<&'static str>), StoreError> {
        let path = self.path.join(DATABASE);
        let unavailable = |e: io::Error| StoreError::Unavailable(e.to_string());
        let mut discarded = if path.exists() { self.doubt() } else { None };
        // What is in doubt goes before anything is noted: a kill in between must not make it look like this boot's.
        if discarded.is_some() {
            self.discard(&path).map_err(unavailable)?;
        }
        self.note(facts).map_err(unavailable)?;
        match open_by_deadline(&path) {
            Err(StoreError::Damaged(why)) => discarded = Some(why),
            other => return other.map(|store| (store, discarded)),
        }
        self.discard(&path).map_err(unavailable)?;
        open_by_deadline(&path).map(|store| (store, discarded))
    }

    fn discard(&self, database: &Path) -> io::Result<()> {
        fs::remove_dir_all(database)?;
        sync_dir(&self.path)
    }

    /// Deletes the store; `false` when there was none. What is noted beside it stays: it is not state.
    pub fn drop_store(&mut self) -> io::Result<bool> {
        let database = self.path.join(DATABASE);
        if let Some(why) = &self.unusable {
            return Err(io::Error::other(why.clone()));
        }
        if !database.exists() {
            return Ok(false);
        }
        self.discard(&database).map(|()| true)
    }

    /// Why what is there cannot be trusted.
    fn doubt(&self) -> Option<&'static str> {
        let Some(noted) = self.noted() else { return Some("nothing says where it comes from") };
        let Ok((boot_id, device, inode)) = self.here() else { return Some("the boot id cannot be read") };
        let same_boot = !boot_id.is_empty() && (noted.boot_id, noted.device, noted.inode) == (boot_id, device, inode);
        if noted.format != FORMAT {
            Some("it has another format")
        } else if !same_boot && !self.path.join(CLEAN).exists() {
            Some("no clean shutdown before a reboot, or a copy of it")
        } else {
            None
        }
    }

    fn here(&self) -> io::Result<(String, u64, u64)> {
        let meta = fs::metadata(&self.path)?;
        let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Ok((boot_id.trim().to_owned(), meta.dev(), meta.ino()))
    }

    /// Notes boot, place and cluster, and takes the clean mark away, before the first write.
    fn note(&self, facts: &StateFacts) -> io::Result<()> {
        let (boot_id, device, inode) = self.here()?;
        let noted = Noted { format: FORMAT, boot_id, device, inode, facts: Some(facts.clone()) };
        write_synced(&self.path.join(FACTS), &signed(&noted)?)?;
        match fs::remove_file(self.path.join(CLEAN)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sync_dir(&self.path)
    }

    /// Marks a clean shutdown. The store must be closed: nothing may write after this.
    pub fn mark_clean(self) -> io::Result<()> {
        if self.unusable.is_some() || self.lock.is_none() {
            return Ok(());
        }
        sync_tree(&self.path.join(DATABASE))?;
        write_synced(&self.path.join(CLEAN), b"")
    }

    /// Opens a copy of the store of a directory that no worker holds, to look at it; the directory stays as it is.
    pub fn open_to_read(path: &Path) -> Result<(Copy, SledStore), String> {
        if !path.join(DATABASE).exists() {
            return Err(format!("there is no state in {}", path.display()));
        }
        let dir = Self::lock(path).map_err(|e| e.to_string())?;
        if let Some(doubt) = dir.doubt() {
            return Err(format!("the state in {} is in doubt: {doubt}", path.display()));
        }
        let copy = Copy { path: path.join(format!("looked-at-{}", std::process::id())), _dir: dir };
        copy_tree(&path.join(DATABASE), &copy.path).map_err(|e| e.to_string())?;
        let store = open_by_deadline(&copy.path).map_err(|e| e.to_string())?;
        Ok((copy, store))
    }
}

/// A copy of a store, removed when dropped; the directory stays locked as long.
pub struct Copy {
    path: PathBuf,
    _dir: StateDir,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Nothing reads it any more; what cannot be removed does no harm but take room.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What goes while it is counted takes nothing.
fn size_of_tree(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)?.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        bytes += if meta.is_dir() { size_of_tree(&entry.path()).unwrap_or(0) } else { meta.blocks() * 512 };
    }
    Ok(bytes)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?
        } else {
            fs::copy(entry.path(), target).map(drop)?
        }
    }
    Ok(())
}

/// A checksum line before the JSON: a flipped bit in a topic's id must not look like another topic.
fn signed(noted: &Noted) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec_pretty(noted)?;
    let mut out = format!("{:016x}\n", xxh3_64(&body)).into_bytes();
    out.extend_from_slice(&body);
    Ok(out)
}

fn unsigned(content: &[u8]) -> Option<Noted> {
    let (line, body) = content.split_at_checked(17)?;
    let intact = line == format!("{:016x}\n", xxh3_64(body)).as_bytes();
    if intact { serde_json::from_slice(body).ok() } else { None }
}

fn instance_id(path: &Path) -> io::Result<Uuid> {
    let file = path.join(INSTANCE);
    if let Some(id) = fs::read_to_string(&file).ok().and_then(|t| Uuid::parse_str(t.trim()).ok()) {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    write_synced(&file, id.to_string().as_bytes())?;
    sync_dir(path)?;
    Ok(id)
}

/// Replaces a file whole: a reader sees the old or the new content.
fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { sync_tree(&entry.path())? } else { File::open(entry.path())?.sync_all()? }
    }
    sync_dir(path)
}

/// sled may hang or panic on damage, so it is opened on a thread that can be given up.
fn open_by_deadline(path: &Path) -> Result<SledStore, StoreError> {
    let (done, opened) = crossbeam_channel::bounded(1);
    let path = path.to_owned();
    std::thread::Builder::new()
        .name("open-store".into())
        .spawn(move || {
            // After the deadline nobody listens, and the store is closed again.
            let _ = done.send(SledStore::open(&path));
        })
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    opened.recv_timeout(OPEN_DEADLINE).unwrap_or(Err(StoreError::Damaged("opening it took too long")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> StateFacts {
        StateFacts { cluster: "c".into(), topics: BTreeMap::from([("t".into(), "1".into())]), partitions: 8 }
    }

    fn opened(dir: &Path) -> (StateDir, Arc<dyn Store>, Option<&'static str>) {
        let mut state = StateDir::lock(dir).unwrap();
        let (store, discarded) = state.open_store(&facts());
        (state, store, discarded)
    }

    #[test]
    fn a_directory_has_one_holder_and_keeps_its_instance() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::lock(dir.path()).unwrap();
        assert!(matches!(StateDir::lock(dir.path()), Err(StateDirError::InUse(_))));
        let instance = first.instance();
        drop(first);
        assert_eq!(StateDir::lock(dir.path()).unwrap().instance(), instance);
    }

    #[test]
    fn a_store_is_trusted_after_a_kill_on_the_same_boot_and_after_a_clean_end() {
        let dir = tempfile::tempdir().unwrap();
        let (state, store, _) = opened(dir.path());
        store.put(0, b"k", b"v").unwrap();
        store.flush().unwrap();
        drop((state, store));
        let (state, store, discarded) = opened(dir.path());
        assert_eq!((discarded, store.get(0, b"k").unwrap()), (None, Some(b"v".to_vec())));
        assert_eq!(state.facts(), Some(facts()));
        drop(store);
        state.mark_clean().unwrap();
        forge(dir.path(), |noted| noted.boot_id = "another boot".into());
        let (state, store, discarded) = opened(dir.path());
        assert_eq!((discarded, store.get(0, b"k").unwrap()), (None, Some(b"v".to_vec())));
        drop((state, store));
    }

    fn forge(dir: &Path, change: impl FnOnce(&mut Noted)) {
        let path = dir.join(FACTS);
        let mut noted = unsigned(&fs::read(&path).unwrap()).unwrap();
        change(&mut noted);
        fs::write(path, signed(&noted).unwrap()).unwrap();
    }

    #[test]
    fn a_flipped_bit_in_the_facts_is_doubt_never_another_fact() {
        let dir = tempfile::tempdir().unwrap();
        let (state, store, _) = opened(dir.path());
        drop(store);
        let good = fs::read(dir.path().join(FACTS)).unwrap();
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.path().join(FACTS), &flipped).unwrap();
            assert_eq!(state.facts(), None, "bit {bit}");
        }
    }

    #[test]
    fn whatever_is_in_doubt_is_discarded() {
        type Change = fn(&mut Noted);
        let changes: [(&str, Change); 3] = [
            ("boot_id", |noted| noted.boot_id = "another boot".into()),
            ("inode", |noted| noted.inode = 1),
            ("format", |noted| noted.format = 99),
        ];
        for (field, change) in changes {
            let dir = tempfile::tempdir().unwrap();
            let (state, store, _) = opened(dir.path());
            store.put(0, b"k", b"v").unwrap();
            store.flush().unwrap();
            drop((state, store));
            forge(dir.path(), change);
            let (_state, store, discarded) = opened(dir.path());
            assert!(discarded.is_some(), "{field}");
            assert_eq!(store.get(0, b"k").unwrap(), None, "{field}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_leaves_the_worker_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let mut state = StateDir::lock(&dir.path().join("file")).unwrap();
        assert!(state.why_unusable().is_some());
        let (store, _) = state.open_store(&facts());
        assert!(matches!(store.put(0, b"k", b"v"), Err(StoreError::Unavailable(_))));
    }
}
