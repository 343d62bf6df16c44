//! Dead letters: the record as it came, with headers that say why it could not be answered and where it stood.

use super::headers::Source;
use super::json::push_number;
use super::{OutTopic, Outbox};
use crate::domain::DeadReason;
use sha2::{Digest, Sha256};

/// How much of a record its dead letter leaves out, because the broker refused it for its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Omit {
    /// Nothing: the record as it came.
    #[default]
    Nothing,
    /// The value; its length and SHA-256 stand in headers.
    Value,
    /// Value, key and original headers: what is left always fits.
    AllButTheReason,
}

/// A record to be set aside.
pub struct DeadRecord<'a> {
    /// Where it stood.
    pub source: Source<'a>,
    /// Its own timestamp, milliseconds since the epoch, when it has one.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// Adds the dead letter of a record to the outbox, stamped with the decision time.
pub fn dead_letter<'h>(
    record: &DeadRecord<'_>,
    headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    (reason, omit): (DeadReason, Omit),
    decided_at_ms: i64,
    input: usize,
    out: &mut Outbox,
) {
    out.begin(OutTopic::DeadLetters, record.source.partition, decided_at_ms, input);
    if omit < Omit::AllButTheReason {
        out.key(record.key);
        headers.for_each(|(name, value)| out.header(name, value));
    }
    out.header("dlq-reason", Some(reason.name().as_bytes()));
    out.header("dlq-message", Some(reason.message().as_bytes()));
    out.header("dlq-topic", Some(record.source.topic.as_bytes()));
    out.header_with("dlq-partition", |v| push_number(v, i64::from(record.source.partition)));
    out.header_with("dlq-offset", |v| push_number(v, record.source.offset));
    // -1 is how Kafka itself writes a record without a timestamp.
    out.header_with("dlq-timestamp", |v| push_number(v, record.timestamp_ms.unwrap_or(-1)));
    let value = record.value;
    match (omit, value) {
        (Omit::Nothing, Some(value)) => out.value_with(|v| v.extend_from_slice(value)),
        (Omit::Nothing, None) => {}
        _ => omitted(value.unwrap_or_default(), out),
    }
    out.end();
}

fn omitted(value: &[u8], out: &mut Outbox) {
    out.header("dlq-value-omitted", Some(b"true"));
    out.header_with("dlq-value-bytes", |v| push_number(v, value.len() as i64));
    out.header_with("dlq-value-sha256", |v| {
        for byte in Sha256::digest(value) {
            v.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(omit: Omit) -> Outbox {
        let source = Source { topic: "card-update.commands", partition: 3, offset: 42 };
        let record = DeadRecord { source, timestamp_ms: Some(5), key: Some(b"k"), value: Some(b"abc") };
        let mut out = Outbox::default();
        let headers = [("h", Some(&b"\xff"[..])), ("h", None)];
        dead_letter(&record, headers.into_iter(), (DeadReason::MalformedJson, omit), 99, 0, &mut out);
        out
    }

    fn headers(out: &Outbox) -> Vec<(String, Option<Vec<u8>>)> {
        out.get(0).headers().map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), v.map(<[u8]>::to_vec))).collect()
    }

    #[test]
    fn the_record_is_kept_byte_for_byte_before_the_reason() {
        let out = letter(Omit::Nothing);
        let record = out.get(0);
        assert_eq!((record.key, record.value, record.timestamp_ms), (Some(&b"k"[..]), Some(&b"abc"[..]), 99));
        let headers = headers(&out);
        assert_eq!(headers[0], ("h".into(), Some(b"\xff".to_vec())));
        assert_eq!(headers[1], ("h".into(), None));
        let rest: Vec<_> = headers[2..].iter().map(|(n, v)| (n.as_str(), v.as_deref().unwrap())).collect();
        assert_eq!(rest[0], ("dlq-reason", &b"malformed_json"[..]));
        assert_eq!(
            rest[2..],
            [
                ("dlq-topic", &b"card-update.commands"[..]),
                ("dlq-partition", b"3"),
                ("dlq-offset", b"42"),
                ("dlq-timestamp", b"5"),
            ]
        );
    }

    #[test]
    fn an_omitted_value_leaves_its_length_and_digest() {
        let out = letter(Omit::Value);
        assert_eq!((out.get(0).key, out.get(0).value), (Some(&b"k"[..]), None));
        let found = headers(&out);
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(found.contains(&("dlq-value-bytes".into(), Some(b"3".to_vec()))));
        assert!(found.contains(&("dlq-value-sha256".into(), Some(sha.as_bytes().to_vec()))));
        let bare = letter(Omit::AllButTheReason);
        assert_eq!((bare.get(0).key, headers(&bare).iter().any(|(n, _)| n == "h")), (None, false));
    }
}
