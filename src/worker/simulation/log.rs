//! One loop's connection to the simulated Kafka.

use super::cluster::{Asked, Cluster, Failure, Topic, size_of};
use super::commands::true_ms;
use super::kafka::{Call, SimKafka};
use crate::kafka::{
    Body, CommitError, Committed, Fault, GroupEvent, Input, InputOffsets, Log, LogEnds, MemoryRecord, Record,
};
use crate::wire::{OutRecord, OutTopic, Outbox};
use crate::worker::time::simulated;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub fn record(partition: i32, offset: i64, record: &MemoryRecord) -> Record {
    Record { partition, offset, body: Body::Memory(Box::new(record.clone())) }
}

/// One loop's connection.
pub struct SimLog {
    pub(super) kafka: SimKafka,
    pub member: usize,
    /// The transactional id and the epoch.
    pub(super) producer: (usize, u32),
    pub(super) started: BTreeMap<i32, [i64; 2]>,
    pub(super) requested: Vec<(i32, Option<LogEnds>)>,
    /// What was requested before the last look.
    pub(super) answers: Vec<(i32, Option<LogEnds>)>,
    /// Records that a real client would still read: those of a transaction whose end it does not know.
    pub(super) lent: Option<Arc<Outbox>>,
}

/// Records of one partition that come in a run.
const RUN: usize = 3;

impl SimLog {
    /// The offsets and records may name only what this member was told to hold and has started.
    fn check(&self, cluster: &mut Cluster, outbox: &Outbox, offsets: &[(i32, InputOffsets)]) {
        assert!(!offsets.is_empty(), "a transaction without offsets is not fenced");
        let mut bytes: BTreeMap<i32, usize> = BTreeMap::new();
        for index in 0..outbox.len() {
            *bytes.entry(outbox.get(index).partition).or_default() += size_of(outbox, index);
        }
        for partition in offsets.iter().map(|(p, _)| p).chain(bytes.keys()) {
            assert!(self.started.contains_key(partition), "partition {partition} is written before it was started");
            let known = cluster.members[self.member].known.contains(partition);
            assert!(known, "partition {partition} is written after it was given up");
            assert!(
                offsets.iter().any(|(p, _)| p == partition),
                "partition {partition} is written without its offsets"
            );
        }
        cluster.asked.push(Asked { member: self.member, offsets: offsets.to_vec(), bytes });
    }
}

impl SimLog {
    fn pass(&self, call: Call) -> Result<(), Fault> {
        self.kafka.pass(Some(self.member), call)
    }

    /// The transaction so far, written; what the producer has begun before is complete first.
    fn produce(&mut self, outbox: &Outbox) -> Result<usize, CommitError> {
        let mut cluster = self.kafka.cluster();
        self.check_epoch(&cluster)?;
        if cluster.open_of(self.producer).is_some() {
            return Err(CommitError::OutcomeUnknown("a transaction is under way".into()));
        }
        check_times(&mut cluster, outbox)?;
        cluster.complete_all_of(self.producer.0);
        let id = cluster.produce(self.producer, outbox);
        // The ends may be asked for at any moment: the worst one is in the middle of a transaction.
        let asked = self.requested.iter_mut().chain(&mut self.answers);
        asked.for_each(|(partition, ends)| *ends = ends.map(|_| cluster.ends(*partition)));
        let refused = cluster.refused(outbox);
        if !refused.is_empty() {
            cluster.decide(id, false);
            return Err(CommitError::Refused(refused));
        }
        Ok(id)
    }

    fn check_epoch(&self, cluster: &Cluster) -> Result<(), CommitError> {
        let current = cluster.epochs.get(&self.producer.0) == Some(&self.producer.1);
        if current { Ok(()) } else { Err(CommitError::ProducerFenced("another producer has this identity".into())) }
    }

