//! The inside of the small Kafka: its logs, transactions, offsets and group, without anybody who uses them.

use super::kafka::{Gate, SimKafka};
use crate::kafka::{Changelog, GroupEvent, Input, InputOffsets, LogEnds, MemoryRecord};
use crate::wire::{OutTopic, Outbox};
use crate::worker::time::simulated;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// The five topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Commands,
    Backfill,
    Cards,
    Completions,
    DeadLetters,
}

impl From<Input> for Topic {
    fn from(input: Input) -> Self {
        match input {
            Input::Live => Self::Commands,
            Input::Backfill => Self::Backfill,
        }
    }
}

impl From<Changelog> for Topic {
    fn from(log: Changelog) -> Self {
        match log {
            Changelog::Cards => Self::Cards,
            Changelog::Completions => Self::Completions,
            Changelog::DeadLetters => Self::DeadLetters,
        }
    }
}

impl From<OutTopic> for Topic {
    fn from(topic: OutTopic) -> Self {
        match topic {
            OutTopic::Completions => Self::Completions,
            OutTopic::Cards => Self::Cards,
            OutTopic::DeadLetters => Self::DeadLetters,
        }
    }
}

/// How a scripted transaction fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Aborted.
    Abort,
    /// Aborted: the group has moved on.
    NotOwner,
    /// The answer was lost, the commit was not.
    UnknownCommitted,
    /// The commit never arrived: the next producer of the identity aborts it.
    UnknownOpen,
    /// Fenced after the commit.
    FencedCommitted,
    /// Fenced before the commit: the next producer of the identity aborts it.
    FencedOpen,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Abort,
        Self::NotOwner,
        Self::UnknownCommitted,
        Self::UnknownOpen,
        Self::FencedCommitted,
        Self::FencedOpen,
    ];
}

pub enum Entry {
    Record(Rc<MemoryRecord>, Option<usize>),
    Marker,
    /// Compacted away: the offset stays.
    Gone,
}

/// One partition of a topic; an entry's index is its offset.
#[derive(Default)]
pub struct PartitionLog {
    pub start: usize,
    pub entries: Vec<Entry>,
}

pub struct Transaction {
    /// The producer: its transactional id and epoch.
    pub producer: (usize, u32),
    pub begun: Duration,
    pub committed: Option<bool>,
    /// The logs that it wrote to, and its first offset there; those whose marker is written are taken out.
    pub unmarked: BTreeMap<(Topic, i32), usize>,
    /// Offsets that were sent; pending until decided and taken over.
    pub offsets: Vec<(i32, InputOffsets)>,
}

#[derive(Default)]
pub struct Member {
    /// Its transactional id, and its group instance id where members are static.
    pub identity: usize,
    pub events: Vec<GroupEvent>,
    /// It is told nothing for now.
    pub deaf: bool,
    /// Nor until then: it takes a while until a member learns that the group went on without it.
    pub deaf_until: Duration,
    /// What it was told to hold.
    pub known: BTreeSet<i32>,
    pub revoking: BTreeSet<i32>,
    /// The group goes on without it, or with another generation, until it has taken its events.
    pub outdated: bool,
    /// The group has expelled it; it joins again when it has taken its events.
    pub expelled: bool,
    /// Its process has ended: no call of it does anything any more.
    pub dead: bool,
}

/// A transaction as it was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub member: usize,
    pub offsets: Vec<(i32, InputOffsets)>,
    /// Bytes of keys, values and headers by partition.
    pub bytes: BTreeMap<i32, usize>,
}

pub type Hook = Box<dyn FnOnce(&SimKafka)>;

#[derive(Default)]
pub struct Cluster {
    /// Asked at each call, where a simulation interferes.
    pub gate: Option<Gate>,
    /// Whether markers and offsets of a decided transaction come later.
    pub lazy: bool,
    /// The brokers' clock; it never goes back.
    pub clock_ms: i64,
    /// Until then no broker answers.
    pub away_until: Duration,
    /// The current epoch of each transactional id.
    pub epochs: BTreeMap<usize, u32>,
    pub logs: BTreeMap<(Topic, i32), PartitionLog>,
    pub transactions: Vec<Transaction>,
    /// Those that are not complete: open, or with markers to come.
    pub incomplete: BTreeSet<usize>,
    pub committed: BTreeMap<i32, InputOffsets>,
    pub members: Vec<Member>,
    pub owners: BTreeMap<i32, usize>,
    pub heirs: BTreeMap<i32, usize>,
    pub script: VecDeque<Option<Failure>>,
    pub limits: BTreeMap<Topic, usize>,
    pub before_transact: VecDeque<Hook>,
    pub on_reset: VecDeque<Hook>,
    pub asked: Vec<Asked>,
}

impl Cluster {
    pub fn assign(&mut self, member: usize, partitions: &[i32]) {
        self.owners.extend(partitions.iter().map(|p| (*p, member)));
        self.members[member].events.push(GroupEvent::Assigned(partitions.to_vec()));
    }

    pub fn bounds(&self, at: (Topic, i32)) -> (i64, i64) {
        self.logs.get(&at).map_or((0, 0), |log| (log.start as i64, log.entries.len() as i64))
    }

    pub fn ends(&self, partition: i32) -> LogEnds {
        LogEnds {
            cards: self.bounds((Topic::Cards, partition)).1,
            completions: self.bounds((Topic::Completions, partition)).1,
        }
    }

    pub fn last_stable(&self, at: (Topic, i32)) -> usize {
        let first = self.incomplete.iter().filter_map(|t| self.transactions[*t].unmarked.get(&at)).min();
        first.copied().unwrap_or_else(|| self.logs.get(&at).map_or(0, |log| log.entries.len()))
    }

