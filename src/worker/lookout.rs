//! The thread that looks around while the loops work: topics, lag, the completions' retention, the disk. That a broker
//! answers it is also what keeps an idle worker ready.

use super::Stop;
use super::instruments::Instruments;
use super::lag::LagWatch;
use super::process::{ProcessOptions, now_ms};
use super::topics::{look_again, retention_ms};
use crate::config::Config;
use crate::kafka::{Fault, TopicsClient};
use crate::projection::{StateDir, StateFacts};
use crossbeam_channel::Sender;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(2);
/// Every how many looks the topics are looked at: more often than a silent broker makes the worker unready.
const TOPICS: u64 = 2;
const DISK: u64 = 15;
const RETENTION: u64 = 30;

/// Looks around.
pub struct Lookout {
    client: TopicsClient,
    facts: StateFacts,
    completions: String,
    state_dir: PathBuf,
    lag: LagWatch,
    /// The in-process Kafka has no topic ids and settings.
    mock: bool,
    missing_before: bool,
}

impl Lookout {
    /// For a process that found the topics as `facts` say.
    pub fn new(config: &Config, options: &ProcessOptions, client: TopicsClient, facts: StateFacts) -> Self {
        Self {
            client,
            facts,
            completions: config.kafka.topics.completions.clone(),
            state_dir: config.state_dir.clone(),
            lag: LagWatch::new(config.kafka.topics.clone()),
            mock: options.mock,
            missing_before: false,
        }
    }

    /// Starts the thread; it ends when `stop` is set.
    pub fn start(
        mut self,
        instruments: &Instruments,
        failures: &Sender<Stop>,
        stop: &Arc<AtomicBool>,
    ) -> std::io::Result<JoinHandle<()>> {
        // The writer's thread ends with the last handle of it, which this thread must not hold.
        let (metrics, status) = (instruments.metrics.clone(), instruments.status.clone());
        let (failures, stop) = (failures.clone(), stop.clone());
        let look = move || {
            for look in 0u64.. {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                if look.is_multiple_of(DISK)
                    && let Ok((bytes, free_bytes)) = StateDir::usage(&self.state_dir)
                {
                    metrics.state_dir(bytes, free_bytes);
                }
                let heard = self.topics(look).unwrap_or_else(|line| {
                    // The main thread listens as long as the process lives.
                    drop(failures.send(line));
                    false
                });
                if heard {
                    status.heard(now_ms());
                }
                if let Err(fault) = self.lag.look(&self.client, &status, now_ms()) {
                    tracing::debug!(%fault, "the lag is not known");
                }
                if look % RETENTION == RETENTION - 1 && !self.mock {
                    self.retention().map_or_else(
                        |fault| tracing::debug!(%fault, "the completions' retention is not known"),
                        |ms| metrics.retention(ms),
                    );
                }
                std::thread::park_timeout(EVERY);
            }
        };
        std::thread::Builder::new().name("lookout".into()).spawn(look)
    }

    /// Looks at the topics when it is time; whether a broker answered.
    fn topics(&mut self, look: u64) -> Result<bool, Stop> {
        match (self.mock, look.is_multiple_of(TOPICS)) {
            (true, _) => Ok(true),
            (false, false) => Ok(false),
            (false, true) => look_again(&self.client, &self.facts, &mut self.missing_before),
        }
    }

    fn retention(&self) -> Result<i64, Fault> {
        retention_ms(&self.client, &self.completions)
    }
}
