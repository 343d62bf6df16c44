//! Bytes to domain and back, pure: the records of the five topics as they stand in Kafka.
//!
//! Owns the decoder of commands, the encoders of completions, card records and dead letters, header names, and the
//! [`Outbox`] that collects a transaction's records. It must never do input or output, read a clock, or decide anything
//! that needs state.

mod bytes;
mod card;
mod command;
mod completion;
mod dead_letter;
mod fast;
mod headers;
mod json;
mod outbox;
mod partitioner;
mod replayed;
mod scan;
mod tree;

pub use card::{CardRecordError, decode_card, encode_card};
pub use command::{DecodeRules, Decoded, Decoder, KeyPolicy, UnknownFields};
pub use completion::{CompletionError, FirstCompletion, completion, decode_first_completion, encode_completion};
pub use dead_letter::{DeadRecord, Omit, dead_letter};
pub use headers::{REPLAY_SOURCE, SOURCE, Source, names, pass_through};
pub use outbox::{OutRecord, OutTopic, Outbox};
pub use partitioner::{murmur2, partition_of};
pub use replayed::{REDRIVE_SOURCE, REPLAY_ID, REPLAY_ORIGIN, is_kept, original_headers};
