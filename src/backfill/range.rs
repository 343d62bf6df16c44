//! Which records of a topic are meant, pure: what was asked, held against what the log still has.

use std::collections::BTreeMap;

/// Something that was asked wrongly, in words; exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

/// One end of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Where the log begins or ends now.
    Whole,
    /// A time, milliseconds since the epoch, compared with each record's own timestamp.
    Time(i64),
    /// An offset of every partition.
    Offset(i64),
    /// Offsets by partition; the others are left out.
    Offsets(BTreeMap<i32, i64>),
}

impl Bound {
    /// Reads offsets: `1000` for every partition, or `0:1000,3:50`.
    pub fn offsets(text: &str) -> Result<Self, Misuse> {
        let wrong = || Misuse(format!("{text:?}: write offsets as 1000, or by partition as 0:1000,3:50"));
        let number = |part: &str| part.trim().parse().ok().filter(|n: &i64| *n >= 0).ok_or_else(wrong);
        if !text.contains(':') {
            return Ok(Self::Offset(number(text)?));
        }
        let pair = |part: &str| {
            let (partition, offset) = part.split_once(':').ok_or_else(wrong)?;
            Ok((i32::try_from(number(partition)?).map_err(|_| wrong())?, number(offset)?))
        };
        Ok(Self::Offsets(text.split(',').map(pair).collect::<Result<_, _>>()?))
    }

    fn time(&self) -> Option<i64> {
        if let Self::Time(at) = self { Some(*at) } else { None }
    }

    /// The offset of a partition, where offsets were asked for; `None` where the partition is left out.
    fn offset_of(&self, partition: i32) -> Option<Option<i64>> {
        match self {
            Self::Whole | Self::Time(_) => Some(None),
            Self::Offset(offset) => Some(Some(*offset)),
            Self::Offsets(by) => by.get(&partition).map(|o| Some(*o)),
        }
    }
}

/// What was asked of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first record.
    pub from: Bound,
    /// The record after the last.
    pub to: Bound,
    /// The partitions; empty for all.
    pub partitions: Vec<i32>,
}

/// What a partition's log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Its first offset.
    pub start: i64,
    /// The offset after its last committed record.
    pub end: i64,
    /// The first offset whose record is not older than [`Bound::Time`] of `from`; `None` when all are older, or none was asked.
    pub at_time: Option<i64>,
}

/// The part of one partition that is meant: `from` ≤ offset < `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
    /// Offsets of the range that the log no longer has; by time it cannot be told how many of them were meant.
    pub deleted: i64,
}

impl Range {
    /// Refuses what cannot be meant.
    pub fn check(&self, partitions: i32) -> Result<(), Misuse> {
        let bounds = [&self.from, &self.to];
        let named = bounds.iter().filter_map(|b| if let Bound::Offsets(by) = b { Some(by.keys()) } else { None });
        if let Some(none) = named.flatten().chain(&self.partitions).find(|p| **p < 0 || **p >= partitions) {
            return Err(Misuse(format!("partition {none}: the topic has partitions 0 to {}", partitions - 1)));
        }
        if let (Some(from), Some(to)) = (self.from.time(), self.to.time())
            && from >= to
        {
            return Err(Misuse("the range is backwards or empty: it must begin before it ends".into()));
        }
        Ok(())
    }

    /// Whether a partition is meant.
    pub fn has(&self, partition: i32) -> bool {
        let asked = self.partitions.is_empty() || self.partitions.contains(&partition);
        asked && self.from.offset_of(partition).is_some() && self.to.offset_of(partition).is_some()
    }

    /// The time to look an offset up for, if `from` is one.
    pub fn from_ms(&self) -> Option<i64> {
        self.from.time()
    }

    /// Whether a record's own time is meant; one without a time is meant unless a time was asked for.
    pub fn takes_time(&self, timestamp_ms: Option<i64>) -> bool {
        let after = self.from.time().is_none_or(|from| timestamp_ms.is_some_and(|at| at >= from));
        let before = self.to.time().is_none_or(|to| timestamp_ms.is_some_and(|at| at < to));
        after && before
    }

