//! The loop: the one author of the order of steps. [`Loop::step`] is the protocol.

use super::Stop;
use super::batch::{CommittedBatch, StagedBatch};
use super::partition::{Cancel, Partition, Running};
use super::restorer::{RestoreJob, Restored};
use super::rules::Rules;
use super::stage::{Place, Stager};
use super::status::{PartitionState, Status};
use crate::kafka::{CommitError, Committed, Fault, GroupEvent, Input, InputOffsets, Log, Record};
use crate::observe::Metrics;
use crate::projection::{Positions, Step, Writer};
use crate::wire::{Omit, OutTopic};
use crossbeam_channel::{Receiver, Sender, unbounded};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an idle loop waits for a record before it looks after its group and checkpoints again.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// The same while a restore or round is under way.
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// How long transactions may fail one after the other before the process ends.
const MAX_FAILING: Duration = Duration::from_secs(300);
/// Pause between attempts that failed.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Most time that the rounds of revoked partitions may take: meanwhile the loop's others wait.
const REVOKE_ROUNDS: Duration = Duration::from_secs(2);
/// Kafka expires offsets of topics that a group does not subscribe to; half a day keeps the backfill's alive.
const BACKFILL_COMMIT_EVERY_MS: i64 = 12 * 3600 * 1000;
/// A failed round is tried again after this.
const ROUND_RETRY_MS: i64 = 10_000;
/// How many batches the waiting room holds.
const ROOM_BATCHES: usize = 4;
/// Most backfilled commands of a batch: live commands that arrive meanwhile wait no longer than these take.
const BACKFILL_PER_BATCH: usize = 1000;

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
    parts: LoopParts<L>,
    stager: Stager,
    partitions: BTreeMap<i32, Partition>,
    /// The waiting room: what was read and is not committed yet, in order.
    batch: Vec<(Input, Record)>,
    batch_bytes: usize,
    refused: HashMap<Place, Omit>,
    restored: (Sender<Restored>, Receiver<Restored>),
    failing_since: Option<Instant>,
    backfill_busy: bool,
    backfill_tokens: f64,
    tokens_ms: i64,
}

impl<L: Log> Loop<L> {
    /// A loop without partitions; the group will give it some.
    pub fn new(parts: LoopParts<L>) -> Self {
        Self {
            stager: Stager::new(parts.rules.clone()),
            parts,
            partitions: BTreeMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            refused: HashMap::new(),
            restored: unbounded(),
            failing_since: None,
            backfill_busy: false,
            backfill_tokens: 0.0,
            tokens_ms: 0,
        }
    }

    /// One turn of the protocol: poll, decode, decide, stage, commit, apply; then the checkpoint follows.
    pub fn step(&mut self) -> Result<Flow, Stop> {
        self.follow_group()?;
        self.start_restored()?;
        self.poll()?;
        let mut flow = Flow::Idle;
        if let Some(staged) = self.stage()?
            && let Some(committed) = self.commit(staged)?
        {
            self.apply(&committed);
            flow = Flow::Worked;
        }
        self.checkpoint();
        Ok(flow)
    }

    /// Ends in order: checkpoints within `timeout`, then gives all partitions up. What is not committed is read again.
    pub fn end(mut self, timeout: Duration) -> Result<(), Stop> {
        self.retain_waiting(|_, _| false);
        let all: Vec<i32> = self.partitions.keys().copied().collect();
        all.iter().for_each(|p| self.parts.status.update(*p, |s| s.state = PartitionState::Draining));
        self.last_rounds(&all, timeout);
        self.give_up(&all)
    }

    // --- poll ---

    fn follow_group(&mut self) -> Result<(), Stop> {
        let events = match self.parts.log.events() {
            Ok(events) => events,
            Err(fault) => return self.bear(fault),
        };
        for event in events {
            match event {
                GroupEvent::Assigned(partitions) => self.assigned(&partitions),
                GroupEvent::Revoked(partitions) => {
                    self.parts.metrics.rebalance("revoked");
                    self.last_rounds(&partitions, REVOKE_ROUNDS);
                    self.give_up(&partitions)?;
                }
                GroupEvent::Lost(partitions) => {
                    self.parts.metrics.rebalance("lost");
                    self.give_up(&partitions)?;
                }
            }
        }
        Ok(())
    }

