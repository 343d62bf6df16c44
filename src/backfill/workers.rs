//! How far the workers are with the backfill topic, asked of their group's committed offsets.

use super::Failed;
use super::own::Own;
use crate::kafka::{InputOffsets, KafkaReader, Reader as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often they are asked at most.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long they make no progress before that is said.
const SILENCE: Duration = Duration::from_secs(10);
/// How long they may make no progress while they are waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// The workers of the group.
pub struct Workers {
    reader: KafkaReader,
    partitions: Vec<i32>,
    committed: BTreeMap<i32, i64>,
    asked: Option<Instant>,
    processed: u64,
    moved: Instant,
    /// Whether it was said that they stand still.
    told: bool,
}

impl Workers {
    /// Asks through this reader.
    pub fn new(reader: KafkaReader, partitions: i32) -> Self {
        Self {
            reader,
            partitions: (0..partitions).collect(),
            committed: BTreeMap::new(),
            asked: None,
            processed: 0,
            moved: Instant::now(),
            told: false,
        }
    }

    /// How many partitions the backfill topic has.
    pub const fn partitions(&self) -> i32 {
        self.partitions.len() as i32
    }

    /// The reader.
    pub const fn reader(&mut self) -> &mut KafkaReader {
        &mut self.reader
    }

    /// The next offset of each partition of the backfill topic, 0 where none is committed; asked anew.
    pub fn committed(&mut self) -> Result<&BTreeMap<i32, i64>, Failed> {
        let found = self.reader.committed(&self.partitions)?;
        let next = |offsets: InputOffsets| offsets.backfill.unwrap_or(0);
        let found: BTreeMap<i32, i64> = found.into_iter().map(|(p, offsets)| (p, next(offsets))).collect();
        if found != self.committed {
            // Another replay's commands are progress too: these stand behind them.
            (self.moved, self.told) = (Instant::now(), false);
        }
        self.committed = found;
        Ok(&self.committed)
    }

    /// How many of these commands are processed, as of a moment ago.
    pub fn processed(&mut self, own: &Own) -> Result<u64, Failed> {
        if self.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            self.asked = Some(Instant::now());
            match self.committed() {
                Ok(_) => {}
                // Brokers may be away for a moment; patience is limited.
                Err(Failed::Later(cause)) => tracing::debug!(cause, "the workers' offsets cannot be read"),
                Err(other) => return Err(other),
            }
            self.processed = own.before(&self.committed);
        }
        Ok(self.processed)
    }

    /// An error when they have stood still for too long while they were waited for.
    pub fn check_patience(&mut self) -> Result<(), Failed> {
        if self.moved.elapsed() > SILENCE && !std::mem::replace(&mut self.told, true) {
            tracing::warn!("no worker has processed a backfilled command for {} s: does one run?", SILENCE.as_secs());
        }
        if self.moved.elapsed() <= PATIENCE {
            return Ok(());
        }
        Err(Failed::Stop(format!(
            "the workers have processed no backfilled command for {} s: do they run, and do live commands leave them time?",
            PATIENCE.as_secs()
        )))
    }

    /// Up to where live commands are processed, by partition; `None` where nothing is committed.
    pub fn live(&mut self) -> Result<BTreeMap<i32, Option<i64>>, Failed> {
        let found = self.reader.committed(&self.partitions)?;
        Ok(found.into_iter().map(|(p, offsets)| (p, offsets.live)).collect())
    }

    /// They were not waited for until now.
    pub fn reset_patience(&mut self) {
        self.moved = Instant::now();
    }
}
