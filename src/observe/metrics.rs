//! The one file that names metrics. Prefix `card_update_`, base units, closed label sets that exist from the start.
//!
//! No label may carry what identifies a card, a request or an account.

use crate::domain::{DeadReason, ErrorCode};
use crate::kafka::{ClientKind, Gauges, Input, Record};
use crate::worker::{CommandResult, Tally};
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, Result,
};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const PREFIX: &str = "card_update";
/// The label's values, by [`Input`].
pub const SOURCES: [&str; 2] = ["live", "backfill"];
const STEPS: [&str; 4] = ["decide", "produce", "commit", "apply"];
/// From a tenth of a batch's usual time to beyond any objective.
const LATENCY_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
const RECORD_BUCKETS: [f64; 8] = [1.0, 10.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];

/// All metrics of the process.
pub struct Metrics {
    pub(super) registry: Registry,
    commands: Vec<Vec<IntCounter>>,
    rejections: Vec<IntCounter>,
    dead: Vec<IntCounter>,
    /// When each code, then each reason, was last met, milliseconds since the epoch.
    last_met_ms: Vec<AtomicI64>,
    latency: Vec<Histogram>,
    batch_records: Histogram,
    batch_duration: HistogramVec,
    transactions: IntCounterVec,
    producer_resets: IntCounterVec,
    rebalances: IntCounterVec,
    restores: IntCounterVec,
    state_discards: IntCounterVec,
    clamped: IntCounter,
    checkpoint_duration: Histogram,
    pub(super) gauges: Gathered,
    /// Gauges are filled when they are asked for: one at a time.
    pub(super) gathering: Mutex<()>,
}

/// What is read from elsewhere when somebody asks.
pub(super) struct Gathered {
    pub partition_state: IntGaugeVec,
    pub lag_records: IntGaugeVec,
    pub lag_seconds: GaugeVec,
    pub last_progress: GaugeVec,
    pub restore_remaining: IntGaugeVec,
    pub standby_lag: IntGaugeVec,
    pub backfill_remaining: IntGaugeVec,
    pub checkpoint_age: GaugeVec,
    pub cards: IntGauge,
    pub accounts: IntGauge,
    pub requests: IntGauge,
    pub memory: IntGaugeVec,
    pub dedup_oldest: Gauge,
    pub window: IntGauge,
    pub retention: Gauge,
    pub checkpoint_bytes: IntCounter,
    pub dir_bytes: IntGauge,
    pub dir_free_bytes: IntGauge,
    pub client_rtt: GaugeVec,
    pub client_records: IntGaugeVec,
    pub client_bytes: IntGaugeVec,
    pub client_brokers: IntGaugeVec,
    pub client_errors: IntCounterVec,
}

/// Registration fails only when a name is given twice, which every test of this file would meet.
struct Make(Registry);

impl Make {
    fn add<C: Collector + Clone + 'static>(&self, made: Result<C>) -> Result<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace(PREFIX)
    }
    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> Result<IntCounterVec> {
        let counters = self.add(IntCounterVec::new(Self::opts(name, help), &[label]))?;
        values.iter().for_each(|v| drop(counters.with_label_values(&[*v])));
        Ok(counters)
    }
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::with_opts(Self::opts(name, help)))
    }
    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }
    fn real(&self, name: &str, help: &str) -> Result<Gauge> {
        self.add(Gauge::with_opts(Self::opts(name, help)))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels))
    }
    fn reals(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        self.add(GaugeVec::new(Self::opts(name, help), labels))
    }
    fn histogram_opts(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::new(name, help).namespace(PREFIX).buckets(buckets.to_vec())
    }
    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.add(Histogram::with_opts(Self::histogram_opts(name, help, buckets)))
    }
    fn histograms(&self, name: &str, help: &str, label: &str, values: &[&str]) -> Result<HistogramVec> {
        let made = self.add(HistogramVec::new(Self::histogram_opts(name, help, &LATENCY_BUCKETS), &[label]))?;
        values.iter().for_each(|v| drop(made.with_label_values(&[*v])));
        Ok(made)
    }
}

