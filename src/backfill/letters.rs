//! Dead letters as an operator looks at them: read, filtered, shown.

use super::Failed;
use super::reading::{read_spans, stable_spans};
use crate::kafka::{History, MemoryRecord, Record};
use crate::wire::original_headers;
use serde::Serialize;
use std::collections::BTreeMap;

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its partition in the dead-letter topic.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was set aside, milliseconds since the epoch.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
    /// The reason in words.
    pub message: String,
    /// Where the record stood.
    pub topic: String,
    /// Its partition there.
    pub source_partition: i32,
    /// Its offset there.
    pub source_offset: i64,
    /// The record's own time; `None` when it had none.
    pub timestamp_ms: Option<i64>,
    /// Bytes of the value where it was left out for its size.
    pub omitted: Option<u64>,
    /// The record as it came; its value is `None` where it was left out.
    pub original: MemoryRecord,
}

impl Letter {
    /// Reads one; `None` when it is no dead letter of a worker.
    pub fn read(record: &Record) -> Option<Self> {
        let own = original_headers(record.headers().map(|(name, _)| name));
        let text = |wanted: &str| {
            let (_, value) = record.headers().skip(own).find(|(name, _)| *name == wanted)?;
            std::str::from_utf8(value?).ok().map(str::to_owned)
        };
        let number = |wanted: &str| text(wanted)?.parse::<i64>().ok();
        let headers = record.headers().take(own).map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect();
        let timestamp_ms = number("dlq-timestamp").filter(|at| *at >= 0);
        let bytes = |b: &[u8]| b.to_vec();
        Some(Self {
            partition: record.partition,
            offset: record.offset,
            at_ms: record.timestamp_ms().unwrap_or(0),
            reason: text("dlq-reason")?,
            message: text("dlq-message").unwrap_or_default(),
            topic: text("dlq-topic")?,
            source_partition: i32::try_from(number("dlq-partition")?).ok()?,
            source_offset: number("dlq-offset")?,
            timestamp_ms,
            omitted: number("dlq-value-bytes").map(|n| n as u64).filter(|_| text("dlq-value-omitted").is_some()),
            original: MemoryRecord {
                key: record.key().map(bytes),
                value: record.value().map(bytes),
                headers,
                timestamp_ms,
            },
        })
    }

    /// What a list shows of it.
    pub fn summary(&self) -> Summary {
        Summary {
            partition: self.partition,
            offset: self.offset,
            at_ms: self.at_ms,
            reason: self.reason.clone(),
            source: format!("{}/{}/{}", self.topic, self.source_partition, self.source_offset),
            value_bytes: self.omitted.unwrap_or(self.original.value.as_ref().map_or(0, |v| v.len() as u64)),
            value_omitted: self.omitted.is_some(),
        }
    }
}

/// A dead letter in a list; nothing of its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its partition in the dead-letter topic.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was set aside, milliseconds since the epoch.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
    /// Where the record stood: topic, partition, offset.
    pub source: String,
    /// Bytes of the record's value.
    pub value_bytes: u64,
    /// Whether the value was left out for its size.
    pub value_omitted: bool,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// These reasons; empty for all.
    pub reasons: Vec<String>,
    /// Set aside at or after this time.
    pub from_ms: Option<i64>,
    /// Set aside before this time.
    pub to_ms: Option<i64>,
    /// These partitions; empty for all.
    pub partitions: Vec<i32>,
    /// Just these places: partition and offset; empty for all.
    pub places: Vec<(i32, i64)>,
}

impl LetterFilter {
    /// Whether a letter is meant.
    pub fn takes(&self, letter: &Letter) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && self.from_ms.is_none_or(|from| letter.at_ms >= from)
            && self.to_ms.is_none_or(|to| letter.at_ms < to)
            && (self.places.is_empty() || self.places.contains(&(letter.partition, letter.offset)))
    }

    /// Partitions that may have letters that are meant, and from which offset on.
    fn starts(&self, history: &History) -> Result<BTreeMap<i32, i64>, Failed> {
        let count = history.partitions();
        let named = self.partitions.iter().chain(self.places.iter().map(|(p, _)| p));
        if let Some(none) = named.clone().find(|p| **p < 0 || **p >= count) {
            return Err(Failed::Misuse(format!(
                "partition {none}: {} has partitions 0 to {}",
                history.topic(),
                count - 1
            )));
        }
        let meant = |p: &i32| {
            (self.partitions.is_empty() || self.partitions.contains(p))
                && (self.places.is_empty() || self.places.iter().any(|(place, _)| place == p))
        };
        let first = |p: i32| {
            let places = self.places.iter().filter(|(place, _)| *place == p);
            places.map(|(_, offset)| *offset).min().unwrap_or(0)
        };
        Ok((0..count).filter(meant).map(|p| (p, first(p))).collect())
    }
}

/// Calls `each` for the dead letters that are meant, partition after partition in order, until it says that it has enough.
/// Gives how many records of the topic are no dead letters of a worker.
pub fn read_letters(
    history: &mut History,
    filter: &LetterFilter,
    mut each: impl FnMut(Letter) -> Result<bool, Failed>,
) -> Result<u64, Failed> {
    let mut foreign = 0;
    for (partition, from) in filter.starts(history)? {
        let last = filter.places.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset).max();
        let mut ended: Option<Result<bool, Failed>> = None;
        let spans = stable_spans(history, &BTreeMap::from([(partition, from)]))?;
        read_spans(history, &spans, |record| {
            match Letter::read(&record) {
                None => foreign += 1,
                Some(letter) if filter.takes(&letter) => match each(letter) {
                    Ok(true) => {}
                    other => ended = ended.take().or(Some(other)),
                },
                Some(_) => {}
            }
            ended.is_none() && last.is_none_or(|last| record.offset < last)
        })?;
        match ended {
            None => {}
            Some(Ok(_)) => return Ok(foreign),
            Some(Err(failed)) => return Err(failed),
        }
    }
    Ok(foreign)
}