    /// The span of a partition that [`Range::has`].
    pub fn span(&self, partition: i32, log: Bounds) -> Result<Span, Misuse> {
        let asked_from = self.from.offset_of(partition).flatten();
        let to = self.to.offset_of(partition).flatten().map_or(log.end, |to| to.min(log.end));
        if let (Some(from), Some(asked_to)) = (asked_from, self.to.offset_of(partition).flatten())
            && from >= asked_to
        {
            return Err(Misuse(format!(
                "partition {partition}: the range is backwards or empty ({from} to {asked_to})"
            )));
        }
        let (from, deleted) = match (&self.from, asked_from) {
            (Bound::Time(_), _) => {
                let from = log.at_time.unwrap_or(log.end).max(log.start);
                // Where even the oldest record that is left belongs to the range, older ones may have too.
                (from, if from == log.start && from < log.end { log.start } else { 0 })
            }
            (_, Some(from)) => (from.max(log.start), (log.start.min(to) - from).max(0)),
            (_, None) => (log.start, 0),
        };
        Ok(Span { partition, from, to: to.max(from), deleted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: Bound, to: Bound) -> Range {
        Range { from, to, partitions: Vec::new() }
    }

    const LOG: Bounds = Bounds { start: 100, end: 200, at_time: None };

    fn span(from: Bound, to: Bound, log: Bounds) -> (i64, i64, i64) {
        let span = range(from, to).span(0, log).unwrap();
        (span.from, span.to, span.deleted)
    }

    #[test]
    fn a_span_is_what_was_asked_and_is_still_there() {
        assert_eq!(span(Bound::Whole, Bound::Whole, LOG), (100, 200, 0));
        assert_eq!(span(Bound::Offset(150), Bound::Offset(160), LOG), (150, 160, 0));
        assert_eq!(span(Bound::Offset(150), Bound::Offset(999), LOG), (150, 200, 0));
        assert_eq!(span(Bound::Time(5), Bound::Whole, Bounds { at_time: Some(130), ..LOG }), (130, 200, 0));
        assert_eq!(span(Bound::Time(5), Bound::Whole, LOG), (200, 200, 0), "all are older");
    }

    #[test]
    fn what_retention_has_deleted_of_a_range_is_counted() {
        assert_eq!(span(Bound::Offset(40), Bound::Whole, LOG), (100, 200, 60));
        assert_eq!(span(Bound::Offset(40), Bound::Offset(90), LOG), (100, 100, 50), "all of it");
        assert_eq!(span(Bound::Time(5), Bound::Whole, Bounds { at_time: Some(100), ..LOG }), (100, 200, 100));
        let fresh = Bounds { start: 0, end: 10, at_time: Some(0) };
        assert_eq!(span(Bound::Time(5), Bound::Whole, fresh), (0, 10, 0), "nothing was deleted");
    }

    #[test]
    fn times_are_compared_record_by_record() {
        let range = range(Bound::Time(10), Bound::Time(20));
        for (at, meant) in [(Some(9), false), (Some(10), true), (Some(19), true), (Some(20), false), (None, false)] {
            assert_eq!(range.takes_time(at), meant, "{at:?}");
        }
        assert!(Range { from: Bound::Whole, to: Bound::Whole, partitions: vec![] }.takes_time(None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(range(Bound::Time(20), Bound::Time(20)).check(8).is_err());
        assert!(range(Bound::Time(10), Bound::Time(20)).check(8).is_ok());
        assert!(Range { partitions: vec![8], ..range(Bound::Whole, Bound::Whole) }.check(8).is_err());
        assert!(range(Bound::offsets("9:1").unwrap(), Bound::Whole).check(8).is_err());
        assert!(range(Bound::Offset(9), Bound::Offset(9)).span(0, LOG).is_err());
        for wrong in ["", "x", "-1", "1:", "1:2,3", "0:-4"] {
            assert!(Bound::offsets(wrong).is_err(), "{wrong}");
        }
        let by = Bound::offsets("0:5, 3:7").unwrap();
        assert!(range(by.clone(), Bound::Whole).has(3) && !range(by, Bound::Whole).has(1));
    }
}
