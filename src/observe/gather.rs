//! The text for Prometheus: gauges are filled from what the threads report when somebody asks for them.

use super::Metrics;
use super::metrics::{Gathered, SOURCES};
use crate::kafka::{ClientKind, Figures, Gauges, Input};
use crate::projection::WriterStats;
use crate::worker::{PartitionState, PartitionStatus, Partitions, Status};
use prometheus::{Encoder as _, TextEncoder};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// What the gauges are filled from.
pub struct Sources<'s> {
    /// The partitions.
    pub status: &'s Status,
    /// The disk.
    pub writer: &'s WriterStats,
    /// The clients.
    pub figures: &'s Figures,
    /// The time, milliseconds since the epoch.
    pub now_ms: i64,
}

impl Metrics {
    /// The text for Prometheus.
    pub fn text(&self, sources: &Sources<'_>) -> String {
        let _one_at_a_time = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        let gauges = &self.gauges;
        let partitions = sources.status.partitions();
        gauges.forget_partitions();
        partitions.iter().for_each(|(partition, status)| gauges.partition(*partition, status, sources.now_ms));
        gauges.sizes(&partitions);
        gauges.clients(sources.figures);
        let written = sources.writer.bytes.load(Ordering::Relaxed);
        gauges.checkpoint_bytes.inc_by(written.saturating_sub(gauges.checkpoint_bytes.get()));
        let mut out = Vec::new();
        // Writing to memory fails only for a metric without a name.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl Gathered {
    fn forget_partitions(&self) {
        for gauge in [
            &self.partition_state,
            &self.lag_records,
            &self.restore_remaining,
            &self.standby_lag,
            &self.backfill_remaining,
        ] {
            gauge.reset();
        }
        [&self.lag_seconds, &self.last_progress, &self.checkpoint_age].iter().for_each(|gauge| gauge.reset());
    }

    fn partition(&self, partition: i32, status: &PartitionStatus, now_ms: i64) {
        let partition = partition.to_string();
        for state in PartitionState::ALL {
            let here = i64::from(status.state == state);
            self.partition_state.with_label_values(&[partition.as_str(), state.name()]).set(here);
        }
        if status.state == PartitionState::Standby {
            self.standby_lag.with_label_values(&[&partition]).set(status.standby_lag as i64);
            return;
        }
        for (input, source) in [Input::Live, Input::Backfill].into_iter().zip(SOURCES) {
            let of_input = &status.inputs[input as usize];
            if of_input.read_to.is_none() {
                continue;
            }
            let labels = [source, &partition];
            self.lag_records.with_label_values(&labels).set(of_input.lag_records() as i64);
            self.lag_seconds.with_label_values(&labels).set(of_input.lag_seconds(input, now_ms));
        }
        let backfill = status.inputs[Input::Backfill as usize].lag_records();
        self.backfill_remaining.with_label_values(&[&partition]).set(backfill as i64);
        self.last_progress.with_label_values(&[&partition]).set(status.progress_ms as f64 / 1000.0);
        self.restore_remaining.with_label_values(&[&partition]).set(status.restore_remaining as i64);
        if let Some(at_ms) = status.checkpoint_ms {
            self.checkpoint_age.with_label_values(&[&partition]).set((now_ms - at_ms).max(0) as f64 / 1000.0);
        }
    }

    fn sizes(&self, partitions: &Partitions) {
        let sum = |of: fn(&PartitionStatus) -> i64| partitions.values().map(of).sum::<i64>();
        self.cards.set(sum(|s| s.projection.cards as i64));
        self.accounts.set(sum(|s| s.projection.accounts as i64));
        self.requests.set(sum(|s| s.projection.requests as i64));
        self.memory.with_label_values(&["cards"]).set(sum(|s| s.projection.cards_bytes as i64));
        self.memory.with_label_values(&["requests"]).set(sum(|s| s.projection.requests_bytes as i64));
        let oldest = partitions.values().filter_map(|s| s.projection.oldest_request_ms).min();
        self.dedup_oldest.set(oldest.unwrap_or(0) as f64 / 1000.0);
    }

    fn clients(&self, figures: &Figures) {
        for kind in ClientKind::ALL {
            let (of, client) = (figures.of(kind), kind.name());
            self.client_rtt.with_label_values(&[client]).set(of.rtt_seconds);
            self.client_records.with_label_values(&[client]).set(of.queue_records as i64);
            self.client_bytes.with_label_values(&[client]).set(of.queue_bytes as i64);
            self.client_brokers.with_label_values(&[client]).set(of.brokers_up as i64);
            for (name, total) in Gauges::ERRORS.into_iter().zip(of.errors) {
                let counter = self.client_errors.with_label_values(&[client, name]);
                counter.inc_by(total.saturating_sub(counter.get()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_is_shown_while_it_is_here_and_nothing_of_it_after() {
        let (metrics, status) = (Metrics::new().unwrap(), Status::default());
        status.update(3, |s| {
            s.state = PartitionState::Running;
            (s.inputs[0].end, s.inputs[0].read_to, s.inputs[0].waiting) = (Some(10), Some(7), 2);
        });
        status.update(4, |s| (s.state, s.standby_lag) = (PartitionState::Standby, 9));
        let (writer, figures) = (WriterStats::default(), Figures::default());
        let text = || metrics.text(&Sources { status: &status, writer: &writer, figures: &figures, now_ms: 1000 });
        let shown = text();
        for line in [
            "card_update_partition_state{partition=\"3\",state=\"running\"} 1",
            "card_update_partition_state{partition=\"3\",state=\"restoring\"} 0",
            "card_update_consumer_lag_records{partition=\"3\",source=\"live\"} 5",
            "card_update_standby_lag_records{partition=\"4\"} 9",
            "card_update_completions_retention_seconds inf",
        ] {
            assert!(shown.to_lowercase().contains(line), "{line}\n{shown}");
        }
        status.remove(3);
        assert!(!text().contains("partition=\"3\""));
        writer.bytes.store(5, Ordering::Relaxed);
        assert!(text().contains("card_update_checkpoint_bytes_total 5\n"));
    }
}
