//! One process: checks before anything is touched, then its threads, until it is told to end or must.

use super::Stop;
use super::instruments::{Instruments, Questions};
use super::leases::Leases;
use super::lookout::Lookout;
use super::loops::{LoopSeed, start_loops};
use super::restore::StartAt;
use super::restorer::{RestoreJob, Restorer, RestorerParts};
use super::rules::Rules;
use super::status::Status;
use super::topics::{Topics, compare_facts, look_at_topics};
use crate::config::Config;
use crate::kafka::{ClientSettings, Ends, Fault, Identity, KafkaReader, TopicsClient};
use crate::observe::{is_ready, readiness};
use crate::projection::{BlockCache, LogIdentity, StateDir, Store, Tree};
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the first contact with the cluster may take.
pub const FIRST_CONTACT: Duration = Duration::from_secs(60);
/// How often it is seen whether partitions have moved away for long.
const DEPARTED_EVERY: Duration = Duration::from_secs(30);

/// What one loop with one broker takes: sockets and pipes of each client's connections, sled's files, HTTP.
pub const FEWEST_FILES: u64 = 128;
const TICK: Duration = Duration::from_millis(100);
/// How long a failed loop may take to leave the group; a client that hangs holds nothing up for longer.
const LEAVE: Duration = Duration::from_secs(1);
/// How often a thread is looked at that is about to end.
const LOOK: Duration = Duration::from_millis(5);
/// What of the drain time-out is kept for leaving the group and closing the store.
const CLOSE_SHARE: u32 = 4;

/// What `run` is told beside the configuration.
#[derive(Clone, Default)]
pub struct ProcessOptions {
    /// How to go on without committed offsets.
    pub start_at: Option<StartAt>,
    /// Topics made anew are meant: local state of the former ones is discarded.
    pub accept_new_topics: bool,
    /// The in-process Kafka has no ids and settings to check.
    pub mock: bool,
    /// Set to end in order.
    pub shutdown: Arc<AtomicBool>,
    /// Set when every partition is running, for whoever waits for it.
    pub status: Arc<Status>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was told: everything is committed, and on disk or to be restored from Kafka.
    Ended,
}

/// The time, milliseconds since the epoch.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Runs the worker until it is told to end. An error is the line for the operator.
pub fn run(config: &Config, options: &ProcessOptions) -> Result<Outcome, Stop> {
    files_suffice()?;
    let mut state = StateDir::lock(&config.state_dir).map_err(|e| Stop(e.to_string()))?;
    // Probes answer before Kafka does: a worker whose broker is away is alive and not ready.
    let (instruments, questions) = Instruments::start(config, options.status.clone())?;
    note_unusable(&state, &options.status);
    let client = TopicsClient::new(&config.kafka).map_err(stop)?;
    let Some(topics) = look_at_topics(config, options, &client)? else {
        tracing::info!("ended before Kafka was found");
        return Ok(Outcome::Ended);
    };
    compare_facts(&state, &topics.facts, options)?;
    let (store, discarded) = state.open_store(&topics.facts);
    note_unusable(&state, &options.status);
    options.status.heard(now_ms());
    if let Some(why) = discarded {
        tracing::warn!(why, "the local state is discarded and restored from Kafka");
        instruments.metrics.state_discarded("at_open");
    }
    instruments.metrics.retention(topics.completions_retention_ms);
    let mut process = Process::start(config, options, (&topics, store, &state), instruments, questions)?;
    let lookout = Lookout::new(config, options, client, topics.facts);
    let lookout = lookout.start(&process.instruments, &process.failed, &process.stop_loops).map_err(no_thread)?;
    process.watch(config, options, &lookout).inspect_err(|_| process.let_leave())?;
    let traces = process.instruments.traces.clone();
    process.end(config)?;
    state.mark_clean().unwrap_or_else(|error| tracing::warn!(%error, "no clean mark; the next start checks more"));
    // Last: a collector that is away must not cost the clean mark.
    if let Some(traces) = traces {
        traces.end();
    }
    tracing::info!("ended");
    Ok(Outcome::Ended)
}

/// With fewer the clients cannot connect, and say only that they time out.
fn files_suffice() -> Result<(), Stop> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < FEWEST_FILES => Err(Stop(format!(
            "only {limit} files may be open, and a worker needs {FEWEST_FILES} at the very least: raise it (ulimit -n, LimitNOFILE)"
        ))),
        _ => Ok(()),
    }
}

fn note_unusable(state: &StateDir, status: &Status) {
    if let Some(why) = state.why_unusable().filter(|_| status.disk_failure().is_none()) {
        tracing::error!(why, "the worker goes on from memory; its next start restores everything");
        status.disk(Some(why.to_owned()));
    }
}

