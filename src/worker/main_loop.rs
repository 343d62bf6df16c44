//! The loop: the one author of the order of steps. [`Loop::step`] is the protocol.

use super::batch::{CommittedBatch, StagedBatch};
use super::partition::{Cancel, Partition, Running};
use super::queries::Question;
use super::restorer::{RestoreJob, Restored};
use super::rules::Rules;
use super::share::Share;
use super::stage::{Place, Stager};
use super::status::{PartitionState, PartitionStatus, Status};
use super::{Stop, time};
use crate::kafka::{GroupEvent, Input, InputOffsets, Log, Record};
use crate::mutation::{self, Mutation};
use crate::observe::{Metrics, Traces};
use crate::projection::Writer;
use crate::wire::Omit;
use crossbeam_channel::{Receiver, Sender, unbounded};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an idle loop waits for a record before it looks after its group and checkpoints again.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// The same while a restore or round is under way.
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// Most time that the rounds of revoked partitions may take: meanwhile the loop's others wait.
const REVOKE_ROUNDS: Duration = Duration::from_secs(2);
/// How many batches the waiting room holds.
const ROOM_BATCHES: usize = 4;
/// How many records it holds at most, where a batch is no larger: more was measured to cost memory and to fill batches hardly better.
const ROOM_RECORDS: usize = 12_000;
/// What a loop is made of.
pub struct LoopParts<L> {
    /// Its connection.
    pub log: L,
    /// What it works by.
    pub rules: Arc<Rules>,
    /// Where restores are ordered.
    pub restores: Sender<RestoreJob>,
    /// Who writes to the disk.
    pub writer: Writer,
    /// Where it reports.
    pub status: Arc<Status>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Where spans of traced commands go, if they do.
    pub traces: Option<Arc<Traces>>,
    /// What people ask of its cards and requests.
    pub questions: Receiver<Question>,
    /// The time, milliseconds since the epoch.
    pub clock: fn() -> i64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// A batch was committed and applied.
    Worked,
    /// Nothing was waiting, or the batch is to be run again.
    Idle,
}

/// A loop: one group member, one transactional producer, and the partitions assigned to it.
pub struct Loop<L: Log> {
    pub(super) parts: LoopParts<L>,
    pub(super) stager: Stager,
    pub(super) partitions: BTreeMap<i32, Partition>,
    /// The waiting room: what was read and is not committed yet, in order.
    pub(super) batch: Vec<(Input, Record)>,
    pub(super) batch_bytes: usize,
    pub(super) refused: HashMap<Place, Omit>,
    /// How many records the next batch takes; fewer after the broker refused a request of several.
    pub(super) most: usize,
    restored: (Sender<Restored>, Receiver<Restored>),
    pub(super) failing_since: Option<Instant>,
    pub(super) share: Share,
    pub(super) waited_for_disk: bool,
    /// The partition with which the next step of the checkpoint begins.
    pub(super) checkpoint_first: i32,
    /// It has been told to end: what the group still gives it is not taken up.
    pub(super) ending: bool,
}

impl<L: Log> Loop<L> {
    /// A loop without partitions; the group will give it some.
    pub fn new(parts: LoopParts<L>) -> Self {
        Self {
            stager: Stager::new(parts.rules.clone()),
            partitions: BTreeMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            refused: HashMap::new(),
            most: parts.rules.batch_max_records,
            restored: unbounded(),
            failing_since: None,
            share: Share::new(parts.rules.backfill_max_rate, parts.rules.marker_time, time::now()),
            waited_for_disk: false,
            checkpoint_first: 0,
            ending: false,
            parts,
        }
    }

    /// One turn of the protocol: poll, decode, decide, stage, commit, apply; then the checkpoint follows.
    pub fn step(&mut self) -> Result<Flow, Stop> {
        self.follow_group()?;
        self.start_restored()?;
        self.take_ends();
        self.poll()?;
        let mut flow = Flow::Idle;
        if let Some(staged) = self.stage()?
            && let Some(committed) = self.commit(staged)?
        {
            self.apply(&committed);
            self.stager.reuse(committed);
            self.begin_rounds();
            flow = Flow::Worked;
        }
        self.checkpoint();
        self.report_inputs();
        self.answer_questions();
        Ok(flow)
    }

