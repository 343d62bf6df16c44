//! What a restore reads of the simulated Kafka.

use super::cluster::{Entry, Topic};
use super::kafka::{Call, SimKafka};
use super::log::record;
use crate::kafka::{Changelog, Fault, Input, InputOffsets, ReadStep, Reader};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a restore reads with.
pub struct SimReader {
    pub(super) kafka: SimKafka,
    /// Whose it is; `None` for an onlooker, whom nothing disturbs.
    pub(super) member: Option<usize>,
    /// Most records of a log at once.
    pub chunk: usize,
    pub(super) positions: BTreeMap<(Topic, i32), (Changelog, usize)>,
}

impl Reader for SimReader {
    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        self.kafka.pass(self.member, Call::Offsets)?;
        self.kafka.stable_offsets(partitions)
    }
    fn input_bounds(&mut self, input: Input, partition: i32) -> Result<(i64, i64), Fault> {
        self.kafka.pass(self.member, Call::Bounds)?;
        Ok(self.kafka.cluster().bounds((input.into(), partition)))
    }
    fn bounds(&mut self, log: Changelog, partition: i32) -> Result<(i64, i64), Fault> {
        self.kafka.pass(self.member, Call::Bounds)?;
        Ok(self.kafka.cluster().bounds((log.into(), partition)))
    }
    fn offset_at(&mut self, log: Changelog, partition: i32, at_ms: i64) -> Result<Option<i64>, Fault> {
        self.kafka.pass(self.member, Call::Bounds)?;
        let cluster = self.kafka.cluster();
        let Some(found) = cluster.logs.get(&(log.into(), partition)) else { return Ok(None) };
        let young = |e: &Entry| matches!(e, Entry::Record(r, _) if r.timestamp_ms >= Some(at_ms));
        let offset = found.entries.iter().enumerate().skip(found.start).find(|(_, e)| young(e));
        Ok(offset.map(|(offset, _)| offset as i64))
    }
    fn start(&mut self, log: Changelog, partition: i32, offset: i64) -> Result<(), Fault> {
        self.positions.insert((log.into(), partition), (log, offset as usize));
        Ok(())
    }
    fn stop(&mut self, log: Changelog, partition: i32) {
        self.positions.remove(&(log.into(), partition));
    }
    fn read(&mut self, _wait: Duration, each: &mut dyn FnMut(ReadStep)) {
        if self.kafka.pass(self.member, Call::Read).is_err() {
            return;
        }
        let cluster = self.kafka.cluster();
        for (at, (log, position)) in &mut self.positions {
            let records = cluster.visible(*at, *position, self.chunk);
            let exhausted = records.len() < self.chunk;
            for (offset, found) in records {
                *position = offset as usize + 1;
                each(ReadStep::Record(*log, record(at.1, offset, &found)));
            }
            if exhausted {
                *position = (*position).max(cluster.last_stable(*at));
                each(ReadStep::End(*log, at.1, *position as i64));
            }
        }
    }
    fn last_stable_offset(&mut self, log: Changelog, partition: i32) -> Option<i64> {
        Some(self.kafka.cluster().last_stable((log.into(), partition)) as i64)
    }
}
