//! Commands out of a file: one JSON object a line, plain, gzip or zstd; pure but for the reading itself.
//!
//! A line is a command as it stands in Kafka, or an envelope around one: `{"value": …, "key": "…", "timestamp": …,
//! "headers": {…}, "partition": n}`. It must never skip a line silently, and never put a line's content into a message.

use super::outgoing::Stamp;
use crate::domain::CardId;
use crate::kafka::{Header, MemoryRecord, Outgoing};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use xxhash_rust::xxh3::Xxh3;

/// Longest line. Kafka takes records of 1 MiB unless told otherwise.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A line that is no command to be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Broken {
    /// Its number, from 1.
    pub line: i64,
    /// What is wrong with it.
    pub what: String,
    /// The line as it came.
    pub bytes: Vec<u8>,
}

/// Lines of a file that may be compressed.
pub struct Lines {
    input: Box<dyn BufRead>,
    /// Lines read so far.
    pub read: i64,
    /// Boxed for its size.
    digest: Box<Xxh3>,
}

impl Lines {
    /// Reads plain text, gzip or zstd, as the first bytes tell.
    pub fn new(input: impl Read + 'static) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(256 * 1024, input);
        let first = input.fill_buf()?;
        let input: Box<dyn BufRead> = if first.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(input)))
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Box::new(BufReader::new(zstd::Decoder::with_buffer(input)?))
        } else {
            Box::new(input)
        };
        Ok(Self { input, read: 0, digest: Box::default() })
    }

    /// A hash over all lines read so far.
    pub fn digest(&self) -> u64 {
        self.digest.digest()
    }

    /// The next line without its end; `None` after the last.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = self.input.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.read += 1;
        if read as u64 > MAX_LINE_BYTES {
            return Err(io::Error::other(format!("line {} is longer than {MAX_LINE_BYTES} bytes", self.read)));
        }
        while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            line.pop();
        }
        self.digest.update(&line);
        self.digest.update(b"\n");
        Ok(Some(line))
    }
}

/// What tells an envelope from a bare command.
#[derive(Deserialize)]
struct Probe<'l> {
    #[serde(borrow)]
    value: Option<&'l RawValue>,
    #[serde(borrow)]
    card_id: Option<Cow<'l, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'l> {
    #[serde(borrow)]
    value: &'l RawValue,
    key: Option<String>,
    timestamp: Option<Time>,
    #[serde(default)]
    headers: Pairs,
    partition: Option<i32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Ms(i64),
    Text(String),
}

