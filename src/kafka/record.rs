//! A record as the worker reads it, from the client or from memory.

use super::raw;

/// Which input a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The commands topic.
    Live = 0,
    /// The backfill topic.
    Backfill = 1,
}

/// A header: its name and value.
pub type Header = (String, Option<Vec<u8>>);

/// A record made in memory, for a simulated log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRecord {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<Header>,
    /// Milliseconds since the epoch.
    pub timestamp_ms: Option<i64>,
}

/// Who holds a record's bytes.
pub enum Body {
    /// The client, without a copy.
    Client(raw::Message),
    /// This process.
    Memory(Box<MemoryRecord>),
}

/// A record of an input or changelog topic.
pub struct Record {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The rest.
    pub body: Body,
}

impl Record {
    pub(super) fn new(message: raw::Message) -> Self {
        Self { partition: message.partition(), offset: message.offset(), body: Body::Client(message) }
    }
    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Client(message) => message.key(),
            Body::Memory(record) => record.key.as_deref(),
        }
    }
    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Client(message) => message.value(),
            Body::Memory(record) => record.value.as_deref(),
        }
    }
    /// Milliseconds since the epoch; `None` when the record has none.
    pub fn timestamp_ms(&self) -> Option<i64> {
        match &self.body {
            Body::Client(message) => message.timestamp_ms(),
            Body::Memory(record) => record.timestamp_ms,
        }
    }
    /// The headers in order.
    pub fn headers(&self) -> Headers<'_> {
        match &self.body {
            Body::Client(message) => Headers::Client(message.headers()),
            Body::Memory(record) => Headers::Memory(record.headers.iter()),
        }
    }
    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len)
    }
}

/// Iterates over a record's headers.
pub enum Headers<'r> {
    /// Of a client's message.
    Client(raw::HeaderIter<'r>),
    /// Of a record in memory.
    Memory(std::slice::Iter<'r, Header>),
}

impl<'r> Iterator for Headers<'r> {
    type Item = (&'r str, Option<&'r [u8]>);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Client(headers) => headers.next(),
            Self::Memory(headers) => headers.next().map(|(name, value)| (name.as_str(), value.as_deref())),
        }
    }
}