    /// The group takes offsets only from members of its present generation.
    fn send_offsets(&self, id: usize, offsets: &[(i32, InputOffsets)]) -> Result<(), CommitError> {
        let mut cluster = self.kafka.cluster();
        self.check_epoch(&cluster)?;
        if cluster.members[self.member].outdated {
            cluster.decide(id, false);
            return Err(CommitError::NotOwner("the generation is over".into()));
        }
        if cluster.transactions[id].committed.is_none() {
            cluster.transactions[id].offsets = offsets.to_vec();
        }
        Ok(())
    }

    /// Ends the transaction as the script has it.
    fn end(&self, id: usize) -> Result<(), CommitError> {
        let mut cluster = self.kafka.cluster();
        let said = || "by script".to_owned();
        self.check_epoch(&cluster)?;
        if cluster.transactions[id].committed.is_some() {
            return Err(CommitError::OutcomeUnknown("it was decided meanwhile".into()));
        }
        match cluster.script.pop_front().flatten() {
            None => cluster.decide(id, true),
            Some(Failure::UnknownOpen) => return Err(CommitError::OutcomeUnknown(said())),
            Some(Failure::FencedOpen) => return Err(CommitError::ProducerFenced(said())),
            Some(failure) => {
                cluster.decide(id, matches!(failure, Failure::UnknownCommitted | Failure::FencedCommitted));
                return Err(match failure {
                    Failure::UnknownCommitted | Failure::UnknownOpen => CommitError::OutcomeUnknown(said()),
                    Failure::FencedCommitted | Failure::FencedOpen => CommitError::ProducerFenced(said()),
                    Failure::Abort => CommitError::Aborted(said()),
                    Failure::NotOwner => CommitError::NotOwner(said()),
                });
            }
        }
        Ok(())
    }

    /// What a call that failed in a transaction that is not being committed yet leaves: it is aborted.
    fn abort(&self, id: Option<usize>, fault: Fault) -> CommitError {
        let Fault::Retry(cause) = fault else { return CommitError::Fatal(fault.to_string()) };
        let mut cluster = self.kafka.cluster();
        if let Some(id) = id.filter(|id| cluster.transactions[*id].committed.is_none()) {
            cluster.decide(id, false);
        }
        CommitError::Aborted(cause)
    }
}

/// The completions topic takes no record from more than a minute ahead (`message.timestamp.after.max.ms`).
fn check_times(cluster: &mut Cluster, outbox: &Outbox) -> Result<(), CommitError> {
    cluster.clock_ms = cluster.clock_ms.max(true_ms());
    let limit = cluster.clock_ms + 60_000;
    let late = |out: OutRecord<'_>| out.topic == OutTopic::Completions && out.timestamp_ms > limit;
    if outbox.iter().any(late) {
        return Err(CommitError::Fatal("INVALID_TIMESTAMP: this machine's clock is ahead".into()));
    }
    Ok(())
}

impl Log for SimLog {
    fn events(&mut self) -> Result<Vec<GroupEvent>, Fault> {
        self.pass(Call::Events)?;
        let member = &mut self.kafka.cluster().members[self.member];
        let deaf = member.deaf || simulated::passed() < member.deaf_until;
        let events = if deaf { Vec::new() } else { std::mem::take(&mut member.events) };
        for event in &events {
            match event {
                GroupEvent::Assigned(partitions) => member.known.extend(partitions),
                GroupEvent::Lost(partitions) => {
                    member.known.retain(|p| !partitions.contains(p));
                    member.revoking.retain(|p| !partitions.contains(p));
                }
                GroupEvent::Revoked(partitions) => member.revoking.extend(partitions),
            }
        }
        if !deaf {
            (member.outdated, member.expelled) = (false, false);
        }
        Ok(events)
    }

    fn start(&mut self, partition: i32, live: i64, backfill: i64) -> Result<(), Fault> {
        self.pass(Call::Assignment)?;
        let known = self.kafka.cluster().members[self.member].known.contains(&partition);
        assert!(known, "partition {partition} is started without being held");
        self.started.insert(partition, [live, backfill]);
        Ok(())
    }

