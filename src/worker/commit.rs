//! The commit of a batch, and what each way that it can fail demands (INV-7, INV-8).

use super::batch::{CommittedBatch, StagedBatch};
use super::main_loop::Loop;
use super::partition::Partition;
use super::{Stop, time};
use crate::kafka::{CommitError, Committed, Fault, GroupEvent, InputOffsets, Log};
use crate::mutation::{self, Mutation};
use crate::wire::{Omit, OutTopic};
use std::sync::Arc;
use std::time::Duration;

/// How long transactions may fail one after the other before the process ends.
const MAX_FAILING: Duration = Duration::from_secs(300);
/// Pause between attempts that failed.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How an unknown outcome was decided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decided {
    Committed,
    NotCommitted,
    /// Neither the old nor the new offsets, or the partition has gone: whoever has it knows.
    Neither,
}

impl<L: Log> Loop<L> {
    /// Commits, or finds out what must happen instead: `None` when the batch is to be run again, or was dropped.
    pub(super) fn commit(&mut self, staged: StagedBatch) -> Result<Option<CommittedBatch>, Stop> {
        let offsets = staged.offsets();
        if offsets.is_empty() {
            self.retain_waiting(|index, _| !staged.takes(index));
            return Ok(None);
        }
        if mutation::on(Mutation::ApplyBeforeCommit) {
            self.apply_staged(&staged);
        }
        let began = time::now();
        let outcome = self.parts.log.transact(self.stager.outbox(), &offsets);
        if let Ok(proof) = &outcome {
            self.parts.metrics.step("produce", proof.produced());
            self.parts.metrics.step("commit", time::since(began).saturating_sub(proof.produced()));
        }
        match outcome {
            Ok(proof) => Ok(Some(self.has_committed(staged, proof))),
            Err(error) if self.mistakes(&error).is_some() => {
                self.parts.log.reset_producer().or_else(|fault| self.bear(fault))?;
                let committed = self.mistakes(&error) == Some(true);
                Ok(committed.then(|| self.has_committed(staged, Committed::proven(Duration::ZERO))))
            }
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

    /// What a deliberate bug takes an error for: a commit, or none.
    fn mistakes(&self, error: &CommitError) -> Option<bool> {
        match error {
            CommitError::OutcomeUnknown(_) if mutation::on(Mutation::GuessCommitted) => Some(true),
            CommitError::OutcomeUnknown(_) if mutation::on(Mutation::GuessNotCommitted) => Some(false),
            CommitError::ProducerFenced(_) if mutation::on(Mutation::TakeFencedForAborted) => Some(false),
            CommitError::Aborted(_) if mutation::on(Mutation::TakeAbortForCommit) => Some(true),
            _ => None,
        }
    }

    fn has_committed(&mut self, staged: StagedBatch, proof: Committed) -> CommittedBatch {
        self.failing_since = None;
        self.share.committed(time::now());
        self.parts.metrics.transaction("committed");
        self.parts.status.heard((self.parts.clock)());
        staged.committed(proof)
    }

    /// INV-7: never guess. A new producer decides the old transaction, and the stable offsets tell how.
    fn resolve(
        &mut self,
        staged: StagedBatch,
        reason: &'static str,
        cause: &str,
    ) -> Result<Option<CommittedBatch>, Stop> {
        tracing::warn!(reason, cause, "the outcome of a transaction is unknown; asking the broker");
        self.parts.metrics.transaction("unknown");
        self.parts.metrics.producer_reset(reason);
        self.back_off(cause)?;
        self.until_decided(cause)?;
        let lost = self.drop_departed()?;
        let asked: Vec<i32> = staged.offsets().iter().map(|(p, _)| *p).collect();
        let committed = self.ask_committed(&asked, cause)?;
        match self.decided(&staged, &committed, &lost) {
            Decided::Committed => match self.prove(&committed) {
                Some(proof) => {
                    tracing::info!("the transaction was committed");
                    Ok(Some(self.has_committed(staged, proof)))
                }
                None => {
                    // A proof that hangs would hold up the restore, which waits for stable offsets.
                    self.until_decided(cause)?;
                    self.restart(&asked, false)?;
                    Ok(None)
                }
            },
            Decided::NotCommitted => {
                tracing::info!("the transaction was not committed; the batch is run again");
                Ok(None)
            }
            Decided::Neither => {
                tracing::warn!(
                    "the committed offsets are neither the old nor the new ones; the partitions are restored"
                );
                self.restart(&asked, false)?;
                Ok(None)
            }
        }
    }

    /// Offsets that are as staged may be another owner's, who has processed the same records: whoever stood still does not know yet
    /// that the group went on without it. Committing them again succeeds only for a member of the present generation.
    fn prove(&mut self, committed: &[(i32, InputOffsets)]) -> Option<Committed> {
        if mutation::on(Mutation::TrustOffsetsAlone) {
            return Some(Committed::proven(Duration::ZERO));
        }
        let proven = self.parts.log.transact(&Arc::default(), committed);
        proven
            .inspect_err(
                |error| tracing::warn!(%error, "whose commit it was is not known; the partitions are restored"),
            )
            .ok()
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
        let verdicts = staged.offsets().into_iter().filter_map(|(partition, next)| {
            let found = committed.iter().find(|(p, _)| *p == partition).map(|(_, offsets)| *offsets);
            let before = self.partitions.get(&partition).and_then(Partition::running).map(|r| r.committed);
            let (Some(found), Some(before), false) = (found, before, lost.contains(&partition)) else {
                return Some(Decided::Neither);
            };
            let after = InputOffsets { live: next.live.or(before.live), backfill: next.backfill.or(before.backfill) };
            match (found == after, found == before) {
                // Offsets that were committed as they are tell nothing.
                (true, true) => None,
                (true, false) => Some(Decided::Committed),
                (false, true) => Some(Decided::NotCommitted),
                (false, false) => Some(Decided::Neither),
            }
        });
        // Where no offset moves there is no record in the batch either: running it again repeats nothing.
        let all_agree = |a: Decided, b: Decided| if a == b { a } else { Decided::Neither };
        verdicts.reduce(all_agree).unwrap_or(Decided::NotCommitted)
    }

    /// The broker refuses records for their size: what they answer becomes a dead letter without what made it too large.
    fn refuse(&mut self, indices: &[usize]) -> Result<Option<CommittedBatch>, Stop> {
        self.parts.metrics.transaction("aborted");
        let size = |index: usize| {
            let record = self.stager.outbox().get(index);
            record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len)
        };
        if indices.len() > 1 && self.most > 1 {
            // The client reports a whole request: with fewer records each, the one to blame will stand alone.
            self.most = (self.most / 2).max(1);
            return Ok(None);
        }
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
        tracing::warn!(
            partition = place.1,
            offset = place.2,
            "the broker refuses an answer for its size; it becomes a dead letter"
        );
        self.refused.insert(place, omit);
        Ok(None)
    }

    /// Gives partitions' state up and restores it from Kafka.
    pub(super) fn restart(&mut self, partitions: &[i32], discard: bool) -> Result<(), Stop> {
        self.retain_waiting(|_, record| !partitions.contains(&record.partition));
        for partition in partitions {
            // One that is being restored is on its way already.
            let Some(Partition::Running(running)) = self.partitions.get(partition) else { continue };
            let tree = running.projection.tree().clone();
            // Ends the lease: nothing is written any more.
            self.partitions.remove(partition);
            if discard {
                // An error here is met again, and answered by memory, when the restore empties the tree.
                let _ = tree.clear();
            }
            self.parts.log.stop(&[*partition]).or_else(|fault| self.bear(fault))?;
            self.restore(*partition);
        }
        Ok(())
    }

    /// What a failure outside a transaction demands.
    pub(super) fn bear(&mut self, fault: Fault) -> Result<(), Stop> {
        match fault {
            Fault::Retry(cause) => {
                tracing::debug!(cause, "Kafka is asked again");
                Ok(())
            }
            // Nothing is read any more, and what is known of the partition is still to be written.
            Fault::Restore { .. } if self.ending => Ok(()),
            Fault::Restore { partition, cause } => {
                tracing::warn!(partition, cause, "the partition is restored anew");
                self.restart(&[partition], false)
            }
            Fault::Fenced(cause) | Fault::Fatal(cause) => Err(Stop(cause)),
        }
    }

    /// Waits a moment after a failure; failing for too long ends the process.
    fn back_off(&mut self, cause: &str) -> Result<(), Stop> {
        let since = *self.failing_since.get_or_insert_with(time::now);
        if time::since(since) > MAX_FAILING {
            return Err(Stop(format!("no transaction has succeeded for {} s: {cause}", MAX_FAILING.as_secs())));
        }
        time::pause(BACK_OFF);
        Ok(())
    }
}