/// A failure as the line for the operator.
pub fn stop(fault: Fault) -> Stop {
    Stop(fault.to_string())
}

/// The threads of a process.
struct Process {
    instruments: Instruments,
    loops: Vec<JoinHandle<Result<(), Stop>>>,
    failures: Receiver<Stop>,
    failed: Sender<Stop>,
    stop_loops: Arc<AtomicBool>,
    leaving: Arc<AtomicBool>,
    restorer: JoinHandle<()>,
    jobs: Sender<RestoreJob>,
    store: Arc<dyn Store>,
    cache: Arc<BlockCache>,
    leases: Leases,
    unheld_since: BTreeMap<i32, Instant>,
}

impl Process {
    fn start(
        config: &Config,
        options: &ProcessOptions,
        (topics, store, state): (&Topics, Arc<dyn Store>, &StateDir),
        instruments: Instruments,
        questions: Questions,
    ) -> Result<Self, Stop> {
        let kafka =
            ClientSettings { batch_bytes: config.kafka.batch_bytes.min(topics.batch_bytes), ..config.kafka.clone() };
        let (jobs, job_queue) = unbounded();
        let rules = Arc::new(rules_of_a_loop(config));
        let (cache, leases) = (Arc::new(BlockCache::default()), Leases::default());
        let restorer = RestorerSeed {
            rules: rules.clone(),
            identity: topics.identity.clone(),
            start_at: options.start_at,
            standby: config.standby,
            leases: leases.clone(),
            store: store.clone(),
            cache: cache.clone(),
            jobs: job_queue,
            instruments: instruments.clone(),
        };
        let restorer = restorer.start(&kafka).map_err(no_thread)?;
        let (failed, failures) = unbounded();
        let seed = LoopSeed {
            ends: Ends::start(&kafka, instruments.watchdog.slot("log-ends")).map_err(stop)?,
            identity: Identity { group_instance_id: None, transactional_id: String::new() },
            rules,
            jobs: jobs.clone(),
            instruments: instruments.clone(),
            stop: Arc::default(),
            failures: failed.clone(),
            leaving: Arc::default(),
            end_timeout: config.rules.drain_timeout - config.rules.drain_timeout / CLOSE_SHARE,
            kafka,
        };
        let (stop_loops, leaving) = (seed.stop.clone(), seed.leaving.clone());
        let loops = start_loops(config, &seed, questions, state).map_err(no_thread)?;
        let unheld_since = BTreeMap::new();
        Ok(Self {
            instruments,
            loops,
            failures,
            failed,
            stop_loops,
            leaving,
            restorer,
            jobs,
            store,
            cache,
            leases,
            unheld_since,
        })
    }

    /// Waits until the end is asked for, or must be; meanwhile says when readiness changes, and drops what has moved away.
    fn watch(&mut self, config: &Config, options: &ProcessOptions, lookout: &JoinHandle<()>) -> Result<(), Stop> {
        let mut next_look = Instant::now() + DEPARTED_EVERY;
        let mut ready = None;
        while !options.shutdown.load(Ordering::Acquire) {
            if let Ok(stop) = self.failures.recv_timeout(TICK) {
                return Err(stop);
            }
            // None of them ends by itself but with a failure.
            let loops_ended = self.loops.iter().any(JoinHandle::is_finished);
            if loops_ended || self.restorer.is_finished() || lookout.is_finished() || self.instruments.writer_ended() {
                let panicked = |_| Stop("a thread ended by a panic; see the log".into());
                return Err(self.failures.try_recv().unwrap_or_else(panicked));
            }
            self.tell_readiness(&mut ready);
            if Instant::now() < next_look {
                continue;
            }
            next_look = Instant::now() + DEPARTED_EVERY;
            self.drop_departed(config.keep_lost_for);
        }
        Ok(())
    }

    /// A loop that has failed leaves the group when it is dropped: others take over at once, not when its session is over.
    fn let_leave(&self) {
        let deadline = Instant::now() + LEAVE;
        let leaves = || self.leaving.load(Ordering::Acquire) && !self.loops.iter().any(JoinHandle::is_finished);
        while leaves() && Instant::now() < deadline {
            // Threads do not tell that they end: they are looked at, up to the deadline.
            std::thread::sleep(LOOK);
        }
    }

    fn tell_readiness(&self, before: &mut Option<bool>) {
        let checks = readiness(&self.instruments.status, now_ms());
        let ready = is_ready(&checks);
        if *before == Some(ready) {
            return;
        }
        // Before it was ever ready, each step towards it has a line of its own.
        if ready {
            tracing::info!("ready");
        } else if before.is_some() {
            let why: Vec<String> = checks.iter().filter(|c| !c.ok).map(|c| format!("{}: {}", c.name, c.says)).collect();
            tracing::warn!(why = why.join("; "), "not ready");
        }
        *before = Some(ready);
    }

