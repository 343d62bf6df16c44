//! The restores of a process: one thread beside the loops, so that other partitions go on and the group stays alive.

use super::leases::{Held, Leases};
use super::partition::Cancel;
use super::restore::{Failed, Follower, StartAt, Surroundings};
use super::rules::Rules;
use super::status::{PartitionState, Status};
use super::{Stop, time};
use crate::kafka::{InputOffsets, ReadStep, Reader};
use crate::observe::Metrics;
use crate::projection::{BlockCache, LogIdentity, NoStore, Projection, Store, Tree, Writer};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the thread waits for records or jobs.
const WAIT: Duration = Duration::from_millis(20);
/// How often it is seen whether partitions need a warm follower.
const WARM_EVERY: Duration = Duration::from_millis(500);
/// The group settles first: what this process is about to own needs no warm follower.
const WARM_AFTER: Duration = Duration::from_secs(3);
/// A turn that takes longer stands still, in a request or with the whole process: that is no stall of a restore.
const STANDSTILL: Duration = Duration::from_secs(1);
/// How often it is said that restores cannot begin.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How long a job that could not begin waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
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
    /// Whether the other partitions' state is kept warm.
    pub standby: bool,
    /// Who holds which tree.
    pub leases: Leases,
    /// The disk.
    pub store: Arc<dyn Store>,
    /// Who writes to the disk.
    pub writer: Writer,
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
    waiting: Vec<RestoreJob>,
    followers: BTreeMap<i32, Follower>,
    /// Followers of partitions that other processes have.
    warm: BTreeMap<i32, Follower>,
    look_for_warm_at: Instant,
    failing_since: Option<Instant>,
    not_before: Instant,
    /// When it was last said that restores cannot begin.
    warned_at: Option<Instant>,
    /// When the last turn ended.
    advanced_at: Instant,
}

impl<R: Reader> Restorer<R> {
    /// A restorer without work.
    pub fn new(parts: RestorerParts<R>) -> Self {
        let now = time::now();
        Self {
            parts,
            waiting: Vec::new(),
            followers: BTreeMap::new(),
            warm: BTreeMap::new(),
            look_for_warm_at: now + WARM_AFTER,
            failing_since: None,
            not_before: now,
            warned_at: None,
            advanced_at: now,
        }
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
        self.keep_warm();
        self.read();
        self.advance();
        true
    }