    fn assigned(&mut self, partitions: &[i32]) {
        self.parts.metrics.rebalance("assigned");
        self.parts.status.assigned();
        tracing::info!(?partitions, "partitions assigned");
        partitions.iter().for_each(|p| self.restore(*p));
    }

    /// Orders the restore of a partition; an earlier one is given up.
    fn restore(&mut self, partition: i32) {
        self.parts.status.update(partition, |s| s.state = PartitionState::Restoring);
        let cancel = Cancel::default();
        if let Some(Partition::Restoring(former)) = self.partitions.insert(partition, Partition::Restoring(cancel.clone())) {
            former.cancel();
        }
        let job = RestoreJob { partition, cancel, reply: self.restored.0.clone() };
        // The restorer outlives the loops; if it has failed, the process is ending.
        let _ = self.parts.restores.send(job);
    }

    /// Drops partitions with all that is staged or waiting of them, and tells the group.
    fn give_up(&mut self, partitions: &[i32]) -> Result<(), Stop> {
        self.retain_waiting(|_, record| !partitions.contains(&record.partition));
        for partition in partitions {
            if let Some(Partition::Restoring(cancel)) = self.partitions.remove(partition) {
                cancel.cancel();
            }
            self.parts.status.remove(*partition);
        }
        tracing::info!(?partitions, "partitions given up");
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
                last_round_ms: if state.round_due { i64::MIN } else { (self.parts.clock)() },
                round_failed: false,
            };
            self.partitions.insert(partition, Partition::Running(Box::new(running)));
            self.parts.log.start(partition, live, backfill).or_else(|fault| self.bear(fault))?;
            self.parts.status.update(partition, |s| {
                (s.state, s.live_next, s.backfill_next) = (PartitionState::Running, live, backfill);
            });
        }
        Ok(())
    }

    /// Fills the waiting room until it holds more than a batch or nothing is waiting; live commands first.
    ///
    /// Records come in runs of one partition. The room is larger than a batch, so that a batch can take of many partitions
    /// without any one's output growing beyond its bound.
    fn poll(&mut self) -> Result<(), Stop> {
        if self.partitions.values().filter_map(Partition::running).any(|r| r.projection.must_wait_for_disk()) {
            std::thread::sleep(BUSY_WAIT);
            return Ok(());
        }
        let rules = self.parts.rules.clone();
        let started = Instant::now();
        let mut wait = if self.batch.is_empty() { self.idle_wait() } else { Duration::ZERO };
        let room = ROOM_BATCHES * rules.batch_max_records;
        while self.batch.len() < room && self.batch_bytes < ROOM_BATCHES * rules.batch_max_bytes {
            let before = self.batch.len();
            self.fetch(Input::Live, room - before, wait)?;
            if self.batch.len() == before || started.elapsed() >= rules.batch_max_delay {
                break;
            }
            wait = Duration::ZERO;
        }
        self.poll_backfill()
    }

    fn poll_backfill(&mut self) -> Result<(), Stop> {
        let live = self.batch.len();
        let most = BACKFILL_PER_BATCH.min(self.parts.rules.batch_max_records.saturating_sub(live));
        let most = most.min(self.backfill_allowance());
        self.backfill_busy = false;
        // A batch that live commands nearly fill means that more of them are waiting.
        if most == 0 || live > self.parts.rules.batch_max_records / 2 {
            return Ok(());
        }
        self.fetch(Input::Backfill, most, Duration::ZERO)?;
        let taken = self.batch.len() - live;
        self.backfill_busy = taken > 0;
        self.backfill_tokens -= taken as f64;
        Ok(())
    }

    /// How many backfilled commands the rate allows now.
    fn backfill_allowance(&mut self) -> usize {
        let rate = self.parts.rules.backfill_max_rate as f64;
        if rate == 0.0 {
            return usize::MAX;
        }
        let now_ms = (self.parts.clock)();
        let elapsed_ms = (now_ms - self.tokens_ms).clamp(0, 1000) as f64;
        self.tokens_ms = now_ms;
        self.backfill_tokens = (self.backfill_tokens + rate * elapsed_ms / 1000.0).min(rate.max(1.0));
        self.backfill_tokens.max(0.0) as usize
    }

    fn fetch(&mut self, input: Input, most: usize, wait: Duration) -> Result<(), Stop> {
        let mut records = Vec::new();
        let fetched = self.parts.log.fetch(input, most, wait, &mut records);
        self.batch_bytes += records.iter().map(Record::size).sum::<usize>();
        self.batch.extend(records.into_iter().map(|record| (input, record)));
        fetched.or_else(|fault| self.bear(fault))
    }

    /// Keeps the waiting records that `keep` says, by index and record.
    fn retain_waiting(&mut self, mut keep: impl FnMut(usize, &Record) -> bool) {
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
        match (self.backfill_busy, self.partitions.values().any(busy)) {
            (true, _) => Duration::ZERO,
            (_, true) => BUSY_WAIT,
            _ => IDLE_WAIT,
        }
    }

    // --- decode, decide, stage ---

    fn stage(&mut self) -> Result<Option<StagedBatch>, Stop> {
        let due = self.partitions.values().filter_map(Partition::running).any(|r| r.commit_due);
        if self.batch.is_empty() && !due {
            return Ok(None);
        }
        let timer = self.parts.metrics.step_timer("decide");
        let partitions = &self.partitions;
        let projection_of = |p: i32| partitions.get(&p).and_then(Partition::running).map(|r| &r.projection);
        let now_ms = (self.parts.clock)();
        let staged = self.stager.stage(&self.batch, projection_of, &self.refused, now_ms);
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

    // --- commit ---

    /// Commits, or finds out what must happen instead: `None` when the batch is to be run again, or was dropped.
    fn commit(&mut self, staged: StagedBatch) -> Result<Option<CommittedBatch>, Stop> {
        let offsets = staged.offsets();
        if offsets.is_empty() {
            self.retain_waiting(|index, _| !staged.takes(index));
            return Ok(None);
        }
        let timer = self.parts.metrics.step_timer("commit");
        let outcome = self.parts.log.transact(self.stager.outbox(), &offsets);
        drop(timer);
        match outcome {
            Ok(proof) => Ok(Some(self.has_committed(staged, proof))),
            Err(CommitError::OutcomeUnknown(cause)) => self.resolve(staged, "unknown_outcome", &cause),
            Err(CommitError::ProducerFenced(cause)) => self.resolve(staged, "fenced", &cause),
            Err(CommitError::Refused(indices)) => self.refuse(&indices),
            Err(CommitError::Fatal(cause)) => Err(Stop(cause)),
            Err(error @ (CommitError::Aborted(_) | CommitError::NotOwner(_))) => {
                self.parts.metrics.transaction("aborted");
                tracing::warn!(%error, "the batch is run again");
                self.back_off(&error.to_string())?;
                Ok(None)
            }
        }
    }

    fn has_committed(&mut self, staged: StagedBatch, proof: Committed) -> CommittedBatch {
        self.failing_since = None;
        self.parts.metrics.transaction("committed");
        self.parts.status.heard((self.parts.clock)());
        staged.committed(proof)
    }

    /// INV-7: never guess. A new producer decides the old transaction, and the stable offsets tell how.
    fn resolve(&mut self, staged: StagedBatch, reason: &'static str, cause: &str) -> Result<Option<CommittedBatch>, Stop> {
        tracing::warn!(reason, cause, "the outcome of a transaction is unknown; asking the broker");
        self.parts.metrics.transaction("unknown");
        self.parts.metrics.producer_reset(reason);
        self.back_off(cause)?;
        self.until_decided(cause)?;
        let lost = self.drop_departed()?;
        let asked: Vec<i32> = staged.offsets().iter().map(|(p, _)| *p).collect();
        let committed = self.ask_committed(&asked, cause)?;
        match self.decided(&staged, &committed, &lost) {
            Decided::Committed => {
                tracing::info!("the transaction was committed");
                Ok(Some(self.has_committed(staged, Committed::proven())))
            }
            Decided::NotCommitted => {
                tracing::info!("the transaction was not committed; the batch is run again");
                Ok(None)
            }
            Decided::Neither => {
                tracing::warn!("the committed offsets are neither the old nor the new ones; the partitions are restored");
                self.restart(&asked, false)?;
                Ok(None)
            }
        }
    }

    /// Makes new producers until one is initialised: then the old transaction is decided.
    fn until_decided(&mut self, cause: &str) -> Result<(), Stop> {
        loop {
            match self.parts.log.reset_producer() {
                Ok(()) => return Ok(()),
                Err(Fault::Retry(_)) => self.back_off(cause)?,
                Err(other) => return Err(Stop(other.to_string())),
            }
        }
    }

    fn ask_committed(&mut self, partitions: &[i32], cause: &str) -> Result<Vec<(i32, InputOffsets)>, Stop> {
        loop {
            match self.parts.log.committed(partitions) {
                Ok(committed) => return Ok(committed),
                Err(Fault::Retry(_)) => self.back_off(cause)?,
                Err(other) => return Err(Stop(other.to_string())),
            }
        }
    }

    /// Drops partitions that the group has taken meanwhile, without a last round: their state lacks what may be committed.
    fn drop_departed(&mut self) -> Result<Vec<i32>, Stop> {
        let events = self.parts.log.events().or_else(|fault| self.bear(fault).map(|()| Vec::new()))?;
        let mut departed = Vec::new();
        for event in events {
            match event {
                GroupEvent::Assigned(partitions) => self.assigned(&partitions),
                GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) => {
                    self.parts.metrics.rebalance("lost");
                    self.give_up(&partitions)?;
                    departed.extend(partitions);
                }
            }
        }
        Ok(departed)
    }

    fn decided(&self, staged: &StagedBatch, committed: &[(i32, InputOffsets)], lost: &[i32]) -> Decided {
        let mut verdicts = staged.offsets().into_iter().map(|(partition, next)| {
            let found = committed.iter().find(|(p, _)| *p == partition).map(|(_, offsets)| *offsets);
            let before = self.partitions.get(&partition).and_then(Partition::running).map(|r| r.committed);
            match (found, before) {
                (Some(found), Some(before)) if !lost.contains(&partition) => {
                    let after = InputOffsets { live: next.live.or(before.live), backfill: next.backfill.or(before.backfill) };
                    if found == after && after != before {
                        Decided::Committed
                    } else if found == before && after != before {
                        Decided::NotCommitted
                    } else {
                        Decided::Neither
                    }
                }
                _ => Decided::Neither,
            }
        });
        let first = verdicts.next().unwrap_or(Decided::Neither);
        if verdicts.all(|v| v == first) { first } else { Decided::Neither }
    }

    /// The broker refuses records for their size: what they answer becomes a dead letter without what made it too large.
    fn refuse(&mut self, indices: &[usize]) -> Result<Option<CommittedBatch>, Stop> {
        self.parts.metrics.transaction("aborted");
        let size = |index: usize| {
            let record = self.stager.outbox().get(index);
            record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len)
        };
        // The client reports a whole request; its largest record is the one to blame.
        let Some(largest) = indices.iter().copied().max_by_key(|i| size(*i)) else { return Ok(None) };
        let record = self.stager.outbox().get(largest);
        let dead = record.topic == OutTopic::DeadLetters;
        let (input, source) = &self.batch[record.input];
        let place = (*input, source.partition, source.offset);
        let former = self.refused.get(&place).copied();
        let omit = match (former, dead) {
            (None, _) => Omit::Value,
            (Some(Omit::Value), _) => Omit::AllButTheReason,
            (Some(_), _) => {
                let (_, partition, offset) = place;
                return Err(Stop(format!(
                    "the dead letter of partition {partition} offset {offset} is refused even without key, headers and value: \
                     raise max.message.bytes of the dead-letter topic"
                )));
            }
        };
        tracing::warn!(partition = place.1, offset = place.2, "the broker refuses an answer for its size; it becomes a dead letter");
        self.refused.insert(place, omit);
        Ok(None)
    }

    // --- apply ---

    fn apply(&mut self, committed: &CommittedBatch) {
        let timer = self.parts.metrics.step_timer("apply");
        let now_ms = (self.parts.clock)();
        let mut nexts = Vec::new();
        {
            let mut running: BTreeMap<i32, &mut Running> =
                self.partitions.iter_mut().filter_map(|(p, s)| Some((*p, s.running_mut()?))).collect();
            committed.apply_to(&mut running);
            for (partition, next) in committed.offsets() {
                let Some(running) = running.get_mut(&partition) else { continue };
                running.advance(next, now_ms);
                nexts.push((partition, running.next));
            }
        }
        drop(timer);
        let took = self.batch.iter().enumerate().filter(|(index, _)| committed.took(*index)).map(|(_, record)| record);
        self.parts.metrics.committed(committed.tally(), took, now_ms);
        self.retain_waiting(|index, _| !committed.took(index));
        self.refused.clear();
        for (partition, next) in nexts {
            self.parts.status.update(partition, |s| {
                s.progress_ms = now_ms;
                s.live_next = next.live.unwrap_or(s.live_next);
                s.backfill_next = next.backfill.unwrap_or(s.backfill_next);
            });
        }
    }

    // --- checkpoint ---

    /// Goes on with each partition's round by a bounded step, and begins those that are due.
    fn checkpoint(&mut self) {
        let now_ms = (self.parts.clock)();
        self.begin_rounds();
        let (log, writer, rules) = (&mut self.parts.log, &self.parts.writer, &self.parts.rules);
        for (partition, running) in self.partitions.iter_mut().filter_map(|(p, s)| Some((*p, s.running_mut()?))) {
            running.projection.expire(now_ms);
            match running.projection.checkpoint_step(writer, running.held.lease()) {
                Step::Done => {
                    (running.last_round_ms, running.round_failed) = (now_ms, false);
                    let stats = running.projection.stats();
                    self.parts.status.update(partition, |s| (s.checkpoint_ms, s.projection) = (Some(now_ms), stats));
                }
                Step::Failed => {
                    if !running.round_failed {
                        let cause = running.projection.last_failure().unwrap_or_default();
                        tracing::error!(partition, cause, "the checkpoint cannot be written; the worker goes on from memory");
                    }
                    (running.last_round_ms, running.round_failed) = (now_ms, true);
                }
                Step::Idle | Step::UnderWay => {}
            }
            running.commit_due |= now_ms - running.backfill_committed_ms > BACKFILL_COMMIT_EVERY_MS;
            if running.round_due(rules, now_ms) {
                running.ends_requested = true;
                log.request_ends(partition);
            }
        }
    }

    /// Begins the rounds whose positions have come, and tells of which partitions. Between two transactions everything
    /// committed is applied, so the state is at least as new as the logs were when they were asked.
    fn begin_rounds(&mut self) -> Vec<i32> {
        let mut begun = Vec::new();
        for (partition, ends) in self.parts.log.ends() {
            let Some(running) = self.partitions.get_mut(&partition).and_then(Partition::running_mut) else { continue };
            let asked = std::mem::replace(&mut running.ends_requested, false);
            let Some(ends) = ends.filter(|_| asked && !running.projection.in_round()) else { continue };
            running.projection.begin_round(Positions { cards: ends.cards, completions: ends.completions });
            begun.push(partition);
        }
        begun
    }

    /// Runs one more round of each partition that is about to go, within a time limit; one under way is finished first.
    fn last_rounds(&mut self, partitions: &[i32], timeout: Duration) {
        let deadline = Instant::now() + timeout;
        // Whether the partition's last round has begun.
        let mut open: BTreeMap<i32, bool> = partitions.iter().map(|p| (*p, false)).collect();
        while Instant::now() < deadline {
            for partition in self.begin_rounds() {
                open.entry(partition).and_modify(|begun| *begun = true);
            }
            let (states, writer, log) = (&mut self.partitions, &self.parts.writer, &mut self.parts.log);
            open.retain(|partition, begun| {
                let Some(running) = states.get_mut(partition).and_then(Partition::running_mut) else { return false };
                running.projection.checkpoint_step(writer, running.held.lease());
                let in_round = running.projection.in_round();
                if !*begun && !in_round && !running.ends_requested {
                    running.ends_requested = true;
                    log.request_ends(*partition);
                }
                !*begun || in_round
            });
            if open.is_empty() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        tracing::warn!(partitions = ?open.keys(), "the last checkpoint was not complete in time; the next start restores more");
    }

    // --- what goes wrong ---

    /// Gives partitions' state up and restores it from Kafka.
    fn restart(&mut self, partitions: &[i32], discard: bool) -> Result<(), Stop> {
        self.retain_waiting(|_, record| !partitions.contains(&record.partition));
        for partition in partitions {
            let Some(Partition::Running(running)) = self.partitions.remove(partition) else { continue };
            if discard {
                // An error here is met again, and answered by memory, when the restore empties the tree.
                let _ = running.projection.tree().clear();
            }
            drop(running);
            self.parts.log.stop(&[*partition]).or_else(|fault| self.bear(fault))?;
            self.restore(*partition);
        }
        Ok(())
    }

    /// What a failure outside a transaction demands.
    fn bear(&mut self, fault: Fault) -> Result<(), Stop> {
        match fault {
            Fault::Retry(cause) => {
                tracing::debug!(cause, "Kafka is asked again");
                Ok(())
            }
            Fault::Restore { partition, cause } => {
                tracing::warn!(partition, cause, "the partition is restored anew");
                self.restart(&[partition], false)
            }
            Fault::Fenced(cause) | Fault::Fatal(cause) => Err(Stop(cause)),
        }
    }

    /// Waits a moment after a failure; failing for too long ends the process.
    fn back_off(&mut self, cause: &str) -> Result<(), Stop> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() > MAX_FAILING {
            return Err(Stop(format!("no transaction has succeeded for {} s: {cause}", MAX_FAILING.as_secs())));
        }
        std::thread::sleep(BACK_OFF);
        Ok(())
    }
}

/// How an unknown outcome was decided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decided {
    Committed,
    NotCommitted,
    /// Neither the old nor the new offsets, or the partition has gone: whoever has it knows.
    Neither,
}

impl Running {
    fn advance(&mut self, next: InputOffsets, now_ms: i64) {
        if next.backfill.is_some() {
            self.backfill_committed_ms = now_ms;
        }
        for offsets in [&mut self.committed, &mut self.next] {
            offsets.live = next.live.or(offsets.live);
            offsets.backfill = next.backfill.or(offsets.backfill);
        }
        if self.committed == self.next {
            self.commit_due = false;
        }
    }

    fn round_due(&self, rules: &Rules, now_ms: i64) -> bool {
        if self.ends_requested || self.projection.in_round() {
            return false;
        }
        if self.round_failed && now_ms - self.last_round_ms < ROUND_RETRY_MS {
            return false;
        }
        let elapsed = now_ms.saturating_sub(self.last_round_ms);
        let interval_ms = rules.checkpoint_interval.as_millis() as i64;
        self.projection.tail_records() > rules.checkpoint_max_tail || (elapsed > interval_ms && self.projection.round_pays())
    }
}
