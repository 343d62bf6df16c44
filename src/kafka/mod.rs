//! Kafka: the group consumer, the transactional producer, the readers of a restore, and topics.
//!
//! The only place that knows rdkafka. It owns how the client is driven and how its errors are classified; it must never
//! decide what an error means for a partition's state, and never let a call outlast its time-out unnoticed ([`Watchdog`]).
//! The facts that shape it were measured on librdkafka 2.12.1; each stands where it matters.

mod ends;
mod error;
mod figures;
mod group;
mod history;
mod mock;
mod offsets;
mod raw;
mod reader;
mod record;
mod sender;
mod settings;
mod topics;
mod transaction;
mod trial;
mod upstream;
mod watchdog;

pub use ends::Ends;
pub use error::{CommitError, Fault};
pub use figures::{ClientFigures, ClientKind, Figures, Gauges};
pub use group::GroupLog;
pub use history::{History, HistoryStep};
pub use mock::MockKafka;
pub use reader::KafkaReader;
pub use record::{Body, Header, Input, MemoryRecord, Record};
pub use sender::{Note, Outgoing, Sender, read_notes};
pub use settings::{ClientSettings, Identity, REFUSED_PROPERTIES, TopicNames};
pub use topics::{LogPlace, NewTopicSpec, TopicDescription, TopicSettings, TopicsClient};
pub use trial::try_transaction;
pub use upstream::{CompletionReader, Received, Upstream};
pub use watchdog::{Slot, Watchdog};

use crate::wire::Outbox;
use std::sync::Arc;
use std::time::Duration;

/// What the group did to this member's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// They are this member's now, to be restored and started.
    Assigned(Vec<i32>),
    /// They must be given up in an orderly way: finish, checkpoint, then [`Log::stop`].
    Revoked(Vec<i32>),
    /// They are another member's already: commit nothing more, drop, [`Log::stop`].
    Lost(Vec<i32>),
}

/// The next offsets of a partition's inputs; `None` where none is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputOffsets {
    /// Of the commands topic.
    pub live: Option<i64>,
    /// Of the backfill topic.
    pub backfill: Option<i64>,
}

/// The ends of a partition's two logs, as a read_uncommitted client sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnds {
    /// Of the cards topic.
    pub cards: i64,
    /// Of the completions topic.
    pub completions: i64,
}

/// The proof that a transaction was committed. Only a log can make one, and applying a batch takes one (INV-1).
#[derive(Debug)]
pub struct Committed {
    produced: Duration,
}

impl Committed {
    /// For the implementations of [`Log`], when a commit is known to have happened; `produced` is how long it took to hand the
    /// records to the client.
    pub const fn proven(produced: Duration) -> Self {
        Self { produced }
    }
    /// How long it took to hand the records to the client; zero where that is not known.
    pub const fn produced(&self) -> Duration {
        self.produced
    }
}

/// One loop's connection to Kafka: its group membership, its inputs and its transactions. A simulated log can stand here.
pub trait Log {
    /// What happened in the group since the last call.
    fn events(&mut self) -> Result<Vec<GroupEvent>, Fault>;
    /// Starts to read a restored partition's inputs at these offsets.
    fn start(&mut self, partition: i32, live: i64, backfill: i64) -> Result<(), Fault>;
    /// Gives partitions up, whether they were started or not.
    fn stop(&mut self, partitions: &[i32]) -> Result<(), Fault>;
    /// Takes up to `most` records of an input, waiting up to `wait` for the first.
    fn fetch(
        &mut self,
        input: Input,
        most: usize,
        wait: Duration,
        into: &mut Vec<(Input, Record)>,
    ) -> Result<(), Fault>;
    /// Up to where the inputs of a started partition were read, over whatever holds no record for this reader; to be shown only.
    fn read_to(&self, partition: i32) -> Option<[i64; 2]>;
    /// One transaction over the outbox's records and the next offsets of the inputs. It must carry offsets: without, it
    /// would not be fenced.
    fn transact(&mut self, outbox: &Arc<Outbox>, offsets: &[(i32, InputOffsets)]) -> Result<Committed, CommitError>;
    /// A new producer under the same identity. When it returns, the former one's transaction is decided.
    fn reset_producer(&mut self) -> Result<(), Fault>;
    /// The stable committed offsets of partitions, read after [`Log::reset_producer`] to learn what was decided.
    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault>;
    /// Asks for the ends of a partition's logs; the answer comes from [`Log::ends`].
    fn request_ends(&mut self, partition: i32);
    /// Answers to [`Log::request_ends`] that have come; `None` where the broker did not say.
    fn ends(&mut self) -> Vec<(i32, Option<LogEnds>)>;
}

/// The logs that a restore reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Changelog {
    /// The cards topic.
    Cards = 0,
    /// The completions topic.
    Completions = 1,
    /// The dead-letter topic, read only to find what was answered when offsets are lost.
    DeadLetters = 2,
}

/// What the reading of a changelog met.
pub enum ReadStep {
    /// A record.
    Record(Changelog, Record),
    /// The end of a partition as of now: the next offset, over whatever holds no record for this reader.
    End(Changelog, i32, i64),
    /// The partition cannot be read.
    Failed(Changelog, i32, Fault),
}

/// What a restore asks of Kafka. A simulated log can stand here.
pub trait Reader {
    /// The stable committed offsets of partitions: waits out a predecessor's open transaction.
    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault>;
    /// Start and end of an input's partition.
    fn input_bounds(&mut self, input: Input, partition: i32) -> Result<(i64, i64), Fault>;
    /// Start and true end (read_uncommitted) of a changelog's partition.
    fn bounds(&mut self, log: Changelog, partition: i32) -> Result<(i64, i64), Fault>;
    /// The first offset whose record is not older than `at_ms`; `None` when all are.
    fn offset_at(&mut self, log: Changelog, partition: i32, at_ms: i64) -> Result<Option<i64>, Fault>;
    /// Starts to read a changelog's partition, committed records only.
    fn start(&mut self, log: Changelog, partition: i32, offset: i64) -> Result<(), Fault>;
    /// Ends reading it.
    fn stop(&mut self, log: Changelog, partition: i32);
    /// What was read, waiting up to `wait` for the first.
    fn read(&mut self, wait: Duration, each: &mut dyn FnMut(ReadStep));
    /// Up to where committed records can be read now (the last stable offset), to say what a stalled restore waits for.
    fn last_stable_offset(&mut self, log: Changelog, partition: i32) -> Option<i64>;
}
