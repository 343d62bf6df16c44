//! The restores of a process: one thread beside the loops, so that other partitions go on and the group stays alive.

use super::Stop;
use super::leases::{Held, Leases};
use super::partition::Cancel;
use super::restore::{Failed, Follower, RETRY_AFTER, StartAt, Surroundings};
use super::rules::Rules;
use super::status::{PartitionState, Status};
use crate::kafka::{InputOffsets, ReadStep, Reader};
use crate::observe::Metrics;
use crate::projection::{BlockCache, LogIdentity, Projection, Store, Tree};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the thread waits for records or jobs.
const WAIT: Duration = Duration::from_millis(20);
/// How long a restore may fail to begin before the process ends.
const MAX_FAILING: Duration = Duration::from_secs(300);

/// An order to restore a partition.
pub struct RestoreJob {
    /// The partition.
    pub partition: i32,
    /// Says that it is no longer wanted.
    pub cancel: Cancel,
    /// Where the result goes.
    pub reply: Sender<Restored>,
}

/// A restored partition, or why the process must end.
pub struct Restored {
    /// The partition.
    pub partition: i32,
    /// The order's.
    pub cancel: Cancel,
    /// The result.
    pub result: Result<RestoredState, Stop>,
}

/// What a restore made.
pub struct RestoredState {
    /// The local state, equal to the logs' folds up to their ends.
    pub projection: Projection,
    /// The right to write its tree.
    pub held: Held,
    /// The next offset of the commands topic.
    pub live: i64,
    /// The next offset of the backfill topic.
    pub backfill: i64,
    /// What is committed.
    pub committed: InputOffsets,
    /// Whether nothing is on disk yet, so that a round is due at once.
    pub round_due: bool,
}

/// What a restorer is made of.
pub struct RestorerParts<R> {
    /// The reader of the logs.
    pub reader: R,
    /// What it works by.
    pub rules: Arc<Rules>,
    /// Whose logs they are.
    pub identity: LogIdentity,
    /// How to go on without committed offsets.
    pub start_at: Option<StartAt>,
    /// Who holds which tree.
    pub leases: Leases,
    /// The disk.
    pub store: Arc<dyn Store>,
    /// Verified blocks.
    pub cache: Arc<BlockCache>,
    /// Where it reports.
    pub status: Arc<Status>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Orders; the restorer ends when nobody can order any more.
    pub jobs: Receiver<RestoreJob>,
    /// The time, milliseconds since the epoch.
    pub clock: fn() -> i64,
}

/// Restores partitions, several at a time.
pub struct Restorer<R: Reader> {
    parts: RestorerParts<R>,
    waiting: Vec<(RestoreJob, Instant)>,
    followers: BTreeMap<i32, Follower>,
    failing_since: Option<Instant>,
    not_before: Instant,
}

impl<R: Reader> Restorer<R> {
    /// A restorer without work.
    pub fn new(parts: RestorerParts<R>) -> Self {
        Self { parts, waiting: Vec::new(), followers: BTreeMap::new(), failing_since: None, not_before: Instant::now() }
    }

    /// Runs until nobody can order any more.
    pub fn run(mut self) {
        while self.step() {}
    }

    /// One turn; `false` when it has ended.
    pub fn step(&mut self) -> bool {
        if !self.take_jobs() {
            return false;
        }
        self.drop_cancelled();
        self.begin_waiting();
        self.read();
        self.advance();
        true
    }

    fn take_jobs(&mut self) -> bool {
        let idle = self.waiting.is_empty() && self.followers.is_empty();
        let mut received = if idle { self.parts.jobs.recv().map_err(|_| TryRecvError::Disconnected) } else { self.parts.jobs.try_recv() };
        loop {
            match received {
                Ok(job) => self.waiting.push((job, Instant::now())),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
            received = self.parts.jobs.try_recv();
        }
    }

    fn drop_cancelled(&mut self) {
        self.waiting.retain(|(job, _)| !job.cancel.is_cancelled());
        let gone: Vec<i32> = self.followers.values().filter(|f| f.cancel.is_cancelled()).map(|f| f.partition).collect();
        for partition in gone {
            if let Some(follower) = self.followers.remove(&partition) {
                follower.stop_reading(&mut self.parts.reader);
            }
        }
    }

    /// Begins the jobs whose trees are free: their stable offsets in one request, then each in turn.
    fn begin_waiting(&mut self) {
        if self.waiting.is_empty() || Instant::now() < self.not_before {
            return;
        }
        let leases = self.parts.leases.clone();
        let mut ready = Vec::new();
        let mut still = Vec::new();
        for (job, since) in std::mem::take(&mut self.waiting) {
            match leases.take(job.partition) {
                Some(held) => ready.push((job, held)),
                None => still.push((job, since)),
            }
        }
        self.waiting = still;
        let partitions: Vec<i32> = ready.iter().map(|(job, _)| job.partition).collect();
        if partitions.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            return;
        }
        match self.parts.reader.committed(&partitions) {
            Ok(committed) => {
                for (job, held) in ready {
                    let found = committed.iter().find(|(p, _)| *p == job.partition).map(|(_, o)| *o);
                    self.begin(Follower::new(job, held, found.unwrap_or_default()));
                }
            }
            Err(fault) => {
                for (job, _) in ready {
                    self.failed_to_begin(job, Failed::from(fault.clone()));
                }
            }
        }
    }

