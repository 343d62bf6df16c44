//! The one file that names metrics. Prefix `card_update_`, base units, closed label sets that exist from the start.

use crate::domain::{DeadReason, ErrorCode};
use crate::kafka::{Input, Record};
use crate::projection::WriterStats;
use crate::worker::{CommandResult, PartitionState, Status, Tally};
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::atomic::Ordering;

const PREFIX: &str = "card_update";
const SOURCES: [&str; 2] = ["live", "backfill"];
const STEPS: [&str; 3] = ["decide", "commit", "apply"];
/// From a tenth of a batch's usual time to beyond any objective.
const LATENCY_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
const RECORD_BUCKETS: [f64; 8] = [1.0, 10.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    commands: Vec<Vec<IntCounter>>,
    rejections: Vec<IntCounter>,
    dead: Vec<IntCounter>,
    latency: Vec<Histogram>,
    batch_records: Histogram,
    batch_duration: HistogramVec,
    events: Events,
    clamped: IntCounter,
    partition_state: IntGaugeVec,
    restore_remaining: IntGaugeVec,
    cards: IntGauge,
    accounts: IntGauge,
    requests: IntGauge,
    memory: IntGaugeVec,
    checkpoint_bytes: IntGauge,
    window_seconds: IntGauge,
}

/// Registration fails only when a name is given twice, which every test of this file would meet.
struct Make(Registry);

impl Make {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace(PREFIX)
    }
    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> prometheus::Result<IntCounterVec> {
        let counters = self.add(IntCounterVec::new(Self::opts(name, help), &[label]))?;
        values.iter().for_each(|v| drop(counters.with_label_values(&[*v])));
        Ok(counters)
    }
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels))
    }
    fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::new(name, help).namespace(PREFIX).buckets(buckets.to_vec())
    }
}

/// What happens seldom, counted by kind.
struct Events {
    transactions: IntCounterVec,
    producer_resets: IntCounterVec,
    rebalances: IntCounterVec,
    restores: IntCounterVec,
    state_discards: IntCounterVec,
}

