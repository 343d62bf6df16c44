//! A small Kafka in memory, for tests of the real loop and the real restorer.
//!
//! It keeps what the protocol rests on: logs whose transactions become visible when decided (their markers take offsets),
//! stable group offsets, group events, one producer per identity, and transactions that fail by script. What a worker must
//! never do (write to a partition that it does not hold or has not restored) panics here.

use super::cluster::{Asked, Cluster, Entry, Failure, Member, Topic};
use super::log::SimLog;
use super::reader::SimReader;
use crate::kafka::{Fault, GroupEvent, InputOffsets, MemoryRecord};
use crate::mutation::{self, Mutation};
use crate::worker::time::simulated;
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

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
    /// The answers to questions for the logs' ends are taken.
    Ends,
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
            lent: None,
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
        let gate = if self.is_dead(member) { None } else { self.cluster().gate.clone() };
        let fate = gate.map_or(Fate::Go, |gate| gate(member, call));
        let mut cluster = self.cluster();
        if fate == Fate::Die {
            cluster.members[member].dead = true;
        }
        if cluster.members[member].dead {
            return Err(Fault::Fatal("the process was killed".into()));
        }
        // What is done in the client alone needs no broker.
        let asks = call != Call::Assignment;
        if asks && (fate == Fate::Fail || simulated::passed() < cluster.away_until) {
            return Err(Fault::Retry(format!("no broker answers: {call:?}")));
        }
        Ok(())
    }
    /// The committed offsets; not while a transaction under way holds some.
    pub(super) fn stable_offsets(&self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        let cluster = self.cluster();
        if mutation::on(Mutation::SkipStableWait) {
            return Ok(cluster.committed_offsets(partitions));
        }
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

    // --- what time, brokers and operators do ---

    /// A process has ended: no call of its member does anything any more.
    pub fn kill(&self, member: usize) {
        self.cluster().members[member].dead = true;
    }
    /// A member is told nothing for a while.
    pub fn deafen_for(&self, member: usize, time: Duration) {
        self.cluster().members[member].deaf_until = simulated::passed() + time;
    }
    /// The generation that a member knows is over, until it takes its events.
    pub fn outdate(&self, member: usize) {
        self.cluster().members[member].outdated = true;
    }
    /// A static member is back under a new number, and has what it had.
    pub fn inherit(&self, former: usize, member: usize) {
        let mut cluster = self.cluster();
        let theirs: Vec<i32> = cluster.owners.iter().filter(|(_, m)| **m == former).map(|(p, _)| *p).collect();
        cluster.heirs.retain(|p, heir| !theirs.contains(p) && *heir != former);
        if !theirs.is_empty() {
            cluster.assign(member, &theirs);
        }
    }
    /// Writes one marker of each decided transaction: the one that is chosen, if any.
    pub fn write_markers(&self, mut chosen: impl FnMut() -> Option<usize>) {
        let decided = |cluster: &Cluster| -> Vec<usize> {
            let decided = |t: &&usize| cluster.transactions[**t].committed.is_some();
            cluster.incomplete.iter().filter(decided).copied().collect()
        };
        let decided = decided(&self.cluster());
        for transaction in decided {
            if let Some(which) = chosen() {
                self.cluster().mark(transaction, which);
            }
        }
    }
    /// Aborts what has been open for too long, and fences its producer.
    pub fn time_out_transactions(&self, after: Duration) {
        let mut cluster = self.cluster();
        let late = |t: &&usize| {
            let transaction = &cluster.transactions[**t];
            transaction.committed.is_none() && simulated::passed() > transaction.begun + after
        };
        let late: Vec<usize> = cluster.incomplete.iter().filter(late).copied().collect();
        for transaction in late {
            let (identity, epoch) = cluster.transactions[transaction].producer;
            let current = cluster.epochs.entry(identity).or_default();
            *current = (*current).max(epoch + 1);
            cluster.decide(transaction, false);
        }
    }
    /// Writes all markers of decided transactions.
    pub fn complete_all(&self) {
        let mut cluster = self.cluster();
        let decided = |t: &usize| cluster.transactions[*t].committed.is_some();
        let decided: Vec<usize> = cluster.incomplete.iter().copied().filter(decided).collect();
        decided.into_iter().for_each(|t| cluster.complete(t));
    }
    /// Removes superseded cards that are chosen; offsets stay.
    pub fn compact(&self, partition: i32, mut chosen: impl FnMut() -> bool) {
        let mut cluster = self.cluster();
        let at = (Topic::Cards, partition);
        let (stable, end) = (cluster.last_stable(at), cluster.bounds(at).1);
        let latest: BTreeMap<_, _> =
            cluster.visible(at, 0, usize::MAX).iter().map(|(o, r)| (r.key.clone(), *o)).collect();
        let kept: BTreeSet<i64> = latest.into_values().collect();
        let Some(log) = cluster.logs.get_mut(&at) else { return };
        for (offset, entry) in log.entries.iter_mut().enumerate().take(stable) {
            let superseded = !kept.contains(&(offset as i64)) && (offset as i64) < end - 1;
            if superseded && chosen() {
                *entry = Entry::Gone;
            }
        }
    }
    /// Deletes the records at the log's start that are older than a moment.
    pub fn expire(&self, topic: Topic, partition: i32, oldest_ms: i64) {
        let mut cluster = self.cluster();
        let stable = cluster.last_stable((topic, partition));
        let Some(log) = cluster.logs.get_mut(&(topic, partition)) else { return };
        let old = |e: &Entry| !matches!(e, Entry::Record(record, _) if record.timestamp_ms >= Some(oldest_ms));
        while log.start < stable && old(&log.entries[log.start]) {
            log.start += 1;
        }
    }
    /// Loses what a log has from an offset on.
    pub fn truncate(&self, topic: Topic, partition: i32, end: i64) {
        let mut cluster = self.cluster();
        let Some(log) = cluster.logs.get_mut(&(topic, partition)) else { return };
        log.entries.truncate(log.start.max(end as usize));
    }
    /// Deletes all topics and makes them anew; the group's offsets are deleted too.
    pub fn make_anew(&self) {
        let mut cluster = self.cluster();
        cluster.logs.clear();
        cluster.committed.clear();
        cluster.transactions.clear();
        cluster.incomplete.clear();
    }

    // --- what the test sees ---

    /// The committed records of a partition with their offsets.
    pub fn records(&self, topic: Topic, partition: i32) -> Vec<(i64, Rc<MemoryRecord>)> {
        self.0.borrow().visible((topic, partition), 0, usize::MAX)
    }
    /// The same from an offset on.
    pub fn records_from(&self, topic: Topic, partition: i32, from: i64) -> Vec<(i64, Rc<MemoryRecord>)> {
        self.0.borrow().visible((topic, partition), from as usize, usize::MAX)
    }
    /// The records that are committed, also those whose markers are still to come.
    pub fn decided(&self, topic: Topic, partition: i32) -> Vec<Rc<MemoryRecord>> {
        let cluster = self.0.borrow();
        let Some(log) = cluster.logs.get(&(topic, partition)) else { return Vec::new() };
        let committed = |t: &usize| cluster.transactions[*t].committed == Some(true);
        let records = log.entries.iter().filter_map(|entry| match entry {
            Entry::Record(record, Some(transaction)) if committed(transaction) => Some(record.clone()),
            _ => None,
        });
        records.collect()
    }
    /// The next offset of a partition.
    pub fn end(&self, topic: Topic, partition: i32) -> i64 {
        self.0.borrow().bounds((topic, partition)).1
    }
    /// The first offset of a partition.
    pub fn start(&self, topic: Topic, partition: i32) -> i64 {
        self.0.borrow().bounds((topic, partition)).0
    }
    /// Whether a member's process has ended.
    pub fn is_dead(&self, member: usize) -> bool {
        self.0.borrow().members[member].dead
    }
    /// Whether the group gives partitions to a member.
    pub fn is_in_group(&self, member: usize) -> bool {
        let member = &self.0.borrow().members[member];
        !member.dead && !member.expelled
    }
    /// A number that tells two different courses apart.
    pub fn digest(&self) -> u64 {
        let cluster = self.0.borrow();
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for ((topic, partition), log) in &cluster.logs {
            hash.update(format!("{topic:?} {partition} {} {}", log.start, log.entries.len()).as_bytes());
            for (offset, record) in cluster.visible((*topic, *partition), 0, usize::MAX) {
                hash.update(&offset.to_le_bytes());
                hash.update(record.value.as_deref().unwrap_or_default());
            }
        }
        hash.digest()
    }
    /// The committed offsets of a partition's inputs.
    pub fn committed(&self, partition: i32) -> InputOffsets {
        self.0.borrow().committed.get(&partition).copied().unwrap_or_default()
    }
    /// Whether a partition has an owner that need not give it up.
    pub fn is_settled(&self, partition: i32) -> bool {
        let cluster = self.0.borrow();
        cluster.owners.contains_key(&partition) && !cluster.heirs.contains_key(&partition)
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