    /// Ends in order: checkpoints within `timeout`, then gives all partitions up. What is not committed is read again.
    pub fn end(mut self, timeout: Duration) -> Result<(), Stop> {
        self.retain_waiting(|_, _| false);
        self.ending = true;
        let ended = self.last_rounds_of_all(timeout);
        let all: Vec<i32> = self.partitions.keys().copied().collect();
        ended.and(self.give_up(&all))
    }

    // --- poll ---

    pub(super) fn follow_group(&mut self) -> Result<(), Stop> {
        let events = match self.parts.log.events() {
            Ok(events) => events,
            Err(fault) => return self.bear(fault),
        };
        for event in events {
            match event {
                GroupEvent::Assigned(partitions) => self.assigned(&partitions),
                GroupEvent::Revoked(partitions) if mutation::on(Mutation::GiveUpBeforeTransaction) => {
                    self.poll()?;
                    self.parts.log.stop(&partitions).or_else(|fault| self.bear(fault))?;
                    if let Some(staged) = self.stage()? {
                        self.commit(staged)?;
                    }
                    self.give_up(&partitions)?;
                }
                GroupEvent::Revoked(partitions) => {
                    self.parts.metrics.rebalance("revoked");
                    self.last_rounds(&partitions, REVOKE_ROUNDS);
                    self.give_up(&partitions)?;
                }
                GroupEvent::Lost(partitions) => {
                    self.parts.metrics.rebalance("lost");
                    self.parts.status.lost();
                    self.give_up(&partitions)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn assigned(&mut self, partitions: &[i32]) {
        self.parts.metrics.rebalance("assigned");
        self.parts.status.assigned();
        self.parts.status.heard((self.parts.clock)());
        if !partitions.is_empty() {
            tracing::info!(?partitions, "partitions assigned");
        }
        partitions.iter().for_each(|p| self.restore(*p));
    }

    /// Orders the restore of a partition; an earlier one is given up.
    pub(super) fn restore(&mut self, partition: i32) {
        let now_ms = (self.parts.clock)();
        self.parts.status.update(partition, |s| {
            *s =
                PartitionStatus { state: PartitionState::Restoring, progress_ms: now_ms, ..PartitionStatus::default() };
        });
        let cancel = Cancel::default();
        if let Some(Partition::Restoring(former)) =
            self.partitions.insert(partition, Partition::Restoring(cancel.clone()))
        {
            former.cancel();
        }
        if self.ending {
            return;
        }
        let job = RestoreJob { partition, cancel, reply: self.restored.0.clone() };
        // The restorer outlives the loops; if it has failed, the process is ending.
        let _ = self.parts.restores.send(job);
    }

    /// Drops partitions with all that is staged or waiting of them, and tells the group.
    pub(super) fn give_up(&mut self, partitions: &[i32]) -> Result<(), Stop> {
        if !mutation::on(Mutation::KeepWaitingRecords) {
            self.retain_waiting(|_, record| !partitions.contains(&record.partition));
        }
        for partition in partitions {
            if let Some(Partition::Restoring(cancel)) = self.partitions.remove(partition) {
                cancel.cancel();
            }
            self.parts.status.remove(*partition);
        }
        if !partitions.is_empty() {
            tracing::info!(?partitions, "partitions given up");
        }
        self.parts.log.stop(partitions).or_else(|fault| self.bear(fault))
    }

    fn start_restored(&mut self) -> Result<(), Stop> {
        while let Ok(restored) = self.restored.1.try_recv() {
            let partition = restored.partition;
            let wanted = matches!(self.partitions.get(&partition), Some(Partition::Restoring(_)));
            if !wanted || restored.cancel.is_cancelled() {
                continue;
            }
            let state = restored.result?;
            let (live, backfill) = (state.live, state.backfill);
            let running = Running {
                projection: state.projection,
                held: state.held,
                committed: state.committed,
                next: InputOffsets { live: Some(live), backfill: Some(backfill) },
                commit_due: state.committed != InputOffsets { live: Some(live), backfill: Some(backfill) },
                backfill_committed_ms: (self.parts.clock)(),
                ends_requested: false,
                ends: None,
                last_round_ms: if state.round_due { i64::MIN } else { (self.parts.clock)() },
                round_began: None,
                round_failed: false,
                looked_ms: i64::MIN,
                tail_seen: 0,
            };
            let sizes = running.projection.stats();
            self.partitions.insert(partition, Partition::Running(Box::new(running)));
            self.parts.log.start(partition, live, backfill).or_else(|fault| self.bear(fault))?;
            let now_ms = (self.parts.clock)();
            self.parts.status.update(partition, |s| {
                (s.state, s.restore_remaining, s.projection) = (PartitionState::Running, 0, sizes);
                (s.progress_ms, s.checkpoint_ms) = (now_ms, Some(now_ms));
            });
        }
        Ok(())
    }

    /// Fills the waiting room until it holds more than a batch or nothing is waiting; live commands first.
    ///
    /// Records come in runs of one partition. The room holds more records than a small batch, so that a batch can take of many
    /// partitions without any one's output growing beyond its bound; of bytes no more than one batch, for the memory.
    fn poll(&mut self) -> Result<(), Stop> {
        if self.waits_for_disk() {
            time::pause(BUSY_WAIT);
            return Ok(());
        }
        let rules = self.parts.rules.clone();
        let started = time::now();
        let mut wait = if self.batch.is_empty() { self.idle_wait() } else { Duration::ZERO };
        // Of few partitions there is less to choose from, and what waits is gone through for each batch.
        let batches = self.partitions.len().clamp(1, ROOM_BATCHES);
        let room = (batches * rules.batch_max_records).min(ROOM_RECORDS.max(rules.batch_max_records));
        while self.batch.len() < room && self.batch_bytes < rules.batch_max_bytes {
            let before = self.batch.len();
            self.fetch(Input::Live, room - before, wait)?;
            let enough = self.batch.len() == before || time::since(started) >= rules.batch_max_delay;
            wait = if enough { self.until_markers_are_written() } else { Duration::ZERO };
            if enough && wait.is_zero() {
                break;
            }
        }
        self.poll_backfill()
    }

    /// A full batch takes longer to be decided than the markers to be written.
    fn until_markers_are_written(&self) -> Duration {
        let full = self.batch.len() >= self.parts.rules.batch_max_records;
        if full { Duration::ZERO } else { self.share.until_markers_are_written(time::now()) }
    }

    fn poll_backfill(&mut self) -> Result<(), Stop> {
        let (live, rules) = (self.batch.len(), &self.parts.rules);
        // A batch that live commands nearly fill means that more of them are waiting.
        let full = self.batch_bytes >= rules.batch_max_bytes || live > rules.batch_max_records / 2;
        let room = rules.batch_max_records.saturating_sub(live);
        let most = self.share.allows(live, time::now(), (self.parts.clock)()).min(room);
        if most == 0 || full {
            return Ok(());
        }
        self.fetch(Input::Backfill, most, Duration::ZERO)?;
        // A partition that cannot be read on takes its waiting live commands along.
        self.share.took(self.batch.len().saturating_sub(live), time::now());
        Ok(())
    }

    fn fetch(&mut self, input: Input, most: usize, wait: Duration) -> Result<(), Stop> {
        let before = self.batch.len();
        let fetched = self.parts.log.fetch(input, most, wait, &mut self.batch);
        self.batch_bytes += self.batch[before..].iter().map(|(_, record)| record.size()).sum::<usize>();
        fetched.or_else(|fault| self.bear(fault))
    }

    /// Keeps the waiting records that `keep` says, by index and record.
    pub(super) fn retain_waiting(&mut self, mut keep: impl FnMut(usize, &Record) -> bool) {
        let (mut index, mut bytes) = (0, self.batch_bytes);
        self.batch.retain(|(_, record)| {
            let kept = keep(index, record);
            index += 1;
            bytes -= if kept { 0 } else { record.size() };
            kept
        });
        self.batch_bytes = bytes;
    }

    fn idle_wait(&self) -> Duration {
        let busy = |p: &Partition| match p {
            Partition::Restoring(_) => true,
            Partition::Running(r) => r.commit_due || r.ends_requested || r.projection.in_round(),
        };
        let soon = if self.partitions.values().any(busy) { BUSY_WAIT } else { IDLE_WAIT };
        self.share.wait(time::now()).unwrap_or(soon)
    }

    // --- decode, decide, stage ---

    fn stage(&mut self) -> Result<Option<StagedBatch>, Stop> {
        let due = self.partitions.values().filter_map(Partition::running).any(|r| r.commit_due);
        if self.batch.is_empty() && !due {
            // With nothing to commit nothing is failing.
            self.failing_since = None;
            return Ok(None);
        }
        // A commit may take long: what it holds up must be seen meanwhile.
        self.report_inputs();
        let timer = self.parts.metrics.step_timer("decide");
        let partitions = &self.partitions;
        let projection_of = |p: i32| partitions.get(&p).and_then(Partition::running).map(|r| &r.projection);
        let now_ms = (self.parts.clock)();
        let staged = self.stager.stage(&self.batch, projection_of, (&self.refused, self.most), now_ms);
        drop(timer);
        match staged {
            Ok(mut staged) => {
                self.add_due_offsets(&mut staged);
                Ok(Some(staged))
            }
            Err((partition, error)) => {
                tracing::error!(partition, %error, "the local state is discarded and restored");
                self.parts.metrics.state_discarded("read_failed");
                self.restart(&[partition], true)?;
                Ok(None)
            }
        }
    }

    /// Adds the offsets that must be committed though no record moved them.
    fn add_due_offsets(&self, staged: &mut StagedBatch) {
        for (partition, running) in self.partitions.iter().filter_map(|(p, s)| Some((*p, s.running()?))) {
            if running.commit_due {
                staged.commit_offsets(partition, running.next);
            }
        }
    }

    // --- apply ---

    /// A deliberate bug: what Kafka has not committed is applied.
    pub(super) fn apply_staged(&mut self, staged: &StagedBatch) {
        let running = self.partitions.iter_mut().filter_map(|(p, s)| Some((*p, &mut s.running_mut()?.projection)));
        staged.apply_to(&mut running.collect());
    }

    fn apply(&mut self, committed: &CommittedBatch) {
        let timer = self.parts.metrics.step_timer("apply");
        let now_ms = (self.parts.clock)();
        let mut moved = Vec::new();
        let running = self.partitions.iter_mut().filter_map(|(p, s)| Some((*p, &mut s.running_mut()?.projection)));
        if !mutation::on(Mutation::ApplyBeforeCommit) {
            committed.apply_to(&mut running.collect());
        }
        for (partition, next) in committed.offsets() {
            let Some(running) = self.partitions.get_mut(&partition).and_then(Partition::running_mut) else { continue };
            running.advance(next, now_ms);
            moved.push((partition, running.projection.stats()));
        }
        drop(timer);
        let took = self.batch.iter().enumerate().filter(|(index, _)| committed.took(*index)).map(|(_, record)| record);
        self.parts.metrics.committed(committed.tally(), took.clone(), now_ms);
        if let Some(traces) = &self.parts.traces {
            traces.committed(took, now_ms);
        }
        self.retain_waiting(|index, _| !committed.took(index));
        self.refused.clear();
        self.most = self.parts.rules.batch_max_records;
        for (partition, sizes) in moved {
            self.parts.status.update(partition, |s| {
                s.progress_ms = now_ms;
                s.projection = sizes;
            });
        }
    }
}
