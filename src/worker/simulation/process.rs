//! A worker's process over the simulated Kafka, driven step by step: the real loop, restorer and writer.

use super::cluster::Topic;
use super::commands::now_ms;
use super::kafka::SimKafka;
use super::log::SimLog;
use super::reader::SimReader;
use super::said::{Dump, dump};
use crate::kafka::InputOffsets;
use crate::observe::Metrics;
use crate::projection::{BlockCache, LogIdentity, Store, Writer, Writing};
use crate::worker::leases::Leases;
use crate::worker::main_loop::{Flow, Loop, LoopParts};
use crate::worker::partition::{Cancel, Partition, Running};
use crate::worker::restorer::{RestoreJob, RestoredState, Restorer, RestorerParts};
use crate::worker::rules::Rules;
use crate::worker::status::{PartitionState, Status};
use crate::worker::time::simulated;
use crate::worker::{StartAt, Stop};
use crossbeam_channel::{Sender, unbounded};
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// More steps than any condition takes.
const STEPS: usize = 1_000_000;

thread_local! {
    /// Nothing is decided by what is counted, and making the metrics takes longer than a simulated process lives.
    static METRICS: Arc<Metrics> = Arc::new(Metrics::new().unwrap());
    /// The queues of the thread's processes: while one waits, the disk goes on.
    static WRITERS: RefCell<Vec<Weak<RefCell<Writing>>>> = const { RefCell::new(Vec::new()) };
}

/// One write of a process's queue; `false` when the process is gone.
fn step(writer: &Weak<RefCell<Writing>>) -> bool {
    writer.upgrade().map(|writing| writing.borrow_mut().step()).is_some()
}

fn metrics() -> Arc<Metrics> {
    METRICS.with(Clone::clone)
}

/// Whose logs the simulated ones are.
pub fn identity() -> LogIdentity {
    LogIdentity { cluster: "sim".into(), cards_topic: "a".into(), completions_topic: "b".into(), partitions: 4 }
}

/// How a process is started.
pub struct How {
    pub rules: Rules,
    pub identity: LogIdentity,
    pub start_at: Option<StartAt>,
    pub standby: bool,
    /// Most records of a log that a restore reads at once.
    pub chunk: usize,
}

/// One process with one loop.
pub struct Worker {
    pub kafka: SimKafka,
    pub main: Loop<SimLog>,
    pub restorer: Restorer<SimReader>,
    pub member: usize,
    standby: bool,
    orders: Sender<RestoreJob>,
    status: Arc<Status>,
    pub writing: Rc<RefCell<Writing>>,
}

impl Worker {
    /// Joins the group; the test says which partitions it gets.
    pub fn start(kafka: &SimKafka, store: Arc<dyn Store>, rules: Rules) -> Self {
        Self::start_with(kafka, store, rules, usize::MAX)
    }
    /// The same with a reader that gives at most `chunk` records of a log at once.
    pub fn start_with(kafka: &SimKafka, store: Arc<dyn Store>, rules: Rules, chunk: usize) -> Self {
        let how = How { rules, identity: identity(), start_at: None, standby: false, chunk };
        let worker = Self::make(kafka, kafka.join(), store, how);
        WRITERS.with_borrow_mut(|writers| writers.push(Rc::downgrade(&worker.writing)));
        simulated::begin(|_| WRITERS.with_borrow_mut(|writers| writers.retain(step)));
        worker
    }
    /// A process whose loop has this connection.
    pub fn make(kafka: &SimKafka, log: SimLog, store: Arc<dyn Store>, how: How) -> Self {
        let (rules, status, metrics) = (Arc::new(how.rules), Arc::new(Status::default()), metrics());
        let (writer, writing) = Writer::queue();
        let (restores, jobs) = unbounded();
        let member = log.member;
        let restorer = Restorer::new(RestorerParts {
            reader: kafka.reader(Some(member), how.chunk),
            rules: rules.clone(),
            identity: how.identity,
            start_at: how.start_at,
            standby: how.standby,
            leases: Leases::default(),
            store,
            writer: writer.clone(),
            cache: Arc::new(BlockCache::default()),
            status: status.clone(),
            metrics: metrics.clone(),
            jobs,
            clock: now_ms,
        });
        let orders = restores.clone();
        let (_ask, questions) = crossbeam_channel::bounded(1);
        let parts = LoopParts {
            log,
            rules,
            restores,
            writer,
            status: status.clone(),
            metrics,
            traces: None,
            questions,
            clock: now_ms,
        };
        let (main, writing) = (Loop::new(parts), Rc::new(RefCell::new(writing)));
        Self { kafka: kafka.clone(), main, restorer, member, standby: how.standby, orders, status, writing }
    }
    /// A worker that has these partitions.
    pub fn with(kafka: &SimKafka, store: Arc<dyn Store>, rules: Rules, partitions: &[i32]) -> Self {
        let worker = Self::start(kafka, store, rules);
        kafka.assign(worker.member, partitions);
        worker
    }