/// Fields of the contract, whose names may be shown.
const NAMES: [&str; 6] = ["request_id", "card_id", "accounts", "iban", "currency", "type"];

/// A value as it may be shown: letters as `x`, digits as `0`, other bytes as `?`; what makes the structure, and the names of the
/// contract's fields, stay. It need not be JSON: what is wrong with it is often just that.
pub fn masked_text(value: &[u8]) -> String {
    let mut shown = String::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        let word = value[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let is_name = |name: &&str| name.as_bytes() == &value[at..at + word];
        if word > 0 && NAMES.iter().any(is_name) && is_member(value, at, word) {
            shown.push_str(&String::from_utf8_lossy(&value[at..at + word]));
        } else {
            value[at..at + word.max(1)].iter().for_each(|b| shown.push(masked(*b)));
        }
        at += word.max(1);
    }
    shown
}

/// Whether a word stands as the name of a member: in quotes, a colon behind it.
fn is_member(value: &[u8], at: usize, word: usize) -> bool {
    let before = at.checked_sub(1).map(|i| value[i]);
    let mut behind = value[at + word..].iter();
    before == Some(b'"') && behind.next() == Some(&b'"') && behind.find(|b| !b.is_ascii_whitespace()) == Some(&b':')
}

const fn masked(byte: u8) -> char {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' => 'x',
        b'0'..=b'9' => '0',
        b' '..=b'~' | b'\n' | b'\t' | b'\r' => byte as char,
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DeadReason;
    use crate::kafka::Body;
    use crate::wire::{DeadRecord, Omit, Outbox, Source, dead_letter};

    fn letter(omit: Omit, timestamp_ms: Option<i64>) -> Letter {
        let source = Source { topic: "in", partition: 3, offset: 42 };
        let record = DeadRecord { source, timestamp_ms, key: Some(b"k"), value: Some(b"abc") };
        let mut out = Outbox::default();
        // An upstream's own header of the same name is the record's, not the worker's.
        let headers = [("trace", Some(&b"t"[..])), ("dlq-reason", Some(&b"theirs"[..]))];
        dead_letter(&record, headers.into_iter(), (DeadReason::MalformedJson, omit), 99, 0, &mut out);
        let written = out.get(0);
        let headers = written.headers().map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), v.map(<[u8]>::to_vec)));
        let memory = MemoryRecord {
            key: written.key.map(<[u8]>::to_vec),
            value: written.value.map(<[u8]>::to_vec),
            headers: headers.collect(),
            timestamp_ms: Some(99),
        };
        Letter::read(&Record { partition: 5, offset: 6, body: Body::Memory(Box::new(memory)) }).unwrap()
    }

    #[test]
    fn a_letter_gives_back_the_record_as_it_came() {
        let read = letter(Omit::Nothing, Some(7));
        assert_eq!((read.partition, read.offset, read.at_ms), (5, 6, 99));
        assert_eq!((read.topic.as_str(), read.source_partition, read.source_offset), ("in", 3, 42));
        assert_eq!((read.reason.as_str(), read.timestamp_ms, read.omitted), ("malformed_json", Some(7), None));
        let original = read.original;
        assert_eq!((original.key.as_deref(), original.value.as_deref()), (Some(&b"k"[..]), Some(&b"abc"[..])));
        let names: Vec<_> = original.headers.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["trace", "dlq-reason"]);
        assert_eq!(letter(Omit::Nothing, None).timestamp_ms, None);
        assert_eq!(letter(Omit::Value, Some(7)).omitted, Some(3));
    }

    #[test]
    fn a_record_of_someone_else_is_no_letter() {
        let memory = MemoryRecord { value: Some(b"x".to_vec()), ..MemoryRecord::default() };
        assert_eq!(Letter::read(&Record { partition: 0, offset: 0, body: Body::Memory(Box::new(memory)) }), None);
    }

    #[test]
    fn filters_hold_together() {
        let letter = letter(Omit::Nothing, Some(7));
        let all = LetterFilter::default();
        assert!(all.takes(&letter));
        assert!(
            LetterFilter { reasons: vec!["malformed_json".into()], from_ms: Some(99), ..all.clone() }.takes(&letter)
        );
        for no in [
            LetterFilter { reasons: vec!["empty_value".into()], ..all.clone() },
            LetterFilter { from_ms: Some(100), ..all.clone() },
            LetterFilter { to_ms: Some(99), ..all.clone() },
            LetterFilter { places: vec![(5, 7)], ..all.clone() },
        ] {
            assert!(!no.takes(&letter), "{no:?}");
        }
    }

    #[test]
    fn inv_10_a_masked_value_shows_its_structure_and_no_content() {
        let value = br#"{"card_id" : "card_id", "iban":"ES79_2100", "note\u0041":[1.5,"type"], "caf"#;
        let shown = r#"{"card_id" : "xxxxxxx", "iban":"xx00x0000", "xxxx\x0000":[0.0,"xxxx"], "xxx"#;
        assert_eq!(masked_text(value), shown);
        assert_eq!(masked_text(b"\xff\x00 iban:ES"), "?? xxxx:xx");
        assert_eq!(masked_text(b""), "");
    }
}