    /// Drops the trees of partitions that have been elsewhere for long.
    fn drop_departed(&mut self, keep: Duration) {
        let here = self.store.partitions();
        self.unheld_since.retain(|p, _| here.contains(p) && !self.leases.is_held(*p));
        for partition in here.into_iter().filter(|p| !self.leases.is_held(*p)) {
            let since = *self.unheld_since.entry(partition).or_insert_with(Instant::now);
            if since.elapsed() < keep {
                continue;
            }
            let Some(_held) = self.leases.take(partition) else { continue };
            match Tree::new(partition, self.store.clone(), self.cache.clone()).clear() {
                Ok(()) => tracing::info!(partition, "the local state of a partition that moved away is dropped"),
                Err(error) => tracing::warn!(partition, %error, "the local state of a partition that moved away stays"),
            }
        }
    }

    /// Ends in order: loops, restores, writer, store.
    fn end(self, config: &Config) -> Result<(), Stop> {
        tracing::info!("ending: finishing the batches, then the checkpoints");
        self.instruments.status.ends();
        let deadline = Instant::now() + config.rules.drain_timeout;
        self.stop_loops.store(true, Ordering::Release);
        drop(self.jobs);
        // One loop's failure must not cost the others their last checkpoints: the first is told at the end.
        let mut ended = Ok(());
        for handle in self.loops {
            ended = ended.and(end_of_loop(handle, deadline));
        }
        ended = ended.and(wait(&self.restorer, deadline));
        let writer_thread = self.instruments.end_writer();
        ended = ended.and(wait(&writer_thread, deadline));
        self.store
            .flush()
            .unwrap_or_else(|error| tracing::warn!(%error, "the local state is not whole; the next start restores"));
        ended
    }
}

fn end_of_loop(handle: JoinHandle<Result<(), Stop>>, deadline: Instant) -> Result<(), Stop> {
    wait(&handle, deadline)?;
    handle.join().unwrap_or_else(|_| Err(Stop("a loop ended by a panic; see the log".into())))
}

fn wait<T>(handle: &JoinHandle<T>, deadline: Instant) -> Result<(), Stop> {
    while !handle.is_finished() {
        if Instant::now() > deadline {
            return Err(Stop(
                "the end took longer than worker.drain_timeout; everything committed is safe, the next start restores more".into(),
            ));
        }
        // Threads do not tell that they end: they are looked at, up to the deadline above.
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// A thread that cannot be started as the line for the operator.
pub fn no_thread(error: std::io::Error) -> Stop {
    Stop(format!("a thread cannot be started: {error}"))
}

/// The rate is the process's: its loops share it evenly.
fn rules_of_a_loop(config: &Config) -> Rules {
    let backfill_max_rate = config.rules.backfill_max_rate.div_ceil(config.threads as u64);
    Rules { backfill_max_rate, ..config.rules.clone() }
}

/// Prints the line and ends: no thread that hangs may hold it up.
pub fn end_at_once(line: String) {
    tracing::error!("{line}");
    eprintln!("card-update-worker: {line}");
    std::process::exit(1);
}

struct RestorerSeed {
    rules: Arc<Rules>,
    identity: LogIdentity,
    start_at: Option<StartAt>,
    standby: bool,
    leases: Leases,
    store: Arc<dyn Store>,
    cache: Arc<BlockCache>,
    jobs: Receiver<RestoreJob>,
    instruments: Instruments,
}

impl RestorerSeed {
    fn start(self, kafka: &ClientSettings) -> std::io::Result<JoinHandle<()>> {
        let kafka = kafka.clone();
        std::thread::Builder::new().name("restorer".into()).spawn(move || {
            // The reader stays on the thread that made it.
            match KafkaReader::new(&kafka, self.instruments.watchdog.slot("restorer")) {
                Ok(reader) => Restorer::new(self.parts(reader)).run(),
                Err(fault) => end_at_once(format!("restores cannot be started: {fault}")),
            }
        })
    }

    fn parts(self, reader: KafkaReader) -> RestorerParts<KafkaReader> {
        RestorerParts {
            reader,
            rules: self.rules,
            identity: self.identity,
            start_at: self.start_at,
            standby: self.standby,
            leases: self.leases,
            store: self.store,
            writer: self.instruments.writer,
            cache: self.cache,
            status: self.instruments.status,
            metrics: self.instruments.metrics,
            jobs: self.jobs,
            clock: now_ms,
        }
    }
}