/// A JSON object whose members keep their order, a name that stands twice included.
#[derive(Default)]
struct Pairs(Vec<Header>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs, M::Error> {
                let mut pairs = Pairs::default();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    pairs.0.push((name, value.map(String::into_bytes)));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Makes a line's command; `default_ms` is the time of lines that have none.
pub fn command_of(line: &[u8], number: i64, default_ms: Option<i64>, stamp: &Stamp) -> Result<Outgoing, String> {
    let probe: Probe<'_> = serde_json::from_slice(line).map_err(|e| unreadable(&e))?;
    let (record, partition) = match probe.value {
        Some(_) => enveloped(line)?,
        None => bare(line, probe.card_id.as_deref())?,
    };
    let key = record.key.clone().or_else(|| card_of(record.value.as_deref()).map(|id| id.to_string().into_bytes()));
    let partition = match (partition, &key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => stamp.partition_of_key(key),
        (None, None) => return Err("it has neither a card_id nor a key nor a partition to place it by".into()),
    };
    if !(0..stamp.partitions).contains(&partition) {
        return Err(format!("partition {partition}: the backfill topic has partitions 0 to {}", stamp.partitions - 1));
    }
    let timestamp_ms = record.timestamp_ms.or(default_ms);
    if timestamp_ms.is_none() {
        return Err("it has no timestamp: what is older than a card's accounts cannot be told; give --timestamp".into());
    }
    let record = MemoryRecord { key, timestamp_ms, ..record };
    Ok(Outgoing { partition, record: stamp.from_file(record, number) })
}

fn enveloped(line: &[u8]) -> Result<(MemoryRecord, Option<i32>), String> {
    let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(|e| unreadable(&e))?;
    let raw = envelope.value.get();
    // A string holds the value's text, for values that are no JSON.
    let value = if raw.starts_with('"') {
        serde_json::from_str::<String>(raw).map_err(|e| unreadable(&e))?
    } else {
        raw.to_owned()
    };
    let timestamp_ms = match envelope.timestamp {
        None => None,
        Some(Time::Ms(ms)) => Some(ms),
        Some(Time::Text(text)) => Some(time_ms(&text).ok_or("its timestamp is neither milliseconds nor RFC 3339")?),
    };
    if timestamp_ms.is_some_and(|ms| ms <= 0) {
        return Err("its timestamp must be later than 1970".into());
    }
    let (key, value) = (envelope.key.map(String::into_bytes), Some(value.into_bytes()));
    Ok((MemoryRecord { key, value, headers: envelope.headers.0, timestamp_ms }, envelope.partition))
}

fn bare(line: &[u8], card_id: Option<&str>) -> Result<(MemoryRecord, Option<i32>), String> {
    let key = card_id.ok_or("it has no card_id to place it by; put it into an envelope with a key")?;
    let key = Some(key.to_ascii_lowercase().into_bytes());
    Ok((MemoryRecord { key, value: Some(line.to_vec()), ..MemoryRecord::default() }, None))
}

/// The card that a value names, if it is readable.
pub fn card_of(value: Option<&[u8]>) -> Option<CardId> {
    let probe: Probe<'_> = serde_json::from_slice(value?).ok()?;
    CardId::parse(&probe.card_id?)
}

/// Reads an RFC 3339 time; milliseconds since the epoch.
pub fn time_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// A time for a person; RFC 3339 in UTC.
pub fn readable_time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

/// The library's own words may quote the line.
fn unreadable(error: &serde_json::Error) -> String {
    let at = error.column();
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("a field is unknown, missing, twice or of the wrong type (column {at})")
        }
        _ => format!("it is not one JSON object (column {at})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

    fn stamp() -> Stamp {
        Stamp::of_file("r1", "in.ndjson", 4)
    }

    fn command(line: &str) -> Result<Outgoing, String> {
        command_of(line.as_bytes(), 7, None, &stamp())
    }

    #[test]
    fn a_bare_command_is_sent_as_it_is_under_its_card() {
        let line = format!(r#"{{"request_id":"x","card_id":"{}","more":1}}"#, ID.to_uppercase());
        let out = command_of(line.as_bytes(), 7, Some(5), &stamp()).unwrap();
        assert_eq!(out.record.key.as_deref(), Some(ID.as_bytes()));
        assert_eq!(out.record.value.as_deref(), Some(line.as_bytes()));
        assert_eq!(out.record.timestamp_ms, Some(5));
        assert_eq!(out.partition, crate::wire::partition_of(ID.as_bytes(), 4));
        assert!(command(&line).unwrap_err().contains("--timestamp"), "a time is never guessed");
    }

    #[test]
    fn an_envelope_keeps_key_time_headers_and_partition() {
        let line = r#"{"value":{"a": 1},"key":"k","timestamp":"2025-01-01T00:00:00.5Z","headers":{"b":"1","a":null,"b":"2"},"partition":3}"#;
        let out = command(line).unwrap();
        assert_eq!((out.partition, out.record.key.as_deref()), (3, Some(&b"k"[..])));
        assert_eq!(out.record.value.as_deref(), Some(&br#"{"a": 1}"#[..]), "byte for byte");
        assert_eq!(out.record.timestamp_ms, Some(1_735_689_600_500));
        let names: Vec<_> = out.record.headers.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["b", "a", "b", "replay-id", "replay-origin"]);
        let text = command(r#"{"value":"not json","timestamp":1,"partition":0}"#).unwrap();
        assert_eq!(text.record.value.as_deref(), Some(&b"not json"[..]));
        let keyed = command(&format!(r#"{{"value":{{"card_id":"{ID}"}},"timestamp":1}}"#)).unwrap();
        assert_eq!(keyed.record.key.as_deref(), Some(ID.as_bytes()), "the card is the key where none is given");
    }

    #[test]
    fn inv_10_a_broken_line_is_named_without_its_content() {
        for broken in [
            "",
            "{",
            "[]",
            "ES7921000813610123456789",
            r#"{"value":{},"timestamp":"ES7921000813610123456789","partition":0}"#,
            r#"{"value":{},"timestamp":true,"partition":0}"#,
            r#"{"value":{},"timestamp":0,"partition":0}"#,
            r#"{"value":{},"timestamp":"1970-01-01T00:00:00Z","partition":0}"#,
            r#"{"value":{},"timestamp":1}"#,
            r#"{"value":{},"timestamp":1,"partition":4}"#,
            r#"{"value":{},"timestamp":1,"partition":0,"ES7921000813610123456789":1}"#,
            r#"{"request_id":"ES7921000813610123456789"}"#,
            r#"{"card_id":["ES7921000813610123456789"]}"#,
        ] {
            let what = command(broken).unwrap_err();
            assert!(!what.contains("ES79"), "{what}");
        }
    }

    fn all_lines(bytes: Vec<u8>) -> Vec<String> {
        let mut lines = Lines::new(io::Cursor::new(bytes)).unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(String::from_utf8(line).unwrap());
        }
        all
    }

    #[test]
    fn plain_gzip_and_zstd_read_the_same() {
        let text = "one\r\n\ntwo\nlast without an end";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for bytes in [text.as_bytes().to_vec(), gzip.finish().unwrap(), zstd] {
            assert_eq!(all_lines(bytes), ["one", "", "two", "last without an end"]);
        }
        assert_eq!(all_lines(Vec::new()), Vec::<String>::new());
    }
}