impl Events {
    fn new(make: &Make) -> prometheus::Result<Self> {
        Ok(Self {
            transactions: make.counters(
                "transactions_total",
                "Transactions by how they ended.",
                "result",
                &["committed", "aborted", "unknown"],
            )?,
            producer_resets: make.counters(
                "producer_resets_total",
                "Producers made anew, by why.",
                "reason",
                &["unknown_outcome", "fenced", "fatal"],
            )?,
            rebalances: make.counters("rebalances_total", "Rebalances.", "kind", &["assigned", "revoked", "lost"])?,
            restores: make.counters(
                "restores_total",
                "Restores by where the state came from.",
                "result",
                &["checkpoint", "full", "failed"],
            )?,
            state_discards: make.counters(
                "state_discards_total",
                "Local state discarded because it was in doubt.",
                "reason",
                &["at_open", "read_failed"],
            )?,
        })
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let make = Make(registry.clone());
        let build = make.gauges("build_info", "The running build; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let commands = make.add(IntCounterVec::new(
            Make::opts("commands_total", "Commands by input and what became of them."),
            &["source", "result"],
        ))?;
        let result =
            |source: &str| CommandResult::ALL.iter().map(|r| commands.with_label_values(&[source, r.name()])).collect();
        let rejections = make.counters("rejections_total", "Completions with an error, by code.", "code", &[])?;
        let dead = make.counters("dead_letters_total", "Dead letters, by reason.", "reason", &[])?;
        let latency =
            Make::histogram("command_latency_seconds", "From the command's timestamp to its commit.", &LATENCY_BUCKETS);
        let latency = make.add(HistogramVec::new(latency, &["source"]))?;
        let duration = Make::histogram("batch_duration_seconds", "Time of a batch's steps.", &LATENCY_BUCKETS);
        let batch_duration = make.add(HistogramVec::new(duration, &["step"]))?;
        STEPS.iter().for_each(|s| drop(batch_duration.with_label_values(&[*s])));
        Ok(Self {
            commands: SOURCES.iter().map(|s| result(s)).collect(),
            rejections: ErrorCode::ALL.iter().map(|c| rejections.with_label_values(&[c.name()])).collect(),
            dead: DeadReason::ALL.iter().map(|r| dead.with_label_values(&[r.name()])).collect(),
            latency: SOURCES.iter().map(|s| latency.with_label_values(&[*s])).collect(),
            batch_records: make.add(Histogram::with_opts(Make::histogram(
                "batch_records",
                "Records of a committed batch.",
                &RECORD_BUCKETS,
            )))?,
            batch_duration,
            events: Events::new(&make)?,
            clamped: make.add(IntCounter::with_opts(Make::opts(
                "clock_clamped_total",
                "Decision times held back by over a second.",
            )))?,
            partition_state: make.gauges(
                "partition_state",
                "1 for the state a partition is in.",
                &["partition", "state"],
            )?,
            restore_remaining: make.gauges(
                "restore_remaining_records",
                "Records a restore has to read.",
                &["partition"],
            )?,
            cards: make.gauge("cards", "Cards held.")?,
            accounts: make.gauge("accounts", "Accounts held.")?,
            requests: make.gauge("remembered_requests", "Requests remembered.")?,
            memory: make.gauges("projection_memory_bytes", "Memory of the projection.", &["kind"])?,
            checkpoint_bytes: make.gauge("checkpoint_bytes_total", "Bytes written to the state directory.")?,
            window_seconds: make.gauge("dedup_window_seconds", "How long requests are remembered.")?,
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
        self.clamped.inc_by(tally.clamped);
        self.batch_records.observe(tally.commands() as f64);
        let local = [self.latency[0].local(), self.latency[1].local()];
        for (input, record) in records {
            if let Some(at) = record.timestamp_ms() {
                local[*input as usize].observe((now_ms - at).max(0) as f64 / 1000.0);
            }
        }
    }
    /// Times a step of a batch until dropped.
    pub fn step_timer(&self, step: &str) -> HistogramTimer {
        self.batch_duration.with_label_values(&[step]).start_timer()
    }
    /// A transaction ended.
    pub fn transaction(&self, result: &str) {
        self.events.transactions.with_label_values(&[result]).inc();
    }
    /// A producer was made anew.
    pub fn producer_reset(&self, reason: &str) {
        self.events.producer_resets.with_label_values(&[reason]).inc();
    }
    /// The group moved partitions.
    pub fn rebalance(&self, kind: &str) {
        self.events.rebalances.with_label_values(&[kind]).inc();
    }
    /// A restore ended.
    pub fn restore(&self, result: &str) {
        self.events.restores.with_label_values(&[result]).inc();
    }
    /// Local state was discarded.
    pub fn state_discarded(&self, reason: &str) {
        self.events.state_discards.with_label_values(&[reason]).inc();
    }
    /// The configured window.
    pub fn window(&self, window_ms: i64) {
        self.window_seconds.set(window_ms / 1000);
    }

    /// The text for Prometheus.
    pub fn text(&self, status: &Status, writer: &WriterStats) -> String {
        self.collect(status);
        self.checkpoint_bytes.set(writer.bytes.load(Ordering::Relaxed) as i64);
        let mut out = Vec::new();
        // Writing to memory fails only for a metric without a name.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn collect(&self, status: &Status) {
        self.partition_state.reset();
        self.restore_remaining.reset();
        let (mut cards, mut accounts, mut requests, mut bytes) = (0, 0, 0, [0, 0]);
        for (partition, status) in status.partitions() {
            let partition = partition.to_string();
            for state in PartitionState::ALL {
                let here = i64::from(status.state == state);
                self.partition_state.with_label_values(&[partition.as_str(), state.name()]).set(here);
            }
            self.restore_remaining.with_label_values(&[&partition]).set(status.restore_remaining as i64);
            let sizes = status.projection;
            cards += sizes.cards as i64;
            accounts += sizes.accounts as i64;
            requests += sizes.requests as i64;
            bytes[0] += sizes.cards_bytes as i64;
            bytes[1] += sizes.requests_bytes as i64;
        }
        self.cards.set(cards);
        self.accounts.set(accounts);
        self.requests.set(requests);
        self.memory.with_label_values(&["cards"]).set(bytes[0]);
        self.memory.with_label_values(&["requests"]).set(bytes[1]);
    }
}

fn add(counters: &[IntCounter], counts: &[u64]) {
    for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| **count > 0) {
        counter.inc_by(*count);
    }
}
