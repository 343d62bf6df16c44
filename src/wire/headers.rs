//! Header names and values. Numbers in headers are decimal ASCII.

use super::Outbox;
use super::json::push_number;

/// Header names that are fixed.
pub mod names {
    /// On a completion: the fingerprint of the command's meaning, on `ok` ones only.
    pub const REQUEST_FINGERPRINT: &str = "request-fingerprint";
    /// On a completion: it repeats an earlier one.
    pub const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";
    /// Headers of a command that its completion carries too, with the most bytes that are passed on: W3C Trace Context asks
    /// for at least 512 of `tracestate`; a longer value is left out.
    pub const PASSED_THROUGH: [(&str, usize); 3] = [("traceparent", 128), ("tracestate", 512), ("correlation-id", 256)];
}

/// On a completion: where the command was read.
pub const SOURCE: &str = "source";
/// On a backfilled command: its place in the commands topic.
pub const REPLAY_SOURCE: &str = "replay-source";

/// A place in a topic, written `<topic>/<partition>/<offset>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
}

impl<'a> Source<'a> {
    /// Reads the text; `None` when it is none.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.rsplitn(3, '/');
        let offset = parts.next()?.parse().ok().filter(|o| *o >= 0)?;
        let partition = parts.next()?.parse().ok().filter(|p| *p >= 0)?;
        Some(Self { topic: parts.next()?, partition, offset })
    }

    /// Appends the text.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.topic.as_bytes());
        out.push(b'/');
        push_number(out, i64::from(self.partition));
        out.push(b'/');
        push_number(out, self.offset);
    }
}

/// Copies the headers of a command that its completion carries too, the first of each name.
pub fn pass_through<'h>(headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>, out: &mut Outbox) {
    let mut taken = [false; names::PASSED_THROUGH.len()];
    for (name, value) in headers {
        let Some(value) = value else { continue };
        let known = names::PASSED_THROUGH.iter().position(|(n, most)| *n == name && value.len() <= *most);
        if let Some(i) = known.filter(|i| !taken[*i]) {
            taken[i] = true;
            out.header(name, Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_the_round_trip() {
        let source = Source { topic: "a/b", partition: 3, offset: 42 };
        let mut text = Vec::new();
        source.write(&mut text);
        assert_eq!(text, b"a/b/3/42");
        assert_eq!(Source::parse(&text), Some(source));
        for wrong in ["", "a", "a/1", "a/-1/2", "a/1/-2", "a/x/2", "a/1/2x"] {
            assert_eq!(Source::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
