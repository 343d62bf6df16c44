//! A small Kafka in memory, for tests of the real loop and the real restorer.
//!
//! It keeps what the protocol rests on: logs whose transactions become visible when decided (their markers take offsets),
//! stable group offsets, group events, one producer per identity, and transactions that fail by script. What a worker must
//! never do (write to a partition that it does not hold or has not restored) panics here.

use super::sim_cluster::{Asked, Cluster, Entry, Failure, Member, Topic, size_of};
use crate::kafka::{
    Body, Changelog, CommitError, Committed, Fault, GroupEvent, Input, InputOffsets, Log, LogEnds, MemoryRecord,
    ReadStep, Reader, Record,
};
use crate::wire::Outbox;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The whole Kafka; clones are the same one.
#[derive(Clone, Default)]
pub struct SimKafka(Rc<RefCell<Cluster>>);

impl SimKafka {
    /// A new group member with a producer of its own; its number names it.
    pub fn join(&self) -> SimLog {
        let members = &mut self.0.borrow_mut().members;
        members.push(Member::default());
        SimLog {
            kafka: self.clone(),
            member: members.len() - 1,
            started: BTreeMap::new(),
            requested: Vec::new(),
            answers: Vec::new(),
        }
    }
    /// A reader for restores that gives at most `chunk` records of a log at once.
    pub fn reader(&self, chunk: usize) -> SimReader {
        SimReader { kafka: self.clone(), chunk, positions: BTreeMap::new() }
    }

    // --- what the test does ---

    /// Appends a record that belongs to no transaction.
    pub fn append(&self, topic: Topic, partition: i32, record: MemoryRecord) {
        let mut cluster = self.0.borrow_mut();
        let log = cluster.logs.entry((topic, partition)).or_default();
        log.entries.push(Entry::Record(Rc::new(record), None));
    }
    /// Deletes what is before `start`.
    pub fn trim(&self, topic: Topic, partition: i32, start: i64) {
        self.0.borrow_mut().logs.entry((topic, partition)).or_default().start = start as usize;
    }
    /// Sets or deletes committed offsets.
    pub fn set_committed(&self, partition: i32, offsets: InputOffsets) {
        self.0.borrow_mut().committed.insert(partition, offsets);
    }
    /// Gives partitions that nobody has to a member.
    pub fn assign(&self, member: usize, partitions: &[i32]) {
        self.0.borrow_mut().assign(member, partitions);
    }
    /// Asks a partition's owner for it; `heir` gets it once it was given up.
    pub fn revoke(&self, partition: i32, heir: usize) {
        let mut cluster = self.0.borrow_mut();
        let owner = cluster.owners[&partition];
        cluster.heirs.insert(partition, heir);
        cluster.members[owner].events.push(GroupEvent::Revoked(vec![partition]));
    }
    /// Takes a partition away without asking; `heir` has it at once.
    pub fn lose(&self, partition: i32, heir: usize) {
        let mut cluster = self.0.borrow_mut();
        let owner = cluster.owners[&partition];
        cluster.members[owner].events.push(GroupEvent::Lost(vec![partition]));
        cluster.assign(heir, &[partition]);
    }
    /// A member is gone; its open transaction is aborted and `heir` has its partitions.
    pub fn expel(&self, member: usize, heir: usize) {
        let mut cluster = self.0.borrow_mut();
        cluster.decide_open(member);
        let theirs: Vec<i32> = cluster.owners.iter().filter(|(_, m)| **m == member).map(|(p, _)| *p).collect();
        cluster.members[member] = Member::default();
        cluster.assign(heir, &theirs);
    }
    /// A member's unread events never reach it.
    pub fn drop_events(&self, member: usize) {
        self.0.borrow_mut().members[member].events.clear();
    }
    /// Whether a member is told nothing, as when its poll and the group's news cross.
    pub fn deafen(&self, member: usize, deaf: bool) {
        self.0.borrow_mut().members[member].deaf = deaf;
    }
    /// What was to be done at a later transaction is not done.
    pub fn forget_moves(&self) {
        let mut cluster = self.0.borrow_mut();
        cluster.before_transact.clear();
        cluster.on_reset.clear();
    }
    /// How the next transactions end; `None` is success, as when the script is over.
    pub fn script(&self, outcomes: impl IntoIterator<Item = Option<Failure>>) {
        self.0.borrow_mut().script = outcomes.into_iter().collect();
    }
    /// The largest record that a topic takes, keys and headers counted.
    pub fn limit(&self, topic: Topic, bytes: usize) {
        self.0.borrow_mut().limits.insert(topic, bytes);
    }
    /// Does something when the next transaction is asked for.
    pub fn before_transact(&self, hook: impl FnOnce(&Self) + 'static) {
        self.0.borrow_mut().before_transact.push_back(Box::new(hook));
    }
    /// Does something once the next new producer has decided the old transaction.
    pub fn on_reset(&self, hook: impl FnOnce(&Self) + 'static) {
        self.0.borrow_mut().on_reset.push_back(Box::new(hook));
    }