    fn stop(&mut self, partitions: &[i32]) -> Result<(), Fault> {
        self.pass(Call::Assignment)?;
        let cluster = &mut *self.kafka.cluster();
        for partition in partitions {
            self.started.remove(partition);
            let member = &mut cluster.members[self.member];
            if !member.revoking.remove(partition) {
                continue;
            }
            member.known.remove(partition);
            if cluster.owners.get(partition) != Some(&self.member) {
                continue;
            }
            match cluster.heirs.remove(partition) {
                Some(heir) => cluster.assign(heir, &[*partition]),
                // It has gone meanwhile: the group looks for another.
                None => drop(cluster.owners.remove(partition)),
            }
        }
        Ok(())
    }

    fn read_to(&self, partition: i32) -> Option<[i64; 2]> {
        self.started.get(&partition).copied()
    }

    fn fetch(
        &mut self,
        input: Input,
        most: usize,
        _wait: Duration,
        into: &mut Vec<(Input, Record)>,
    ) -> Result<(), Fault> {
        self.pass(Call::Fetch)?;
        let cluster = self.kafka.cluster();
        let full = into.len() + most;
        for (partition, next) in &mut self.started {
            let next = &mut next[input as usize];
            let at = (Topic::from(input), *partition);
            let (start, end) = cluster.bounds(at);
            if *next < start || *next > end {
                let cause = format!("{at:?} at offset {next}: out of range");
                return Err(Fault::Restore { partition: *partition, cause });
            }
            for (offset, found) in cluster.visible(at, *next as usize, RUN.min(full - into.len())) {
                *next = offset + 1;
                into.push((input, record(*partition, offset, &found)));
            }
        }
        Ok(())
    }

    fn transact(&mut self, outbox: &Arc<Outbox>, offsets: &[(i32, InputOffsets)]) -> Result<Committed, CommitError> {
        self.lent = Some(outbox.clone());
        self.pass(Call::Begin).map_err(|fault| self.abort(None, fault))?;
        self.check(&mut self.kafka.cluster(), outbox, offsets);
        let hook = self.kafka.cluster().before_transact.pop_front();
        hook.into_iter().for_each(|hook| hook(&self.kafka));
        let id = self.produce(outbox)?;
        self.pass(Call::Produced).map_err(|fault| self.abort(Some(id), fault))?;
        self.send_offsets(id, offsets)?;
        self.pass(Call::OffsetsSent).map_err(|fault| self.abort(Some(id), fault))?;
        self.end(id)?;
        match self.pass(Call::Committed) {
            Ok(()) => {
                self.lent = None;
                Ok(Committed::proven(Duration::ZERO))
            }
            Err(Fault::Retry(cause)) => Err(CommitError::OutcomeUnknown(cause)),
            Err(fault) => Err(CommitError::Fatal(fault.to_string())),
        }
    }

    fn reset_producer(&mut self) -> Result<(), Fault> {
        self.pass(Call::Reset)?;
        self.lent = None;
        {
            let cluster = &mut *self.kafka.cluster();
            cluster.complete_all_of(self.producer.0);
            let epoch = cluster.epochs.entry(self.producer.0).or_default();
            *epoch += 1;
            self.producer.1 = *epoch;
        }
        let hook = self.kafka.cluster().on_reset.pop_front();
        hook.into_iter().for_each(|hook| hook(&self.kafka));
        Ok(())
    }

    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        self.pass(Call::Offsets)?;
        self.kafka.stable_offsets(partitions)
    }

    fn request_ends(&mut self, partition: i32) {
        let ends = self.kafka.cluster().ends(partition);
        self.requested.push((partition, Some(ends)));
    }

    fn ends(&mut self) -> Vec<(i32, Option<LogEnds>)> {
        if self.pass(Call::Ends).is_err() {
            return Vec::new();
        }
        // The broker may answer as late as now.
        let cluster = self.kafka.cluster();
        self.requested.iter_mut().for_each(|(partition, ends)| *ends = Some(cluster.ends(*partition)));
        drop(cluster);
        // An answer takes a while: a transaction may come in between.
        std::mem::replace(&mut self.answers, std::mem::take(&mut self.requested))
    }
}
