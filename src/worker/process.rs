//! One process: checks before anything is touched, then its threads, until it is told to end or must.

use super::Stop;
use super::leases::Leases;
use super::main_loop::{Loop, LoopParts};
use super::restore::StartAt;
use super::restorer::{RestoreJob, Restorer, RestorerParts};
use super::rules::Rules;
use super::status::Status;
use super::topics::{Topics, compare_facts, look_again, look_at_topics};
use crate::config::Config;
use crate::kafka::{ClientSettings, Ends, Fault, GroupLog, Identity, KafkaReader, TopicsClient, Watchdog};
use crate::observe::{Metrics, serve};
use crate::projection::{BlockCache, LogIdentity, StateDir, StateFacts, Store, Tree, Writer};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the first contact with the cluster may take.
pub const FIRST_CONTACT: Duration = Duration::from_secs(60);
/// How often topics are looked at while the worker runs: more often than a silent broker makes the worker unready.
const WATCH_EVERY: Duration = Duration::from_secs(4);
/// How often it is seen whether partitions have moved away for long.
const DEPARTED_EVERY: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(100);
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
    /// As it was told: everything is committed and on disk.
    Ended,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Runs the worker until it is told to end. An error is the line for the operator.
pub fn run(config: &Config, options: &ProcessOptions) -> Result<Outcome, Stop> {
    let mut state = StateDir::lock(&config.state_dir).map_err(|e| Stop(e.to_string()))?;
    if let Some(why) = state.why_unusable() {
        tracing::error!(why, "the worker goes on from memory; its next start restores everything");
    }
    let client = TopicsClient::new(&config.kafka).map_err(stop)?;
    let Some(topics) = look_at_topics(config, options, &client)? else {
        tracing::info!("ended before Kafka was found");
        return Ok(Outcome::Ended);
    };
    compare_facts(&state, &topics.facts, options)?;
    let (store, discarded) = state.open_store(&topics.facts);
    let mut process = Process::start(config, options, &topics, store, &state)?;
    options.status.heard(now_ms());
    if let Some(why) = discarded {
        tracing::warn!(why, "the local state is discarded and restored from Kafka");
        process.metrics.state_discarded("at_open");
    }
    if !options.mock {
        process.watch_topics(client, topics.facts, options.status.clone())?;
    }
    process.watch(config, options)?;
    process.end(config)?;
    state.mark_clean().unwrap_or_else(|error| tracing::warn!(%error, "no clean mark; the next start checks more"));
    tracing::info!("ended");
    Ok(Outcome::Ended)
}

/// A failure as the line for the operator.
pub fn stop(fault: Fault) -> Stop {
    Stop(fault.to_string())
}

/// The threads of a process.
struct Process {
    metrics: Arc<Metrics>,
    loops: Vec<JoinHandle<Result<(), Stop>>>,
    failures: Receiver<Stop>,
    failed: Sender<Stop>,
    stop_loops: Arc<AtomicBool>,
    restorer: JoinHandle<()>,
    jobs: Sender<RestoreJob>,
    writer: Writer,
    writer_thread: JoinHandle<()>,
    store: Arc<dyn Store>,
    cache: Arc<BlockCache>,
    leases: Leases,
    unheld_since: BTreeMap<i32, Instant>,
}

/// What every loop is made from.
#[derive(Clone)]
struct LoopSeed {
    kafka: ClientSettings,
    identity: Identity,
    rules: Arc<Rules>,
    jobs: Sender<RestoreJob>,
    writer: Writer,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    watchdog: Watchdog,
    ends: Ends,
    stop: Arc<AtomicBool>,
    failures: Sender<Stop>,
    end_timeout: Duration,
}

