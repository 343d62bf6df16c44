//! The inside of the small Kafka: its logs, transactions, offsets and group, without anybody who uses them.

use super::sim_log::SimKafka;
use crate::kafka::{Changelog, GroupEvent, Input, InputOffsets, LogEnds, MemoryRecord};
use crate::wire::{OutTopic, Outbox};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

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

pub enum Entry {
    Record(Rc<MemoryRecord>, Option<usize>),
    Marker,
}

/// One partition of a topic; an entry's index is its offset.
#[derive(Default)]
pub struct PartitionLog {
    pub start: usize,
    pub entries: Vec<Entry>,
}

pub struct Transaction {
    pub member: usize,
    pub committed: Option<bool>,
    pub touched: BTreeSet<(Topic, i32)>,
    pub offsets: Vec<(i32, InputOffsets)>,
}

#[derive(Default)]
pub struct Member {
    pub events: Vec<GroupEvent>,
    /// It is told nothing for now.
    pub deaf: bool,
    /// What it was told to hold.
    pub known: BTreeSet<i32>,
    pub revoking: BTreeSet<i32>,
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
    pub logs: BTreeMap<(Topic, i32), PartitionLog>,
    pub transactions: Vec<Transaction>,
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

    pub fn is_open(&self, transaction: Option<usize>) -> bool {
        transaction.is_some_and(|t| self.transactions[t].committed.is_none())
    }

    pub fn last_stable(&self, at: (Topic, i32)) -> usize {
        let Some(log) = self.logs.get(&at) else { return 0 };
        let open = log.entries.iter().position(|e| matches!(e, Entry::Record(_, t) if self.is_open(*t)));
        open.unwrap_or(log.entries.len())
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

    /// The committed offsets of partitions; `None` while an open transaction holds some.
    pub fn stable_offsets(&self, partitions: &[i32]) -> Option<Vec<(i32, InputOffsets)>> {
        let mut open = self.transactions.iter().filter(|t| t.committed.is_none()).flat_map(|t| &t.offsets);
        if open.any(|(p, _)| partitions.contains(p)) {
            return None;
        }
        Some(partitions.iter().map(|p| (*p, self.committed.get(p).copied().unwrap_or_default())).collect())
    }

    pub fn decide(&mut self, transaction: usize, commit: bool) {
        let transaction = &mut self.transactions[transaction];
        transaction.committed = Some(commit);
        for at in &transaction.touched {
            self.logs.entry(*at).or_default().entries.push(Entry::Marker);
        }
        for (partition, next) in transaction.offsets.iter().filter(|_| commit) {
            let committed = self.committed.entry(*partition).or_default();
            committed.live = next.live.or(committed.live);
            committed.backfill = next.backfill.or(committed.backfill);
        }
    }

    /// What a new producer does to the former one's transaction.
    pub fn decide_open(&mut self, member: usize) {
        let open = self.transactions.iter().position(|t| t.member == member && t.committed.is_none());
        open.into_iter().for_each(|t| self.decide(t, false));
    }

    /// Writes the records of a transaction that is open from now on.
    pub fn produce(&mut self, member: usize, outbox: &Outbox, offsets: &[(i32, InputOffsets)]) -> usize {
        let id = self.transactions.len();
        let mut touched = BTreeSet::new();
        for out in outbox.iter() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let record = MemoryRecord {
                key: out.key.map(<[u8]>::to_vec),
                value: out.value.map(<[u8]>::to_vec),
                headers: out.headers().map(|(name, value)| (text(name), value.map(<[u8]>::to_vec))).collect(),
                timestamp_ms: Some(out.timestamp_ms),
            };
            let at = (out.topic.into(), out.partition);
            touched.insert(at);
            self.logs.entry(at).or_default().entries.push(Entry::Record(Rc::new(record), Some(id)));
        }
        self.transactions.push(Transaction { member, committed: None, touched, offsets: offsets.to_vec() });
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