    /// One turn of the loop, of the writer, and of the restorer where it has something to do.
    pub fn step(&mut self) -> Result<Flow, Stop> {
        simulated::pass(Duration::from_millis(1));
        let flow = self.main.step()?;
        self.writing.borrow_mut().step();
        self.restore();
        Ok(flow)
    }
    /// One turn of the restorer, where it has something to do.
    pub fn restore(&mut self) {
        if self.standby {
            assert!(self.restorer.step());
        } else if self.status.partitions().values().any(|s| s.state == PartitionState::Restoring) {
            // One without work would wait for an order: this one is given up already.
            let (cancel, (reply, _)) = (Cancel::default(), unbounded());
            cancel.cancel();
            self.orders.send(RestoreJob { partition: -1, cancel, reply }).unwrap();
            assert!(self.restorer.step());
        }
    }
    /// So many steps.
    pub fn steps(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step().unwrap();
        }
    }
    /// Steps until the condition holds.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..STEPS {
            if done(self) {
                return;
            }
            self.step().unwrap();
        }
        panic!("{what}: not reached");
    }
    /// Steps until the loop says why it ends.
    pub fn until_stopped(&mut self) -> String {
        for _ in 0..STEPS {
            if let Err(stop) = self.step() {
                return stop.0;
            }
        }
        panic!("it does not stop");
    }
    /// Steps until its partitions' inputs are processed.
    pub fn drain(&mut self) {
        self.until("inputs processed", |worker| worker.is_drained());
    }
    pub fn is_drained(&self) -> bool {
        (0..4).filter(|p| self.kafka.owner(*p) == Some(self.member)).all(|p| self.has_drained(p))
    }
    /// Whether all of a partition's inputs is processed.
    pub fn has_drained(&self, partition: i32) -> bool {
        let ends = InputOffsets {
            live: Some(self.kafka.end(Topic::Commands, partition)),
            backfill: Some(self.kafka.end(Topic::Backfill, partition)),
        };
        self.runs(partition).is_some_and(|r| r.committed == ends && self.kafka.committed(partition) == ends)
    }
    /// The running partition.
    pub fn runs(&self, partition: i32) -> Option<&Running> {
        self.main.partitions.get(&partition).and_then(Partition::running)
    }
    /// Its state.
    pub fn state(&self, partition: i32) -> Dump {
        dump(&self.runs(partition).expect("the partition runs").projection)
    }
    /// Ends at once: what the writer has not written by now is lost.
    pub fn kill(self) {
        drop(self);
    }
    /// Ends in order.
    pub fn end(self) {
        self.main.end(Duration::from_secs(20)).unwrap();
    }
}

/// A restore as an operator would start it.
pub fn restore(
    kafka: &SimKafka,
    partition: i32,
    store: Arc<dyn Store>,
    start_at: Option<StartAt>,
    rules: Rules,
) -> Result<RestoredState, String> {
    let how = How { rules, identity: identity(), start_at, standby: false, chunk: 3 };
    restore_as(kafka, partition, store, how)
}

/// The same over logs of any identity.
pub fn restore_as(kafka: &SimKafka, partition: i32, store: Arc<dyn Store>, how: How) -> Result<RestoredState, String> {
    let (orders, jobs) = unbounded();
    let (writer, mut writing) = Writer::queue();
    let mut restorer = Restorer::new(RestorerParts {
        reader: kafka.reader(None, how.chunk),
        rules: Arc::new(how.rules),
        identity: how.identity,
        start_at: how.start_at,
        standby: false,
        leases: Leases::default(),
        store,
        writer,
        cache: Arc::new(BlockCache::default()),
        status: Arc::new(Status::default()),
        metrics: metrics(),
        jobs,
        clock: now_ms,
    });
    let (reply, restored) = unbounded();
    orders.send(RestoreJob { partition, cancel: Cancel::default(), reply }).unwrap();
    for _ in 0..STEPS {
        simulated::pass(Duration::from_millis(1));
        assert!(restorer.step());
        writing.step();
        if let Ok(restored) = restored.try_recv() {
            return restored.result.map_err(|stop| stop.0);
        }
    }
    panic!("the restore does not end");
}