impl Gathered {
    fn new(m: &Make) -> Result<Self> {
        let partition = &["partition"];
        let input = &["source", "partition"];
        let client = &["client"];
        let gathered = Self {
            partition_state: m.gauges(
                "partition_state",
                "1 for the state a partition is in.",
                &["partition", "state"],
            )?,
            lag_records: m.gauges("consumer_lag_records", "Records that wait; exactly 0 when none does.", input)?,
            lag_seconds: m.reals("consumer_lag_seconds", "How long the oldest record has been waiting.", input)?,
            last_progress: m.reals(
                "partition_last_progress_timestamp_seconds",
                "When the partition last committed, or its restore went forward.",
                partition,
            )?,
            restore_remaining: m.gauges(
                "restore_remaining_records",
                "Records a restore has still to read.",
                partition,
            )?,
            standby_lag: m.gauges("standby_lag_records", "Records that a standby is behind its logs.", partition)?,
            backfill_remaining: m.gauges("backfill_remaining_records", "Backfilled records that wait.", partition)?,
            checkpoint_age: m.reals(
                "checkpoint_age_seconds",
                "Since the last complete checkpoint, or the restore if there was none.",
                partition,
            )?,
            cards: m.gauge("cards", "Cards held.")?,
            accounts: m.gauge("accounts", "Accounts held.")?,
            requests: m.gauge("remembered_requests", "Requests remembered.")?,
            memory: m.gauges("projection_memory_bytes", "Memory of the projection.", &["kind"])?,
            dedup_oldest: m.real(
                "dedup_oldest_timestamp_seconds",
                "Decision time of the oldest remembered request; 0 for none.",
            )?,
            window: m.gauge("dedup_window_seconds", "How long requests are remembered.")?,
            retention: m
                .real("completions_retention_seconds", "retention.ms of the completions topic; +Inf for ever.")?,
            checkpoint_bytes: m.counter("checkpoint_bytes_total", "Bytes written to the state directory.")?,
            dir_bytes: m.gauge("state_dir_bytes", "Size of the state directory.")?,
            dir_free_bytes: m.gauge("state_dir_free_bytes", "Free space where the state directory lies.")?,
            client_rtt: m.reals(
                "kafka_client_rtt_seconds",
                "Greatest 99th percentile of a broker's round trips; a fetch waits at the broker for records.",
                client,
            )?,
            client_records: m.gauges("kafka_client_queue_records", "Records in the client's queues.", client)?,
            client_bytes: m.gauges("kafka_client_queue_bytes", "Bytes in the client's queues.", client)?,
            client_brokers: m.gauges(
                "kafka_client_brokers_up",
                "Brokers connected, the fewest of a client.",
                client,
            )?,
            client_errors: m.add(IntCounterVec::new(
                Make::opts("kafka_client_errors_total", "Failed requests of the client."),
                &["client", "kind"],
            ))?,
        };
        for client in ClientKind::ALL.map(ClientKind::name) {
            gathered.client_rtt.with_label_values(&[client]).set(0.0);
            for gauge in [&gathered.client_records, &gathered.client_bytes, &gathered.client_brokers] {
                gauge.with_label_values(&[client]).set(0);
            }
            Gauges::ERRORS.iter().for_each(|kind| drop(gathered.client_errors.with_label_values(&[client, kind])));
        }
        gathered.retention.set(f64::INFINITY);
        Ok(gathered)
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let m = Make(registry.clone());
        let build = m.gauges("build_info", "The running build; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let commands = m.add(IntCounterVec::new(
            Make::opts("commands_total", "Commands by input and what became of them."),
            &["source", "result"],
        ))?;
        let result =
            |source: &str| CommandResult::ALL.iter().map(|r| commands.with_label_values(&[source, r.name()])).collect();
        let rejections = m.counters("rejections_total", "Completions with an error, by code.", "code", &[])?;
        let dead = m.counters("dead_letters_total", "Dead letters, by reason.", "reason", &[])?;
        let latency =
            m.histograms("command_latency_seconds", "From the command's timestamp to its commit.", "source", &SOURCES)?;
        Ok(Self {
            commands: SOURCES.iter().map(|s| result(s)).collect(),
            rejections: ErrorCode::ALL.iter().map(|c| rejections.with_label_values(&[c.name()])).collect(),
            dead: DeadReason::ALL.iter().map(|r| dead.with_label_values(&[r.name()])).collect(),
            last_met_ms: (0..ErrorCode::ALL.len() + DeadReason::ALL.len()).map(|_| AtomicI64::new(0)).collect(),
            latency: SOURCES.iter().map(|s| latency.with_label_values(&[*s])).collect(),
            batch_records: m.histogram("batch_records", "Records of a committed batch.", &RECORD_BUCKETS)?,
            batch_duration: m.histograms("batch_duration_seconds", "Time of a batch's steps.", "step", &STEPS)?,
            transactions: m.counters(
                "transactions_total",
                "Transactions by how they ended.",
                "result",
                &["committed", "aborted", "unknown"],
            )?,
            producer_resets: m.counters(
                "producer_resets_total",
                "Producers made anew, by why.",
                "reason",
                &["unknown_outcome", "fenced", "fatal"],
            )?,
            rebalances: m.counters("rebalances_total", "Rebalances.", "kind", &["assigned", "revoked", "lost"])?,
            restores: m.counters(
                "restores_total",
                "Restores by where the state came from.",
                "result",
                &["checkpoint", "full", "failed"],
            )?,
            state_discards: m.counters(
                "state_discards_total",
                "Local state discarded because it was in doubt.",
                "reason",
                &["at_open", "damaged", "ahead_of_log", "trimmed", "read_failed"],
            )?,
            clamped: m.counter("clock_clamped_total", "Decision times held back by over a second.")?,
            checkpoint_duration: m.histogram(
                "checkpoint_duration_seconds",
                "Time of a partition's complete checkpoint round.",
                &LATENCY_BUCKETS,
            )?,
            gauges: Gathered::new(&m)?,
            gathering: Mutex::new(()),
            registry,
        })
    }

    /// A batch was committed.
    pub fn committed<'r>(&self, tally: &Tally, records: impl Iterator<Item = &'r (Input, Record)>, now_ms: i64) {
        for (counters, counts) in self.commands.iter().zip(&tally.results) {
            add(counters, counts);
        }
        add(&self.rejections, &tally.rejections);
        add(&self.dead, &tally.dead);
        let met = tally.rejections.iter().chain(&tally.dead);
        self.last_met_ms
            .iter()
            .zip(met)
            .filter(|(_, count)| **count > 0)
            .for_each(|(at, _)| at.store(now_ms, Ordering::Relaxed));
        self.clamped.inc_by(tally.clamped);
        // A commit of offsets alone is no batch.
        if tally.commands() > 0 {
            self.batch_records.observe(tally.commands() as f64);
        }
        let local = [self.latency[0].local(), self.latency[1].local()];
        for (input, record) in records {
            if let Some(at) = record.timestamp_ms() {
                local[*input as usize].observe((now_ms - at).max(0) as f64 / 1000.0);
            }
        }
    }
    /// Error codes and dead letters that were met: kind, name, count, and when last, milliseconds since the epoch.
    pub fn met(&self) -> Vec<(&'static str, &'static str, u64, i64)> {
        let codes = ErrorCode::ALL.iter().map(|c| ("rejected", c.name())).zip(&self.rejections);
        let reasons = DeadReason::ALL.iter().map(|r| ("dead letter", r.name())).zip(&self.dead);
        let counted = codes.chain(reasons).zip(&self.last_met_ms);
        counted
            .map(|(((kind, name), counter), at)| (kind, name, counter.get(), at.load(Ordering::Relaxed)))
            .filter(|(_, _, count, _)| *count > 0)
            .collect()
    }
    /// Times a step of a batch until dropped.
    pub fn step_timer(&self, step: &str) -> HistogramTimer {
        self.batch_duration.with_label_values(&[step]).start_timer()
    }
    /// A step of a committed batch took this long.
    pub fn step(&self, step: &str, took: Duration) {
        self.batch_duration.with_label_values(&[step]).observe(took.as_secs_f64());
    }
    /// A transaction ended.
    pub fn transaction(&self, result: &str) {
        self.transactions.with_label_values(&[result]).inc();
    }
    /// A producer was made anew.
    pub fn producer_reset(&self, reason: &str) {
        self.producer_resets.with_label_values(&[reason]).inc();
    }
    /// The group moved partitions.
    pub fn rebalance(&self, kind: &str) {
        self.rebalances.with_label_values(&[kind]).inc();
    }
    /// A restore ended.
    pub fn restore(&self, result: &str) {
        self.restores.with_label_values(&[result]).inc();
    }
    /// Local state was discarded.
    pub fn state_discarded(&self, reason: &str) {
        self.state_discards.with_label_values(&[reason]).inc();
    }
    /// A partition's checkpoint round is complete.
    pub fn checkpoint(&self, took: Duration) {
        self.checkpoint_duration.observe(took.as_secs_f64());
    }
    /// The configured window.
    pub fn window(&self, window_ms: i64) {
        self.gauges.window.set(window_ms / 1000);
    }
    /// The completions topic's retention, milliseconds; negative for ever.
    pub fn retention(&self, retention_ms: i64) {
        self.gauges.retention.set(if retention_ms < 0 { f64::INFINITY } else { retention_ms as f64 / 1000.0 });
    }
    /// Size and free space of the state directory.
    pub fn state_dir(&self, bytes: u64, free_bytes: u64) {
        self.gauges.dir_bytes.set(bytes as i64);
        self.gauges.dir_free_bytes.set(free_bytes as i64);
    }
}

fn add(counters: &[IntCounter], counts: &[u64]) {
    for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| **count > 0) {
        counter.inc_by(*count);
    }
}