    // --- what the test sees ---

    /// The committed records of a partition with their offsets.
    pub fn records(&self, topic: Topic, partition: i32) -> Vec<(i64, Rc<MemoryRecord>)> {
        self.0.borrow().visible((topic, partition), 0, usize::MAX)
    }
    /// The next offset of a partition.
    pub fn end(&self, topic: Topic, partition: i32) -> i64 {
        self.0.borrow().bounds((topic, partition)).1
    }
    /// The committed offsets of a partition's inputs.
    pub fn committed(&self, partition: i32) -> InputOffsets {
        self.0.borrow().committed.get(&partition).copied().unwrap_or_default()
    }
    /// Who has a partition.
    pub fn owner(&self, partition: i32) -> Option<usize> {
        self.0.borrow().owners.get(&partition).copied()
    }
    /// The transactions that were asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.0.borrow().asked.clone()
    }
}

fn record(partition: i32, offset: i64, record: &MemoryRecord) -> Record {
    Record { partition, offset, body: Body::Memory(Box::new(record.clone())) }
}

/// One loop's connection.
pub struct SimLog {
    kafka: SimKafka,
    pub member: usize,
    started: BTreeMap<i32, [i64; 2]>,
    requested: Vec<(i32, Option<LogEnds>)>,
    /// What was requested before the last look.
    answers: Vec<(i32, Option<LogEnds>)>,
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

impl Log for SimLog {
    fn events(&mut self) -> Result<Vec<GroupEvent>, Fault> {
        let member = &mut self.kafka.0.borrow_mut().members[self.member];
        let events = if member.deaf { Vec::new() } else { std::mem::take(&mut member.events) };
        for event in &events {
            match event {
                GroupEvent::Assigned(partitions) => member.known.extend(partitions),
                GroupEvent::Lost(partitions) => member.known.retain(|p| !partitions.contains(p)),
                GroupEvent::Revoked(partitions) => member.revoking.extend(partitions),
            }
        }
        Ok(events)
    }

    fn start(&mut self, partition: i32, live: i64, backfill: i64) -> Result<(), Fault> {
        let known = self.kafka.0.borrow().members[self.member].known.contains(&partition);
        assert!(known, "partition {partition} is started without being held");
        self.started.insert(partition, [live, backfill]);
        Ok(())
    }

    fn stop(&mut self, partitions: &[i32]) -> Result<(), Fault> {
        let cluster = &mut *self.kafka.0.borrow_mut();
        for partition in partitions {
            self.started.remove(partition);
            let member = &mut cluster.members[self.member];
            if !member.revoking.remove(partition) {
                continue;
            }
            member.known.remove(partition);
            if let Some(heir) = cluster.heirs.remove(partition) {
                cluster.assign(heir, &[*partition]);
            }
        }
        Ok(())
    }

    fn read_to(&self, partition: i32) -> Option<[i64; 2]> {
        self.started.get(&partition).copied()
    }

