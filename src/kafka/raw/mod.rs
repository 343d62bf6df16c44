//! The thin layer over librdkafka's C interface, where rdkafka's own costs too much or has no call: the only `unsafe` of the
//! project.
//!
//! Owns batch consumption through a private queue, producing without a future for each record, the transactional calls,
//! descriptions of topics, the ends of many logs in one request, and the waking of threads that fetch. It must never decide anything:
//! it translates, and each block says why it is sound.
#![allow(unsafe_code)]

mod admin;
mod ends;
mod message;
mod produce;
mod request;

pub use admin::{TopicDescription, describe_topics};
pub use ends::{LogPlace, list_ends, wake_fetching};
pub use message::{Consumer, HeaderIter, Message, RawReader, ReadEvent};
pub use produce::{CallError, Transactions, membership};

use std::ffi::CString;

/// A name for C; names of topics and headers come from configuration or the wire, where a NUL cannot stand.
fn c_name(name: &str) -> CString {
    CString::new(name.replace('\0', "")).unwrap_or_default()
}