    fn take_jobs(&mut self) -> bool {
        let idle = self.waiting.is_empty() && self.followers.is_empty() && !self.parts.standby;
        let mut received = if idle {
            self.parts.jobs.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.parts.jobs.try_recv()
        };
        loop {
            match received {
                Ok(job) => self.waiting.push(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
            received = self.parts.jobs.try_recv();
        }
    }

    fn drop_cancelled(&mut self) {
        self.waiting.retain(|job| !job.cancel.is_cancelled());
        let gone: Vec<i32> = self.followers.values().filter(|f| f.cancel.is_cancelled()).map(|f| f.partition).collect();
        for partition in gone {
            if let Some(follower) = self.followers.remove(&partition) {
                follower.stop_reading(&mut self.parts.reader);
            }
        }
    }

    /// Begins the jobs whose trees are free: their stable offsets in one request, then each in turn.
    fn begin_waiting(&mut self) {
        if self.waiting.is_empty() {
            // What failed was given up, or has begun.
            self.failing_since = None;
            return;
        }
        if time::now() < self.not_before {
            return;
        }
        let leases = self.parts.leases.clone();
        let mut ready = Vec::new();
        let mut still = Vec::new();
        for job in std::mem::take(&mut self.waiting) {
            match leases.take(job.partition) {
                Some(held) => ready.push((job, held)),
                None => still.push(job),
            }
        }
        self.waiting = still;
        let partitions: Vec<i32> = ready.iter().map(|(job, _)| job.partition).collect();
        if partitions.is_empty() {
            time::pause(Duration::from_millis(1));
            return;
        }
        let committed = self.parts.reader.committed(&partitions);
        match committed {
            Ok(committed) => {
                for (job, held) in ready {
                    let found = committed.iter().find(|(p, _)| *p == job.partition).map(|(_, o)| *o);
                    let found = found.unwrap_or_default();
                    match self.warm.remove(&job.partition) {
                        Some(mut warm) => {
                            warm.serve(job);
                            self.begin(warm, Some((held, found)));
                        }
                        None => self.begin(Follower::new(job, held, found), None),
                    }
                }
            }
            Err(fault) => {
                for (job, _) in ready {
                    self.failed_to_begin(job, Failed::from(fault.clone()));
                }
            }
        }
    }

    /// Tells from where the inputs will go on, and how much there is to read.
    fn report_begin(&self, follower: &Follower) {
        let (start, remaining) = (follower.start(), follower.remaining());
        self.parts.status.amend(follower.partition, |s| {
            (s.restore_remaining, s.restore_total) = (remaining, remaining);
            for (input, next) in s.inputs.iter_mut().zip([start.live, start.backfill]) {
                (input.next, input.read_to) = (next.unwrap_or(input.next), next);
            }
        });
    }

    fn report_progress(&self, partition: i32, remaining: u64) {
        let now_ms = (self.parts.clock)();
        self.parts.status.amend(partition, |s| {
            if s.restore_remaining != remaining {
                s.progress_ms = now_ms;
            }
            s.restore_remaining = remaining;
            s.restore_total = s.restore_total.max(remaining);
        });
    }

    fn begin(&mut self, mut follower: Follower, taken_over: Option<(Held, InputOffsets)>) {
        let tree = Tree::new(follower.partition, self.parts.store.clone(), self.parts.cache.clone());
        let around = &mut surroundings(&mut self.parts);
        let began = match taken_over {
            Some(held) => follower.take_over(held, tree, around),
            None => follower.begin(tree, around),
        };
        if let Some(reason) = follower.take_discarded() {
            self.parts.metrics.state_discarded(reason);
        }
        match began {
            Ok(()) => {
                self.report_begin(&follower);
                self.followers.insert(follower.partition, follower);
            }
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
                let since = *self.failing_since.get_or_insert_with(time::now);
                if time::since(since) < MAX_FAILING {
                    self.say_waiting(job.partition, &cause);
                    self.not_before = time::now() + RETRY_AFTER;
                    self.waiting.push(job);
                    return;
                }
                Stop(format!(
                    "partition {} could not be restored for {} s: {cause}",
                    job.partition,
                    MAX_FAILING.as_secs()
                ))
            }
        };
        self.report_failure(job.partition);
        let _ = job.reply.send(Restored { partition: job.partition, cancel: job.cancel, result: Err(stop) });
    }

    /// A moment's failure is nobody's business; what lasts must not be silent, nor fill the log.
    fn say_waiting(&mut self, partition: i32, cause: &str) {
        let lasts = self.failing_since.is_some_and(|since| time::since(since) > WARN_EVERY);
        if !lasts || self.warned_at.is_some_and(|at| time::since(at) < WARN_EVERY) {
            tracing::debug!(partition, cause, "the restore is tried again");
            return;
        }
        self.warned_at = Some(time::now());
        tracing::warn!(partition, cause, "the restore cannot begin yet; it is tried again");
    }

    fn report_failure(&self, partition: i32) {
        self.parts.metrics.restore("failed");
        self.parts.status.amend(partition, |s| s.state = PartitionState::Failed);
    }

    /// Sees that each partition of another process has a warm follower, where that is asked for.
    fn keep_warm(&mut self) {
        if !self.parts.standby || time::now() < self.look_for_warm_at {
            return;
        }
        self.look_for_warm_at = time::now() + WARM_EVERY;
        self.warm.values_mut().for_each(Follower::expire);
        self.warm.keys().for_each(|p| self.parts.status.standby(*p));
        for partition in 0..self.parts.identity.partitions {
            let ours =
                self.parts.leases.is_held(partition) || self.waiting.iter().any(|job| job.partition == partition);
            if ours || self.warm.contains_key(&partition) {
                continue;
            }
            let mut follower = Follower::warm(partition);
            let in_memory: Arc<dyn Store> = Arc::new(NoStore("a standby stays in memory".into()));
            let tree = Tree::new(partition, in_memory, Arc::default());
            match follower.begin_warm(tree, &mut surroundings(&mut self.parts)) {
                Ok(()) => {
                    self.parts.status.standby(partition);
                    self.warm.insert(partition, follower);
                }
                Err(_) => follower.stop_reading(&mut self.parts.reader),
            }
        }
    }

    /// A warm follower cannot go on: it begins again at the next look.
    fn drop_warm(&mut self, partition: i32) {
        if let Some(follower) = self.warm.remove(&partition) {
            follower.stop_reading(&mut self.parts.reader);
            self.parts.status.no_standby(partition);
        }
    }

    /// Reads a batch of records for all followers.
    fn read(&mut self) {
        if self.followers.is_empty() && self.warm.is_empty() {
            // Only where partitions are to be kept warm: otherwise an idle restorer waits for its next job.
            if self.waiting.is_empty() {
                time::pause(WAIT);
            }
            return;
        }
        let (followers, warm) = (&mut self.followers, &mut self.warm);

        let mut failed: BTreeMap<i32, Failed> = BTreeMap::new();
        self.parts.reader.read(WAIT, &mut |step| {
            let (partition, outcome) = match step {
                ReadStep::Record(log, record) => {
                    let follower = either(followers, warm, record.partition);
                    (record.partition, follower.map_or(Ok(()), |f| f.record(log, &record)))
                }
                ReadStep::End(log, partition, offset) => {
                    either(followers, warm, partition).into_iter().for_each(|f| f.end(log, offset));
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
        let Some(follower) = self.followers.remove(&partition) else { return self.drop_warm(partition) };
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
                self.not_before = time::now() + RETRY_AFTER;
                self.waiting.push(follower.into_job());
            }
            Failed::Retry(cause) => {
                tracing::warn!(partition, cause, "the restore begins again");
                self.not_before = time::now() + RETRY_AFTER;
                self.waiting.push(follower.into_job());
            }
        }
    }

    fn advance(&mut self) {
        let took = time::since(std::mem::replace(&mut self.advanced_at, time::now()));
        if took > STANDSTILL {
            self.followers.values_mut().for_each(|f| f.was_blocked(took));
        }
        for (partition, follower) in &self.warm {
            let read_to = follower.read_to();
            self.parts.status.amend(*partition, |s| s.standby_read_to = read_to);
        }
        let partitions: Vec<i32> = self.followers.keys().copied().collect();
        for partition in partitions {
            let Some(follower) = self.followers.get_mut(&partition) else { continue };
            match follower.advance(&mut surroundings(&mut self.parts)) {
                Ok(false) => {
                    follower.spill(&self.parts.writer);
                    let remaining = follower.remaining();
                    self.report_progress(partition, remaining);
                }
                Ok(true) => {
                    self.failing_since = None;
                    self.report_progress(partition, 0);
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

fn either<'f>(
    followers: &'f mut BTreeMap<i32, Follower>,
    warm: &'f mut BTreeMap<i32, Follower>,
    partition: i32,
) -> Option<&'f mut Follower> {
    followers.get_mut(&partition).or_else(|| warm.get_mut(&partition))
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
