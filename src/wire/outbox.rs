//! The records of one transaction, in one reused block of memory.

use std::ops::Range;

/// Which output topic a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutTopic {
    /// Completions.
    Completions,
    /// Card records.
    Cards,
    /// Dead letters.
    DeadLetters,
}

impl OutTopic {
    /// All of them; the index in this list is `topic as usize`.
    pub const ALL: [Self; 3] = [Self::Completions, Self::Cards, Self::DeadLetters];
}

type Span = Range<u32>;

struct Entry {
    topic: OutTopic,
    partition: i32,
    timestamp_ms: i64,
    input: u32,
    key: Option<Span>,
    value: Option<Span>,
    headers: Span,
}

/// The records that a transaction will write, in order.
///
/// A record is built with [`Outbox::begin`], then key, headers and value in any order, then [`Outbox::end`].
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    headers: Vec<(Span, Option<Span>)>,
    entries: Vec<Entry>,
}

/// A record to write.
pub struct OutRecord<'a> {
    /// Where to.
    pub topic: OutTopic,
    /// The partition of the input record that it answers.
    pub partition: i32,
    /// Milliseconds since the epoch, UTC.
    pub timestamp_ms: i64,
    /// The index, in the batch, of the input record that it answers.
    pub input: usize,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    outbox: &'a Outbox,
    header_span: Span,
}

impl<'a> OutRecord<'a> {
    /// The headers in order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let outbox = self.outbox;
        outbox.headers[self.header_span.start as usize..self.header_span.end as usize]
            .iter()
            .map(|(name, value)| (outbox.slice(name), value.as_ref().map(|v| outbox.slice(v))))
    }
}

impl Outbox {
    /// Forgets all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.headers.clear();
        self.entries.clear();
    }
    /// Number of records.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Bytes of keys, values and headers.
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }
    /// The record at `index`.
    pub fn get(&self, index: usize) -> OutRecord<'_> {
        self.record(&self.entries[index])
    }
    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = OutRecord<'_>> {
        self.entries.iter().map(|e| self.record(e))
    }

    /// Starts a record that answers the batch's input record `input`.
    pub fn begin(&mut self, topic: OutTopic, partition: i32, timestamp_ms: i64, input: usize) {
        let at = self.headers.len() as u32;
        self.entries.push(Entry {
            topic,
            partition,
            timestamp_ms,
            input: input as u32,
            key: None,
            value: None,
            headers: at..at,
        });
    }
    /// Sets the key of the record under way.
    pub fn key(&mut self, key: Option<&[u8]>) {
        let span = key.map(|k| self.push(k));
        if let Some(entry) = self.entries.last_mut() {
            entry.key = span;
        }
    }
    /// Adds a header to the record under way.
    pub fn header(&mut self, name: &str, value: Option<&[u8]>) {
        let name = self.push(name.as_bytes());
        let value = value.map(|v| self.push(v));
        self.headers.push((name, value));
    }
    /// Adds a header whose value `write` appends.
    pub fn header_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let name = self.push(name.as_bytes());
        let value = self.written(write);
        self.headers.push((name, Some(value)));
    }
    /// Sets the value of the record under way to what `write` appends.
    pub fn value_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let span = self.written(write);
        if let Some(entry) = self.entries.last_mut() {
            entry.value = Some(span);
        }
    }
    /// Ends the record under way.
    pub fn end(&mut self) {
        let end = self.headers.len() as u32;
        if let Some(entry) = self.entries.last_mut() {
            entry.headers.end = end;
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Span {
        self.written(|out| out.extend_from_slice(bytes))
    }
    /// The worker bounds a batch far below 4 GiB, so 32-bit positions do.
    fn written(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len() as u32;
        write(&mut self.bytes);
        start..self.bytes.len() as u32
    }
    fn slice(&self, span: &Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
    fn record<'a>(&'a self, entry: &'a Entry) -> OutRecord<'a> {
        OutRecord {
            topic: entry.topic,
            partition: entry.partition,
            timestamp_ms: entry.timestamp_ms,
            input: entry.input as usize,
            key: entry.key.as_ref().map(|k| self.slice(k)),
            value: entry.value.as_ref().map(|v| self.slice(v)),
            outbox: self,
            header_span: entry.headers.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut outbox = Outbox::default();
        outbox.begin(OutTopic::Completions, 3, 7, 0);
        outbox.key(Some(b"k"));
        outbox.header("a", Some(b"1"));
        outbox.header("b", None);
        outbox.value_with(|v| v.extend_from_slice(b"value"));
        outbox.end();
        outbox.begin(OutTopic::DeadLetters, 4, 8, 1);
        outbox.end();
        let first = outbox.get(0);
        assert_eq!((first.topic, first.partition, first.timestamp_ms, first.input), (OutTopic::Completions, 3, 7, 0));
        assert_eq!((first.key, first.value), (Some(&b"k"[..]), Some(&b"value"[..])));
        let headers: Vec<_> = first.headers().collect();
        assert_eq!(headers, [(&b"a"[..], Some(&b"1"[..])), (&b"b"[..], None)]);
        let second = outbox.get(1);
        assert_eq!((second.key, second.value, second.headers().len()), (None, None, 0));
    }
}