impl Process {
    fn start(
        config: &Config,
        options: &ProcessOptions,
        topics: &Topics,
        store: Arc<dyn Store>,
        state: &StateDir,
    ) -> Result<Self, Stop> {
        let kafka =
            ClientSettings { batch_bytes: config.kafka.batch_bytes.min(topics.batch_bytes), ..config.kafka.clone() };
        let metrics = Arc::new(Metrics::new().map_err(|e| Stop(format!("metrics: {e}")))?);
        metrics.window(config.rules.window_ms);
        let watchdog = Watchdog::default();
        watchdog.start(end_at_once).map_err(no_thread)?;
        let (writer, writer_thread) = Writer::start().map_err(no_thread)?;
        let (jobs, job_queue) = unbounded();
        let rules = Arc::new(rules_of_a_loop(config));
        let (cache, leases) = (Arc::new(BlockCache::default()), Leases::default());
        let restorer = Self::start_restorer(
            &kafka,
            watchdog.clone(),
            RestorerSeed {
                rules: rules.clone(),
                identity: topics.identity.clone(),
                start_at: options.start_at,
                standby: config.standby,
                leases: leases.clone(),
                store: store.clone(),
                writer: writer.clone(),
                cache: cache.clone(),
                status: options.status.clone(),
                metrics: metrics.clone(),
                jobs: job_queue,
            },
        )
        .map_err(no_thread)?;
        start_http(config, &metrics, &options.status, &writer)?;
        let (failed, failures) = unbounded();
        let seed = LoopSeed {
            ends: Ends::start(&kafka, watchdog.slot("log-ends")).map_err(super::process::stop)?,
            identity: Identity { group_instance_id: None, transactional_id: String::new() },
            rules,
            jobs: jobs.clone(),
            writer: writer.clone(),
            status: options.status.clone(),
            metrics: metrics.clone(),
            watchdog,
            stop: Arc::default(),
            failures: failed.clone(),
            end_timeout: config.rules.drain_timeout - config.rules.drain_timeout / CLOSE_SHARE,
            kafka,
        };
        let stop_loops = seed.stop.clone();
        let loops = start_loops(config, &seed, state).map_err(no_thread)?;
        drop(seed);
        Ok(Self {
            metrics,
            loops,
            failures,
            failed,
            stop_loops,
            restorer,
            jobs,
            writer,
            writer_thread,
            store,
            cache,
            leases,
            unheld_since: BTreeMap::new(),
        })
    }

    fn start_restorer(
        kafka: &ClientSettings,
        watchdog: Watchdog,
        seed: RestorerSeed,
    ) -> std::io::Result<JoinHandle<()>> {
        let kafka = kafka.clone();
        std::thread::Builder::new().name("restorer".into()).spawn(move || {
            // The reader stays on the thread that made it.
            match KafkaReader::new(&kafka, watchdog.slot("restorer")) {
                Ok(reader) => Restorer::new(seed.parts(reader)).run(),
                Err(fault) => end_at_once(format!("restores cannot be started: {fault}")),
            }
        })
    }

    /// Starts the thread that looks at the topics again and again: it also proves that the broker is there.
    fn watch_topics(&self, client: TopicsClient, facts: StateFacts, status: Arc<Status>) -> Result<(), Stop> {
        let (failures, stop) = (self.failed.clone(), self.stop_loops.clone());
        let watch = move || {
            let mut missing_before = false;
            while !stop.load(Ordering::Acquire) {
                match look_again(&client, &facts, &mut missing_before) {
                    Ok(true) => status.heard(now_ms()),
                    Ok(false) => {}
                    // The main thread listens as long as the process lives.
                    Err(line) => drop(failures.send(line)),
                }
                std::thread::park_timeout(WATCH_EVERY);
            }
        };
        let started = std::thread::Builder::new().name("topics".into()).spawn(watch);
        started.map(drop).map_err(no_thread)
    }

    /// Waits until the end is asked for, or must be; meanwhile drops what has moved away.
    fn watch(&mut self, config: &Config, options: &ProcessOptions) -> Result<(), Stop> {
        let mut next_look = Instant::now() + DEPARTED_EVERY;
        while !options.shutdown.load(Ordering::Acquire) {
            if let Ok(stop) = self.failures.recv_timeout(TICK) {
                return Err(stop);
            }
            if self.loops.iter().any(JoinHandle::is_finished) {
                return Err(self
                    .failures
                    .try_recv()
                    .unwrap_or_else(|_| Stop("a loop ended by a panic; see the log".into())));
            }
            if Instant::now() < next_look {
                continue;
            }
            next_look = Instant::now() + DEPARTED_EVERY;
            self.drop_departed(config.keep_lost_for);
        }
        Ok(())
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
        let deadline = Instant::now() + config.rules.drain_timeout;
        self.stop_loops.store(true, Ordering::Release);
        drop(self.jobs);
        for handle in self.loops {
            wait(&handle, deadline)?;
            handle.join().map_err(|_| Stop("a loop ended by a panic; see the log".into()))??;
        }
        wait(&self.restorer, deadline)?;
        drop(self.writer);
        wait(&self.writer_thread, deadline)?;
        self.store
            .flush()
            .unwrap_or_else(|error| tracing::warn!(%error, "the local state is not whole; the next start restores"));
        Ok(())
    }
}