    fn begin(&mut self, mut follower: Follower) {
        let tree = Tree::new(follower.partition, self.parts.store.clone(), self.parts.cache.clone());
        match follower.begin(tree, &mut surroundings(&mut self.parts)) {
            Ok(()) => drop(self.followers.insert(follower.partition, follower)),
            Err(failed) => {
                follower.stop_reading(&mut self.parts.reader);
                self.failed_to_begin(follower.into_job(), failed);
            }
        }
    }

    fn failed_to_begin(&mut self, job: RestoreJob, failed: Failed) {
        let stop = match failed {
            Failed::Stop(stop) => stop,
            Failed::Discard(error) => Stop(error.to_string()),
            Failed::Retry(cause) => {
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() < MAX_FAILING {
                    tracing::debug!(partition = job.partition, cause, "the restore is tried again");
                    self.not_before = Instant::now() + RETRY_AFTER;
                    self.waiting.push((job, Instant::now()));
                    return;
                }
                Stop(format!("partition {} could not be restored for {} s: {cause}", job.partition, MAX_FAILING.as_secs()))
            }
        };
        self.report_failure(job.partition);
        let _ = job.reply.send(Restored { partition: job.partition, cancel: job.cancel, result: Err(stop) });
    }

    fn report_failure(&self, partition: i32) {
        self.parts.metrics.restore("failed");
        self.parts.status.update(partition, |s| s.state = PartitionState::Failed);
    }

    /// Reads a batch of records for all followers.
    fn read(&mut self) {
        if self.followers.is_empty() {
            return;
        }
        let followers = &mut self.followers;
        let mut failed: BTreeMap<i32, Failed> = BTreeMap::new();
        self.parts.reader.read(WAIT, &mut |step| {
            let (partition, outcome) = match step {
                ReadStep::Record(log, record) => {
                    let follower = followers.get_mut(&record.partition);
                    (record.partition, follower.map_or(Ok(()), |f| f.record(log, &record)))
                }
                ReadStep::End(log, partition, offset) => {
                    followers.get_mut(&partition).into_iter().for_each(|f| f.end(log, offset));
                    (partition, Ok(()))
                }
                ReadStep::Failed(_, partition, fault) => (partition, Err(Failed::from(fault))),
            };
            if let Err(failure) = outcome {
                failed.entry(partition).or_insert(failure);
            }
        });
        failed.into_iter().for_each(|(partition, failure)| self.failed(partition, failure));
    }

    /// A restore under way cannot go on: from the start again, the doubtful state discarded, or the end.
    fn failed(&mut self, partition: i32, failure: Failed) {
        let Some(follower) = self.followers.remove(&partition) else { return };
        follower.stop_reading(&mut self.parts.reader);
        match failure {
            Failed::Stop(stop) => {
                self.report_failure(partition);
                follower.fail(stop);
            }
            Failed::Discard(error) => {
                tracing::warn!(partition, %error, "the local state is discarded and restored from Kafka");
                self.parts.metrics.state_discarded("read_failed");
                let tree = Tree::new(partition, self.parts.store.clone(), self.parts.cache.clone());
                // An error is met again, and answered by memory, when the next attempt opens the tree.
                let _ = tree.clear();
                self.waiting.push((follower.into_job(), Instant::now()));
            }
            Failed::Retry(cause) => {
                tracing::warn!(partition, cause, "the restore begins again");
                self.not_before = Instant::now() + RETRY_AFTER;
                self.waiting.push((follower.into_job(), Instant::now()));
            }
        }
    }

    fn advance(&mut self) {
        let partitions: Vec<i32> = self.followers.keys().copied().collect();
        for partition in partitions {
            let Some(follower) = self.followers.get_mut(&partition) else { continue };
            match follower.advance(&mut surroundings(&mut self.parts)) {
                Ok(false) => {
                    let remaining = follower.remaining();
                    self.parts.status.update(partition, |s| s.restore_remaining = remaining);
                }
                Ok(true) => {
                    self.failing_since = None;
                    self.parts.status.update(partition, |s| s.restore_remaining = 0);
                    if let Some(follower) = self.followers.remove(&partition) {
                        self.parts.metrics.restore(follower.kind());
                        follower.finish();
                    }
                }
                Err(failure) => self.failed(partition, failure),
            }
        }
    }
}

fn surroundings<R>(parts: &mut RestorerParts<R>) -> Surroundings<'_, R> {
    Surroundings {
        reader: &mut parts.reader,
        rules: &parts.rules,
        identity: &parts.identity,
        start_at: parts.start_at,
        now_ms: (parts.clock)(),
    }
}