    fn fetch(&mut self, input: Input, most: usize, _wait: Duration, into: &mut Vec<Record>) -> Result<(), Fault> {
        let cluster = self.kafka.0.borrow();
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
                into.push(record(*partition, offset, &found));
            }
        }
        Ok(())
    }

    fn transact(&mut self, outbox: &Outbox, offsets: &[(i32, InputOffsets)]) -> Result<Committed, CommitError> {
        self.check(&mut self.kafka.0.borrow_mut(), outbox, offsets);
        let hook = self.kafka.0.borrow_mut().before_transact.pop_front();
        hook.into_iter().for_each(|hook| hook(&self.kafka));
        let cluster = &mut *self.kafka.0.borrow_mut();
        if cluster.transactions.iter().any(|t| t.member == self.member && t.committed.is_none()) {
            return Err(CommitError::OutcomeUnknown("a transaction is under way".into()));
        }
        let id = cluster.produce(self.member, outbox, offsets);
        // The ends may be asked for at any moment: the worst one is in the middle of a transaction.
        let asked = self.requested.iter_mut().chain(&mut self.answers);
        asked.for_each(|(partition, ends)| *ends = Some(cluster.ends(*partition)));
        let refused = cluster.refused(outbox);
        if !refused.is_empty() {
            cluster.decide(id, false);
            return Err(CommitError::Refused(refused));
        }
        let said = || "by script".to_owned();
        if offsets.iter().any(|(p, _)| cluster.owners.get(p) != Some(&self.member)) {
            cluster.decide(id, false);
            return Err(CommitError::NotOwner("the partition has another owner".into()));
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
        Ok(Committed::proven(Duration::ZERO))
    }

    fn reset_producer(&mut self) -> Result<(), Fault> {
        self.kafka.0.borrow_mut().decide_open(self.member);
        let hook = self.kafka.0.borrow_mut().on_reset.pop_front();
        hook.into_iter().for_each(|hook| hook(&self.kafka));
        Ok(())
    }

    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        self.kafka.0.borrow().stable_offsets(partitions).ok_or_else(|| Fault::Retry("unstable offsets".into()))
    }

    fn request_ends(&mut self, partition: i32) {
        let ends = self.kafka.0.borrow().ends(partition);
        self.requested.push((partition, Some(ends)));
    }

    fn ends(&mut self) -> Vec<(i32, Option<LogEnds>)> {
        // An answer takes a while: a transaction may come in between.
        std::mem::replace(&mut self.answers, std::mem::take(&mut self.requested))
    }
}

/// What a restore reads with.
pub struct SimReader {
    kafka: SimKafka,
    pub chunk: usize,
    positions: BTreeMap<(Topic, i32), (Changelog, usize)>,
}

impl Reader for SimReader {
    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        self.kafka.0.borrow().stable_offsets(partitions).ok_or_else(|| Fault::Retry("unstable offsets".into()))
    }
    fn input_bounds(&mut self, input: Input, partition: i32) -> Result<(i64, i64), Fault> {
        Ok(self.kafka.0.borrow().bounds((input.into(), partition)))
    }
    fn bounds(&mut self, log: Changelog, partition: i32) -> Result<(i64, i64), Fault> {
        Ok(self.kafka.0.borrow().bounds((log.into(), partition)))
    }
    fn offset_at(&mut self, log: Changelog, partition: i32, at_ms: i64) -> Result<Option<i64>, Fault> {
        let cluster = self.kafka.0.borrow();
        let Some(found) = cluster.logs.get(&(log.into(), partition)) else { return Ok(None) };
        let young = |e: &Entry| matches!(e, Entry::Record(r, _) if r.timestamp_ms >= Some(at_ms));
        let offset = found.entries.iter().enumerate().skip(found.start).find(|(_, e)| young(e));
        Ok(offset.map(|(offset, _)| offset as i64))
    }
    fn start(&mut self, log: Changelog, partition: i32, offset: i64) -> Result<(), Fault> {
        self.positions.insert((log.into(), partition), (log, offset as usize));
        Ok(())
    }
    fn stop(&mut self, log: Changelog, partition: i32) {
        self.positions.remove(&(log.into(), partition));
    }
    fn read(&mut self, _wait: Duration, each: &mut dyn FnMut(ReadStep)) {
        let cluster = self.kafka.0.borrow();
        for (at, (log, position)) in &mut self.positions {
            let records = cluster.visible(*at, *position, self.chunk);
            let exhausted = records.len() < self.chunk;
            for (offset, found) in records {
                *position = offset as usize + 1;
                each(ReadStep::Record(*log, record(at.1, offset, &found)));
            }
            if exhausted {
                *position = (*position).max(cluster.last_stable(*at));
                each(ReadStep::End(*log, at.1, *position as i64));
            }
        }
    }
    fn last_stable_offset(&mut self, log: Changelog, partition: i32) -> Option<i64> {
        Some(self.kafka.0.borrow().last_stable((log.into(), partition)) as i64)
    }
}
