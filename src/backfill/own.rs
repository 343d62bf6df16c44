//! The places in the backfill topic of one replay's commands: what its answers are told by.

use std::collections::BTreeMap;

/// Runs of offsets by partition, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own(BTreeMap<i32, Vec<(i64, i64)>>);

impl Own {
    /// Adds an offset; within a partition they come in ascending order.
    pub fn add(&mut self, partition: i32, offset: i64) {
        let runs = self.0.entry(partition).or_default();
        match runs.last_mut() {
            Some((_, end)) if *end == offset => *end += 1,
            Some((_, end)) if *end > offset => {}
            _ => runs.push((offset, offset + 1)),
        }
    }

    /// Whether an offset is one of them.
    pub fn has(&self, partition: i32, offset: i64) -> bool {
        let Some(runs) = self.0.get(&partition) else { return false };
        let after = runs.partition_point(|(start, _)| *start <= offset);
        after > 0 && offset < runs[after - 1].1
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.values().flatten().map(|(start, end)| (end - start) as u64).sum()
    }

    /// How many lie before these offsets, by partition.
    pub fn before(&self, committed: &BTreeMap<i32, i64>) -> u64 {
        let of = |(partition, runs): (&i32, &Vec<(i64, i64)>)| {
            let next = committed.get(partition).copied().unwrap_or(0);
            runs.iter().map(|(start, end)| (next.min(*end) - start).max(0) as u64).sum::<u64>()
        };
        self.0.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_found_again_and_counted_up_to_what_is_committed() {
        let mut own = Own::default();
        for offset in [3, 4, 5, 7, 7, 9] {
            own.add(2, offset);
        }
        let found: Vec<i64> = (0..12).filter(|o| own.has(2, *o)).collect();
        assert_eq!(found, [3, 4, 5, 7, 9]);
        assert!(!own.has(1, 3));
        assert_eq!(own.count(), 5);
        for (committed, before) in [(0, 0), (4, 1), (6, 3), (8, 4), (100, 5)] {
            assert_eq!(own.before(&BTreeMap::from([(2, committed)])), before, "{committed}");
        }
        assert_eq!(own.before(&BTreeMap::new()), 0);
    }
}