    /// Up to `most` committed records from an offset.
    pub fn visible(&self, at: (Topic, i32), from: usize, most: usize) -> Vec<(i64, Rc<MemoryRecord>)> {
        let Some(log) = self.logs.get(&at) else { return Vec::new() };
        let stable = self.last_stable(at);
        let committed = |t: &Option<usize>| t.is_none_or(|t| self.transactions[t].committed == Some(true));
        let entries = log.entries.iter().enumerate().take(stable).skip(from.max(log.start));
        let records = entries.filter_map(|(offset, entry)| match entry {
            Entry::Record(record, transaction) if committed(transaction) => Some((offset as i64, record.clone())),
            _ => None,
        });
        records.take(most).collect()
    }

    /// The committed offsets of partitions; `None` while a transaction under way holds some.
    pub fn stable_offsets(&self, partitions: &[i32]) -> Option<Vec<(i32, InputOffsets)>> {
        let mut pending = self.incomplete.iter().flat_map(|t| &self.transactions[*t].offsets);
        if pending.any(|(p, _)| partitions.contains(p)) {
            return None;
        }
        Some(self.committed_offsets(partitions))
    }

    pub fn committed_offsets(&self, partitions: &[i32]) -> Vec<(i32, InputOffsets)> {
        partitions.iter().map(|p| (*p, self.committed.get(p).copied().unwrap_or_default())).collect()
    }

    pub fn decide(&mut self, transaction: usize, commit: bool) {
        self.transactions[transaction].committed = Some(commit);
        if !self.lazy {
            self.complete(transaction);
        }
    }

    /// Writes one marker of a decided transaction: to one of its logs, or to the group's offsets, in no order.
    pub fn mark(&mut self, transaction: usize, which: usize) {
        let decided = &mut self.transactions[transaction];
        let logs = decided.unmarked.len();
        let which = which % (logs + usize::from(!decided.offsets.is_empty())).max(1);
        if let Some(at) = decided.unmarked.keys().nth(which).copied() {
            decided.unmarked.remove(&at);
            self.logs.entry(at).or_default().entries.push(Entry::Marker);
        } else {
            self.take_over_offsets(transaction);
        }
        let decided = &self.transactions[transaction];
        if decided.unmarked.is_empty() && decided.offsets.is_empty() {
            self.incomplete.remove(&transaction);
        }
    }

    fn take_over_offsets(&mut self, transaction: usize) {
        let decided = &mut self.transactions[transaction];
        let offsets = std::mem::take(&mut decided.offsets);
        let commit = decided.committed == Some(true);
        for (partition, next) in offsets.iter().filter(|_| commit) {
            let committed = self.committed.entry(*partition).or_default();
            committed.live = next.live.or(committed.live);
            committed.backfill = next.backfill.or(committed.backfill);
        }
    }

    pub fn complete(&mut self, transaction: usize) {
        while self.incomplete.contains(&transaction) {
            self.mark(transaction, 0);
        }
    }

    /// What a new producer waits for: whatever its transactional id has begun is decided and complete.
    pub fn complete_all_of(&mut self, identity: usize) {
        let theirs = |t: &usize| self.transactions[*t].producer.0 == identity;
        let under_way: Vec<usize> = self.incomplete.iter().copied().filter(theirs).collect();
        for transaction in under_way {
            if self.transactions[transaction].committed.is_none() {
                self.decide(transaction, false);
            }
            self.complete(transaction);
        }
    }

    /// The transaction that a producer has open.
    pub fn open_of(&self, producer: (usize, u32)) -> Option<usize> {
        let open = |t: &&usize| {
            let transaction = &self.transactions[**t];
            transaction.producer == producer && transaction.committed.is_none()
        };
        self.incomplete.iter().find(open).copied()
    }

    /// Writes the records of a transaction that is open from now on.
    pub fn produce(&mut self, producer: (usize, u32), outbox: &Outbox) -> usize {
        let id = self.transactions.len();
        let mut unmarked = BTreeMap::new();
        for out in outbox.iter() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let record = MemoryRecord {
                key: out.key.map(<[u8]>::to_vec),
                value: out.value.map(<[u8]>::to_vec),
                headers: out.headers().map(|(name, value)| (text(name), value.map(<[u8]>::to_vec))).collect(),
                timestamp_ms: Some(out.timestamp_ms),
            };
            let at = (out.topic.into(), out.partition);
            let entries = &mut self.logs.entry(at).or_default().entries;
            unmarked.entry(at).or_insert(entries.len());
            entries.push(Entry::Record(Rc::new(record), Some(id)));
        }
        let begun = simulated::passed();
        self.transactions.push(Transaction { producer, begun, committed: None, unmarked, offsets: Vec::new() });
        self.incomplete.insert(id);
        id
    }

    /// The records that are too large; the client reports all that went in one request with one.
    pub fn refused(&self, outbox: &Outbox) -> Vec<usize> {
        let place = |index: usize| (outbox.get(index).topic, outbox.get(index).partition);
        let too_large = |index: &usize| {
            let limit = self.limits.get(&Topic::from(place(*index).0));
            limit.is_some_and(|limit| size_of(outbox, *index) > *limit)
        };
        let requests: Vec<_> = (0..outbox.len()).filter(too_large).map(place).collect();
        (0..outbox.len()).filter(|index| requests.contains(&place(*index))).collect()
    }
}

pub fn size_of(outbox: &Outbox, index: usize) -> usize {
    let record = outbox.get(index);
    let headers: usize = record.headers().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers
}
