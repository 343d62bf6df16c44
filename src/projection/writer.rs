//! The one thread of a process that writes to the store, fed through a bounded queue: no decision waits for the disk.
//!
//! Each write carries its round and its lease. After a write of a round has failed, the rest of the round is refused, its
//! meta record above all; a write whose lease has ended is refused too, so that a tree never has two writers.

use super::block::BlockId;
use super::sizes::sizes;
use super::store::Tree;
use crate::mutation::{self, Mutation};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// The right to write a partition's tree. Ends when dropped or revoked.
#[derive(Clone, Default)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// Ends it: no write under it is carried out from now on.
    pub fn end(&self) {
        self.0.store(true, Ordering::Release);
    }
    fn ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Writes that belong to no round: blocks written ahead, and removals behind.
pub const NO_ROUND: u64 = 0;

/// A block to write, or to remove when `bytes` is `None`.
pub struct Write {
    pub tree: Tree,
    pub lease: Lease,
    pub round: u64,
    pub id: BlockId,
    pub bytes: Option<Vec<u8>>,
    pub acks: Sender<Ack>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub id: BlockId,
    pub round: u64,
    /// Size of what was written.
    pub bytes: usize,
    pub result: Result<(), String>,
}

/// A channel for the acks of one projection; bounded by what the writer's queue can hold.
pub fn acks() -> (Sender<Ack>, Receiver<Ack>) {
    unbounded()
}

/// Figures of the writer, for metrics.
#[derive(Default)]
pub struct WriterStats {
    /// Bytes written since the start.
    pub bytes: AtomicU64,
    /// Whether the last write failed.
    pub failing: AtomicBool,
}

/// The sending side, shared by the loops.
#[derive(Clone)]
pub struct Writer {
    queue: Sender<Write>,
    /// Figures for metrics.
    pub stats: Arc<WriterStats>,
}

impl Writer {
    /// Starts the thread; it ends when the last `Writer` is dropped and the queue is empty.
    pub fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        let (writer, mut writing) = Self::queue();
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || writing.run())?;
        Ok((writer, thread))
    }

    /// The queue and its other end, for whoever does the writing.
    pub fn queue() -> (Self, Writing) {
        let (queue, writes) = bounded(sizes().queue);
        let stats = Arc::new(WriterStats::default());
        (Self { queue, stats: stats.clone() }, Writing { writes, failed: Vec::new(), stats })
    }

    /// Queues a write, or gives it back when the queue is full (or the writer has ended).
    pub fn try_send(&self, write: Write) -> Result<(), Box<Write>> {
        self.queue.try_send(write).map_err(|e| match e {
            TrySendError::Full(write) | TrySendError::Disconnected(write) => Box::new(write),
        })
    }
}

/// The queue's other end: what becomes of each write.
pub struct Writing {
    writes: Receiver<Write>,
    /// Rounds of which a write has failed.
    failed: Vec<(i32, u64)>,
    stats: Arc<WriterStats>,
}

/// Failed rounds that are remembered; older ones have long been given up by their projection.
const FAILED_ROUNDS: usize = 1024;

impl Writing {
    /// Writes until the last [`Writer`] is dropped.
    fn run(&mut self) {
        while let Ok(write) = self.writes.recv() {
            self.write(write);
        }
    }

    /// Writes one that waits; `false` when none does.
    pub fn step(&mut self) -> bool {
        self.writes.try_recv().map(|write| self.write(write)).is_ok()
    }

    fn write(&mut self, write: Write) {
        let round = (write.tree.partition(), write.round);
        let result = if write.lease.ended() {
            Err("the partition has moved on".to_owned())
        } else if self.failed.contains(&round) {
            Err("an earlier write of the round has failed".to_owned())
        } else {
            let written = write.tree.write(&write.id.key(), write.bytes.as_deref()).map_err(|e| e.to_string());
            written.or_else(|error| if mutation::on(Mutation::ConfirmFailedWrites) { Ok(()) } else { Err(error) })
        };
        let bytes = write.bytes.as_ref().map_or(0, Vec::len);
        match &result {
            Ok(()) => {
                self.stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                self.stats.failing.store(false, Ordering::Relaxed);
            }
            Err(_) if write.lease.ended() => {}
            Err(_) => {
                self.stats.failing.store(true, Ordering::Relaxed);
                if write.round != NO_ROUND && !self.failed.contains(&round) {
                    self.failed.truncate(FAILED_ROUNDS);
                    self.failed.insert(0, round);
                }
            }
        }
        // Nobody waits for the ack of a projection that is gone.
        let _ = write.acks.send(Ack { id: write.id, round: write.round, bytes, result });
    }
}
