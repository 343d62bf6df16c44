//! When checkpoint rounds begin, go on and end, beside the batches.

use super::main_loop::Loop;
use super::partition::{Partition, Running};
use super::rules::Rules;
use super::status::PartitionState;
use super::{Stop, time};
use crate::kafka::{CommitError, Committed, InputOffsets, Log};
use crate::mutation::{self, Mutation};
use crate::projection::{Positions, Step, StepBytes};
use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kafka expires offsets of topics that a group does not subscribe to; half a day keeps the backfill's alive.
const BACKFILL_COMMIT_EVERY_MS: i64 = 12 * 3600 * 1000;
/// Not from the design, which waits for the longest tail or the interval: a round that pays is begun when the tail is this part of
/// the longest allowed. Of 8 partitions a restore then reads a million records, where it would read four.
const EARLY: u64 = 4;
/// Not from the design either: once commands come slower than they came, the tail that the faster ones left (or a restore has read)
/// is worth a round from this part of the longest on, if it pays. A restore soon after a rush then reads little, and a steady rate
/// has its rounds when it had them.
const WORTH: u64 = 32;
/// How often a tail is looked at: whether a round of it pays is a sum over all blocks of cards, and a partition may have no record
/// in several batches of a steady load.
const LOOK_EVERY_MS: u64 = 2000;
/// Pause before a last checkpoint is tried again that the group has refused: each refusal is a line of the client's log.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// A failed round is tried again after this.
const ROUND_RETRY_MS: i64 = 10_000;

impl<L: Log> Loop<L> {
    /// Goes on with the rounds by a bounded step, and begins those that are due. The partition after the one that took the last
    /// of what a step may hand over is the first of the next step.
    pub(super) fn checkpoint(&mut self) {
        let first = self.checkpoint_first;
        let mut left = StepBytes::default();
        for range in [(Included(first), Unbounded), (Unbounded, Excluded(first))] {
            self.checkpoint_of(range, &mut left);
        }
    }

    fn checkpoint_of(&mut self, range: (Bound<i32>, Bound<i32>), left: &mut StepBytes) {
        let now_ms = (self.parts.clock)();
        let (log, writer, rules) = (&mut self.parts.log, &self.parts.writer, &self.parts.rules);
        for (partition, running) in self.partitions.range_mut(range).filter_map(|(p, s)| Some((*p, s.running_mut()?))) {
            running.projection.expire();
            let were_used_up = left.are_used_up();
            let step = running.projection.checkpoint_step(writer, running.held.lease(), left);
            if left.are_used_up() && !were_used_up {
                self.checkpoint_first = partition.saturating_add(1);
            }
            match step {
                Step::Done => {
                    (running.last_round_ms, running.round_failed) = (now_ms, false);
                    if self.parts.status.disk_failure().is_some() {
                        tracing::info!(partition, "the checkpoint could be written again");
                        self.parts.status.disk(None);
                    }
                    let stats = running.projection.stats();
                    self.parts.status.update(partition, |s| (s.checkpoint_ms, s.projection) = (Some(now_ms), stats));
                    if let Some(began) = running.round_began.take() {
                        self.parts.metrics.checkpoint(time::since(began));
                    }
                }
                Step::Failed => {
                    let cause = running.projection.last_failure().unwrap_or_default();
                    self.parts.status.disk(Some(cause.to_owned()));
                    if !running.round_failed {
                        tracing::error!(
                            partition,
                            cause,
                            "the checkpoint cannot be written; the worker goes on from memory"
                        );
                    }
                    (running.last_round_ms, running.round_failed) = (now_ms, true);
                }
                Step::Idle | Step::UnderWay => {}
            }
            running.commit_due |= now_ms - running.backfill_committed_ms > BACKFILL_COMMIT_EVERY_MS;
            let again = mutation::on(Mutation::NotePositionAtRoundEnd) && running.projection.in_round();
            if running.round_due(rules, now_ms) || (again && !running.ends_requested) {
                running.ends_requested = true;
                log.request_ends(partition);
            }
        }
    }

    /// Takes the logs' ends that have come. A commit that succeeds after this proves that the partitions were this member's
    /// when the ends were asked for: no one else's records lie before them.
    pub(super) fn take_ends(&mut self) {
        for (partition, ends) in self.parts.log.ends() {
            let Some(running) = self.partitions.get_mut(&partition).and_then(Partition::running_mut) else { continue };
            if !std::mem::replace(&mut running.ends_requested, false) {
                continue;
            }
            let Some(ends) = ends else { continue };
            if mutation::on(Mutation::NotePositionAtRoundEnd) && running.projection.in_round() {
                running.projection.note(Positions { cards: ends.cards, completions: ends.completions });
                continue;
            }
            running.ends = Some(Positions { cards: ends.cards, completions: ends.completions });
            // The proof must come even when no command does.
            running.commit_due = true;
        }
        if mutation::on(Mutation::BeginRoundUnproven) {
            self.begin_rounds();
        }
    }

    /// A transaction has succeeded since the ends were taken: their rounds begin. Everything committed is applied, so the
    /// state is at least as new as the logs were when they were asked.
    pub(super) fn begin_rounds(&mut self) {
        let now_ms = (self.parts.clock)();
        for running in self.partitions.values_mut().filter_map(Partition::running_mut) {
            if !running.projection.in_round()
                && let Some(positions) = running.ends.take()
            {
                running.projection.begin_round(positions);
                running.round_began = Some(time::now());
                (running.looked_ms, running.tail_seen) = (now_ms, 0);
            }
        }
    }

