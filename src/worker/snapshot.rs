//! A partition's state for whoever only looks: folded from the logs as a restore does it, without a group, a lease or a disk.

use super::Stop;
use super::restore::{Failed, Follower, Surroundings};
use super::rules::Rules;
use crate::kafka::{ReadStep, Reader};
use crate::projection::{LogIdentity, NoStore, Positions, Projection, Store, Tree};
use std::sync::Arc;
use std::time::Duration;

/// How long one wait for records is.
const WAIT: Duration = Duration::from_millis(20);

/// What a snapshot is made with.
pub struct SnapshotParts<'r, R> {
    /// The reader of the logs.
    pub reader: &'r mut R,
    /// What it works by.
    pub rules: &'r Rules,
    /// Whose logs they are.
    pub identity: &'r LogIdentity,
    /// The time, milliseconds since the epoch.
    pub now_ms: i64,
}

/// A partition's state, and up to where the logs were read.
pub struct Snapshot {
    /// The state.
    pub projection: Projection,
    /// The next offsets of both logs.
    pub ends: Positions,
    /// Why what the tree held was discarded, if it was.
    pub discarded: Option<&'static str>,
}

impl<R: Reader> SnapshotParts<'_, R> {
    /// The state that the logs alone give, up to their ends or `limit`.
    pub fn of_logs(&mut self, partition: i32, limit: Option<Positions>) -> Result<Snapshot, Stop> {
        let in_memory: Arc<dyn Store> = Arc::new(NoStore("a snapshot stays in memory".into()));
        let mut follower = Follower::onlooker(partition, limit);
        let began = follower.begin_warm(Tree::new(partition, in_memory, Arc::default()), &mut self.surroundings());
        self.read(follower, began.map(|()| None))
    }

    /// The state that a tree gives, with the logs' tails up to their ends.
    pub fn of_tree(&mut self, partition: i32, tree: Tree) -> Result<Snapshot, Stop> {
        let mut follower = Follower::onlooker(partition, None);
        let began = follower.begin_from(tree, &mut self.surroundings());
        self.read(follower, began)
    }

    fn surroundings(&mut self) -> Surroundings<'_, R> {
        Surroundings {
            reader: self.reader,
            rules: self.rules,
            identity: self.identity,
            start_at: None,
            now_ms: self.now_ms,
        }
    }

    fn read(&mut self, mut follower: Follower, began: Result<Option<&'static str>, Failed>) -> Result<Snapshot, Stop> {
        let ended = began.and_then(|discarded| {
            while !follower.advance(&mut self.surroundings())? {
                self.read_some(&mut follower)?;
            }
            Ok(discarded)
        });
        follower.stop_reading(self.reader);
        let partition = follower.partition;
        let discarded = ended.map_err(|failed| match failed {
            Failed::Stop(stop) => stop,
            Failed::Retry(cause) => Stop(format!("partition {partition} cannot be read: {cause}")),
            Failed::Discard(error) => Stop(format!("partition {partition}: {error}")),
        })?;
        let read = follower.into_projection();
        let (projection, ends) = read.ok_or_else(|| Stop(format!("partition {partition} was not read")))?;
        Ok(Snapshot { projection, ends, discarded })
    }

    fn read_some(&mut self, follower: &mut Follower) -> Result<(), Failed> {
        let mut failed = Ok(());
        self.reader.read(WAIT, &mut |step| {
            let outcome = match step {
                ReadStep::Record(log, record) if record.partition == follower.partition => {
                    follower.record(log, &record)
                }
                ReadStep::End(log, partition, offset) if partition == follower.partition => {
                    follower.end(log, offset);
                    Ok(())
                }
                ReadStep::Failed(_, partition, fault) if partition == follower.partition => Err(fault.into()),
                // What was still queued of a partition that was read before.
                _ => Ok(()),
            };
            if failed.is_ok() {
                failed = outcome;
            }
        });
        failed
    }
}
