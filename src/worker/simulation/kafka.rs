//! A small Kafka in memory, for tests of the real loop and the real restorer.
//!
//! It keeps what the protocol rests on: logs whose transactions become visible when decided (their markers take offsets),
//! stable group offsets, group events, one producer per identity, and transactions that fail by script. What a worker must
//! never do (write to a partition that it does not hold or has not restored) panics here.

use super::cluster::{Asked, Cluster, Entry, Failure, Member, Topic};
use super::log::SimLog;
use super::reader::SimReader;
use crate::kafka::{Fault, GroupEvent, InputOffsets, MemoryRecord};
use crate::worker::time::simulated;
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where a member's call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The group's events are asked for.
    Events,
    /// Records are asked for.
    Fetch,
    /// A transaction begins.
    Begin,
    /// Its records are written.
    Produced,
    /// Its offsets are sent.
    OffsetsSent,
    /// It was committed, and the answer is on its way.
    Committed,
    /// A new producer is initialised.
    Reset,
    /// Committed offsets are asked for.
    Offsets,
    /// A partition is started or given up.
    Assignment,
    /// A restore asks for bounds or offsets.
    Bounds,
    /// A restore reads.
    Read,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Go,
    /// It fails and may be tried again.
    Fail,
    /// The process is killed in it.
    Die,
}

/// Decides about calls; while it does, anything may happen to the cluster.
pub type Gate = Rc<dyn Fn(usize, Call) -> Fate>;

/// The whole Kafka; clones are the same one.
#[derive(Clone, Default)]
pub struct SimKafka(Rc<RefCell<Cluster>>);

impl SimKafka {
    /// A new group member with a producer of its own; its number names it.
    pub fn join(&self) -> SimLog {
        let identity = self.cluster().members.len();
        self.join_as(identity)
    }
    /// A new group member with the producer of a transactional id: what the id's former producer has begun is decided first.
    pub fn join_as(&self, identity: usize) -> SimLog {
        let mut cluster = self.cluster();
        cluster.complete_all_of(identity);
        let epoch = cluster.epochs.entry(identity).or_default();
        *epoch += 1;
        let epoch = *epoch;
        cluster.members.push(Member { identity, ..Member::default() });
        let member = cluster.members.len() - 1;
        SimLog {
            kafka: self.clone(),
            member,
            producer: (identity, epoch),
            started: BTreeMap::new(),
            requested: Vec::new(),
            answers: Vec::new(),
        }
    }
    /// A reader for a member's restores that gives at most `chunk` records of a log at once.
    pub fn reader(&self, member: Option<usize>, chunk: usize) -> SimReader {
        SimReader { kafka: self.clone(), member, chunk, positions: BTreeMap::new() }
    }
    /// The inside.
    pub(super) fn cluster(&self) -> RefMut<'_, Cluster> {
        self.0.borrow_mut()
    }

    /// Whether a member's call does anything: not once its process is dead, not while the brokers are away, and not when the
    /// simulation says so.
    pub(super) fn pass(&self, member: Option<usize>, call: Call) -> Result<(), Fault> {
        let Some(member) = member else { return Ok(()) };
        let gate = self.cluster().gate.clone();
        let fate = gate.map_or(Fate::Go, |gate| gate(member, call));
        let mut cluster = self.cluster();
        if fate == Fate::Die {
            cluster.members[member].dead = true;
        }
        if cluster.members[member].dead {
            return Err(Fault::Fatal("the process was killed".into()));
        }
        if fate == Fate::Fail || simulated::passed() < cluster.away_until {
            return Err(Fault::Retry(format!("no broker answers: {call:?}")));
        }
        Ok(())
    }
    /// The committed offsets; not while a transaction under way holds some.
    pub(super) fn stable_offsets(&self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        let cluster = self.cluster();
        cluster.stable_offsets(partitions).ok_or_else(|| Fault::Retry("unstable offsets".into()))
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
        let member = &mut cluster.members[owner];
        member.events.push(GroupEvent::Lost(vec![partition]));
        member.outdated = true;
        cluster.heirs.remove(&partition);
        cluster.assign(heir, &[partition]);
    }
    /// A member is gone; its open transaction is aborted and `heir` has its partitions.
    pub fn expel(&self, member: usize, heir: usize) {
        let theirs = self.time_out(member);
        let mut cluster = self.0.borrow_mut();
        let identity = cluster.members[member].identity;
        cluster.complete_all_of(identity);
        cluster.assign(heir, &theirs);
    }
    /// A member's session is over: its partitions are free, and it learns so with its next events.
    pub fn time_out(&self, member: usize) -> Vec<i32> {
        let mut cluster = self.0.borrow_mut();
        let theirs: Vec<i32> = cluster.owners.iter().filter(|(_, m)| **m == member).map(|(p, _)| *p).collect();
        for partition in &theirs {
            cluster.owners.remove(partition);
            cluster.heirs.remove(partition);
        }
        cluster.heirs.retain(|_, heir| *heir != member);
        let expelled = &mut cluster.members[member];
        let held: BTreeSet<i32> = expelled.known.iter().copied().chain(theirs.iter().copied()).collect();
        expelled.events = vec![GroupEvent::Lost(held.into_iter().collect())];
        (expelled.outdated, expelled.expelled) = (true, true);
        theirs
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