    /// Makes the last checkpoint of partitions that the group takes away, within a time limit.
    pub(super) fn last_rounds(&mut self, partitions: &[i32], timeout: Duration) {
        self.try_last_rounds(partitions, time::now() + timeout).unwrap_or_else(|why| why.say());
    }

    /// Makes the last checkpoint of all partitions, within a time limit. Between two generations the group takes no offsets: it is
    /// followed, and what it takes away goes as ever.
    pub(super) fn last_rounds_of_all(&mut self, timeout: Duration) -> Result<(), Stop> {
        let deadline = time::now() + timeout;
        loop {
            let all: Vec<i32> = self.partitions.keys().copied().collect();
            all.iter().for_each(|p| self.parts.status.update(*p, |s| s.state = PartitionState::Draining));
            let failed = match self.try_last_rounds(&all, deadline) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if !failed.may_pass() || time::now() >= deadline {
                failed.say();
                return Ok(());
            }
            time::pause(FOLLOW_PAUSE);
            self.follow_group()?;
        }
    }

    /// Runs one more round of each partition that is about to go and has something to write; one under way is finished first.
    fn try_last_rounds(&mut self, partitions: &[i32], deadline: Instant) -> Result<(), NoLastRound> {
        let running = |p: &i32| self.partitions.get(p).and_then(Partition::running);
        let changed = |p: &&i32| running(p).is_some_and(|r| !r.projection.is_checkpointed());
        let mut finals: BTreeMap<i32, Final> =
            partitions.iter().filter(changed).map(|p| (*p, Final::Awaited)).collect();
        while time::now() < deadline {
            self.take_ends();
            finals.retain(|partition, state| self.last_round_step(*partition, state));
            if finals.is_empty() {
                return Ok(());
            }
            if finals.values().all(|state| *state != Final::Awaited)
                && finals.values().any(|state| *state == Final::Known)
            {
                if !mutation::on(Mutation::LastRoundUnproven) {
                    self.prove_ownership().map_err(NoLastRound::Refused)?;
                }
                self.begin_rounds();
                finals.values_mut().for_each(|state| *state = Final::Begun);
            }
            time::pause(Duration::from_millis(1));
        }
        Err(NoLastRound::Late(finals.into_keys().collect()))
    }

    /// Goes on with a partition's last round; `false` when there is nothing more to do.
    fn last_round_step(&mut self, partition: i32, state: &mut Final) -> bool {
        let Some(running) = self.partitions.get_mut(&partition).and_then(Partition::running_mut) else { return false };
        running.projection.checkpoint_step(&self.parts.writer, running.held.lease(), &mut StepBytes::default());
        if running.projection.in_round() {
            return true;
        }
        match *state {
            Final::Begun => return false,
            Final::Awaited if running.ends.is_some() => *state = Final::Known,
            Final::Awaited if !running.ends_requested => {
                running.ends_requested = true;
                self.parts.log.request_ends(partition);
            }
            Final::Awaited | Final::Known => {}
        }
        true
    }

    /// Commits the offsets as they are: the group accepts them only from the partitions' owner.
    fn prove_ownership(&mut self) -> Result<Committed, CommitError> {
        let offsets: Vec<_> = self.partitions.iter().filter_map(|(p, s)| Some((*p, s.running()?.next))).collect();
        self.parts.log.transact(&Arc::default(), &offsets)
    }
}

/// Why a last checkpoint was not made: what is on the disk stays, and its next reader replays more.
enum NoLastRound {
    /// The partitions may have another owner already.
    Refused(CommitError),
    /// The time was over for these partitions.
    Late(Vec<i32>),
}

impl NoLastRound {
    /// Whether the next generation may take what this one refused.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::Refused(CommitError::NotOwner(_) | CommitError::Aborted(_)))
    }

    fn say(self) {
        match self {
            Self::Refused(error) => tracing::warn!(
                %error,
                "no last checkpoint is made, as the partitions may have another owner already; the next start restores more"
            ),
            Self::Late(partitions) => {
                tracing::warn!(?partitions, "the last checkpoint was not complete; the next start restores more");
            }
        }
    }
}

/// How far a partition's last round is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Final {
    /// The logs' ends have not come.
    Awaited,
    /// They have.
    Known,
    /// It has begun.
    Begun,
}

impl Running {
    pub(super) fn advance(&mut self, next: InputOffsets, now_ms: i64) {
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

    fn round_due(&mut self, rules: &Rules, now_ms: i64) -> bool {
        if self.ends_requested || self.ends.is_some() || self.projection.in_round() {
            return false;
        }
        if self.round_failed {
            return now_ms - self.last_round_ms >= ROUND_RETRY_MS;
        }
        let tail = self.projection.tail_records();
        if tail > rules.checkpoint_max_tail {
            return true;
        }
        let interval_ms = rules.checkpoint_interval.as_millis() as u64;
        let Some(to_come) = self.look(tail, interval_ms, now_ms) else { return false };
        let elapsed = now_ms.saturating_sub(self.last_round_ms) > interval_ms as i64;
        let slower = to_come < tail && tail > rules.checkpoint_max_tail / WORTH;
        (elapsed || slower || tail > rules.checkpoint_max_tail / EARLY) && self.projection.round_pays()
    }

    /// How many records an interval brings at the rate since the last look; `None` while that is a moment ago.
    fn look(&mut self, tail: u64, interval_ms: u64, now_ms: i64) -> Option<u64> {
        let since_ms = now_ms.abs_diff(self.looked_ms);
        if since_ms < LOOK_EVERY_MS {
            return None;
        }
        let grown = tail.saturating_sub(self.tail_seen);
        (self.looked_ms, self.tail_seen) = (now_ms, tail);
        Some(grown.saturating_mul(interval_ms) / since_ms)
    }
}
