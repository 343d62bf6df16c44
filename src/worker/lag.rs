//! How far behind the inputs are: their ends, asked for beside the loops, against what the loops have reached.

use super::status::{InputStatus, PartitionState, Partitions, Status};
use crate::kafka::{Fault, Input, LogPlace, TopicNames, TopicsClient};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Looks that an input remembers; beyond, every second one is forgotten, so that it stays a bounded, ever coarser memory.
const MAX_LOOKS: usize = 128;

/// Compares what was reached with what is there.
pub struct LagWatch {
    topics: TopicNames,
    seen: BTreeMap<i32, [Seen; 2]>,
}

/// What earlier looks at an input saw.
#[derive(Default)]
struct Seen {
    /// End and time of looks, as far as their records still wait.
    ends: VecDeque<(i64, i64)>,
    /// Position and time of the last look.
    last: Option<(i64, i64)>,
}

impl LagWatch {
    /// A watch over these topics.
    pub fn new(topics: TopicNames) -> Self {
        Self { topics, seen: BTreeMap::new() }
    }

    /// Asks for the ends and notes them, with what follows from them.
    pub fn look(&mut self, client: &TopicsClient, status: &Status, now_ms: i64) -> Result<(), Fault> {
        let here = status.partitions();
        let is_standby = |p: &i32| here.get(p).is_some_and(|s| s.state == PartitionState::Standby);
        let (standby, owned): (Vec<i32>, Vec<i32>) = here.keys().partition(|p| is_standby(p));
        self.seen.retain(|partition, _| here.contains_key(partition));
        let inputs = client.ends(&places(&owned, [&self.topics.commands, &self.topics.backfill]), true)?;
        self.note_all(status, inputs, now_ms);
        let logs = client.ends(&places(&standby, [&self.topics.cards, &self.topics.completions]), false)?;
        self.note_all(status, logs, now_ms);
        Ok(())
    }

    fn note_all(&mut self, status: &Status, ends: Vec<(String, i32, i64)>, now_ms: i64) {
        let ends = ends.into_iter().map(|(topic, partition, end)| ((topic, partition), end)).collect();
        status.update_here(|partitions| self.note(partitions, &ends, now_ms));
    }

    fn note(&mut self, partitions: &mut Partitions, ends: &HashMap<(String, i32), i64>, now_ms: i64) {
        let end_of = |topic: &str, partition: i32| ends.get(&(topic.to_owned(), partition)).copied();
        for (partition, status) in partitions {
            let logs = [&self.topics.cards, &self.topics.completions];
            if status.state == PartitionState::Standby {
                let behind = |(read_to, topic): (i64, &String)| {
                    end_of(topic, *partition).map(|end| (end - read_to).max(0) as u64)
                };
                let behind = status.standby_read_to.into_iter().zip(logs).map(behind).sum::<Option<u64>>();
                status.standby_lag = behind.unwrap_or(status.standby_lag);
                continue;
            }
            let seen = self.seen.entry(*partition).or_default();
            for (topic, input) in [(&self.topics.commands, Input::Live), (&self.topics.backfill, Input::Backfill)] {
                let Some(end) = end_of(topic, *partition) else { continue };
                seen[input as usize].note(&mut status.inputs[input as usize], end, now_ms);
            }
        }
    }
}

fn places<'n>(partitions: &[i32], topics: [&'n String; 2]) -> Vec<LogPlace<'n>> {
    partitions.iter().flat_map(|p| topics.map(|topic| (topic.as_str(), *p))).collect()
}

impl Seen {
    fn note(&mut self, input: &mut InputStatus, end: i64, now_ms: i64) {
        input.end = Some(end);
        let Some(read_to) = input.read_to else { return };
        let reached = if input.waiting > 0 { input.next } else { read_to };
        while self.ends.front().is_some_and(|(end, _)| *end <= reached) {
            self.ends.pop_front();
        }
        if end > reached && self.ends.back().is_none_or(|(last, _)| *last < end) {
            self.ends.push_back((end, now_ms));
        }
        if self.ends.len() > MAX_LOOKS {
            let mut keep = false;
            self.ends.retain(|_| {
                keep = !keep;
                keep
            });
        }
        input.seen_waiting_ms = self.ends.front().map(|(_, at_ms)| *at_ms);
        input.rate = match self.last {
            Some((next, at_ms)) if now_ms > at_ms => {
                (input.next - next).max(0) as f64 * 1000.0 / (now_ms - at_ms) as f64
            }
            _ => 0.0,
        };
        self.last = Some((input.next, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_waits_since_it_was_first_seen_until_it_is_reached() {
        let (mut seen, mut input) =
            (Seen::default(), InputStatus { next: 10, read_to: Some(10), ..Default::default() });
        seen.note(&mut input, 10, 1000);
        assert_eq!((input.lag_records(), input.seen_waiting_ms), (0, None));
        seen.note(&mut input, 15, 2000);
        seen.note(&mut input, 20, 3000);
        assert_eq!((input.lag_records(), input.seen_waiting_ms), (10, Some(2000)));
        (input.next, input.read_to) = (16, Some(16));
        seen.note(&mut input, 20, 4000);
        assert_eq!((input.seen_waiting_ms, input.rate), (Some(3000), 6.0));
        (input.next, input.read_to) = (20, Some(20));
        seen.note(&mut input, 20, 5000);
        assert_eq!((input.lag_records(), input.seen_waiting_ms), (0, None));
    }

    #[test]
    fn the_memory_of_looks_is_bounded_and_keeps_the_oldest() {
        let (mut seen, mut input) = (Seen::default(), InputStatus { read_to: Some(0), ..Default::default() });
        for look in 1..10_000 {
            seen.note(&mut input, look, look);
        }
        assert!(seen.ends.len() <= MAX_LOOKS);
        assert_eq!(input.seen_waiting_ms, Some(1));
    }
}