fn wait<T>(handle: &JoinHandle<T>, deadline: Instant) -> Result<(), Stop> {
    while !handle.is_finished() {
        if Instant::now() > deadline {
            return Err(Stop(
                "the end took longer than worker.drain_timeout; everything committed is safe, the next start restores more".into(),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn no_thread(error: std::io::Error) -> Stop {
    Stop(format!("a thread cannot be started: {error}"))
}

/// The rate is the process's: its loops share it evenly.
fn rules_of_a_loop(config: &Config) -> Rules {
    let backfill_max_rate = config.rules.backfill_max_rate.div_ceil(config.threads as u64);
    Rules { backfill_max_rate, ..config.rules.clone() }
}

/// Serves HTTP where it is asked for.
fn start_http(config: &Config, metrics: &Arc<Metrics>, status: &Arc<Status>, writer: &Writer) -> Result<(), Stop> {
    let Some(listen) = config.listen else { return Ok(()) };
    let address = serve(listen, metrics.clone(), status.clone(), writer.stats.clone())
        .map_err(|e| Stop(format!("http.listen = {listen}: {e}; choose another address, or \"\" for none")))?;
    tracing::info!(%address, "HTTP listens");
    Ok(())
}

/// Prints the line and ends: no thread that hangs may hold it up.
fn end_at_once(line: String) {
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
    writer: Writer,
    cache: Arc<BlockCache>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    jobs: Receiver<RestoreJob>,
}

impl RestorerSeed {
    fn parts(self, reader: KafkaReader) -> RestorerParts<KafkaReader> {
        RestorerParts {
            reader,
            rules: self.rules,
            identity: self.identity,
            start_at: self.start_at,
            standby: self.standby,
            leases: self.leases,
            store: self.store,
            writer: self.writer,
            cache: self.cache,
            status: self.status,
            metrics: self.metrics,
            jobs: self.jobs,
            clock: now_ms,
        }
    }
}

fn start_loops(
    config: &Config,
    seed: &LoopSeed,
    state: &StateDir,
) -> std::io::Result<Vec<JoinHandle<Result<(), Stop>>>> {
    let instance = config.instance_id.clone().unwrap_or_else(|| state.instance().to_string());
    (0..config.threads)
        .map(|number| {
            let name = format!("{}-{instance}-{number}", config.kafka.group_id);
            let group_instance_id = config.instance_id.as_ref().map(|_| name.clone());
            let seed = LoopSeed { identity: Identity { group_instance_id, transactional_id: name }, ..seed.clone() };
            std::thread::Builder::new().name(format!("loop-{number}")).spawn(move || run_loop(number, seed))
        })
        .collect()
}

fn run_loop(number: usize, seed: LoopSeed) -> Result<(), Stop> {
    let failures = seed.failures.clone();
    let ended = drive(number, seed);
    if let Err(stop) = &ended {
        // The main thread listens as long as the process lives.
        let _ = failures.send(stop.clone());
    }
    ended
}

fn drive(number: usize, seed: LoopSeed) -> Result<(), Stop> {
    let slot = seed.watchdog.slot(&format!("loop-{number}"));
    let log = join(&seed, slot)?;
    let parts = LoopParts {
        log,
        rules: seed.rules,
        restores: seed.jobs,
        writer: seed.writer,
        status: seed.status,
        metrics: seed.metrics,
        clock: now_ms,
    };
    let mut the_loop = Loop::new(parts);
    while !seed.stop.load(Ordering::Acquire) {
        the_loop.step()?;
    }
    the_loop.end(seed.end_timeout)
}

/// Joins the group, trying again while the brokers are away, within a limit.
fn join(seed: &LoopSeed, slot: crate::kafka::Slot) -> Result<GroupLog, Stop> {
    let deadline = Instant::now() + FIRST_CONTACT;
    loop {
        match GroupLog::join(&seed.kafka, &seed.identity, seed.ends.clone(), slot.clone()) {
            Err(Fault::Retry(cause)) if Instant::now() < deadline && !seed.stop.load(Ordering::Acquire) => {
                tracing::warn!(cause, "waiting for Kafka");
                std::thread::sleep(Duration::from_secs(1));
            }
            other => return other.map_err(stop),
        }
    }
}
