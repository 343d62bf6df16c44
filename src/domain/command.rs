//! A command that passed every check that needs no state, and where it came from.

use super::{Account, CardId, RequestId};

/// A valid card update. Borrows its accounts from the decoder, so that decoding allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The idempotency key.
    pub request_id: RequestId,
    /// The card to update.
    pub card_id: CardId,
    /// What to put on the card, in the order given; empty changes nothing.
    pub accounts: &'a [Account],
}

/// Where a command was read, as far as the rules depend on it. Times are milliseconds since the epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The commands topic: its order is the truth.
    Live {
        /// The record's offset.
        offset: i64,
        /// The record's timestamp, or the decision time when it has none.
        timestamp_ms: i64,
    },
    /// The backfill topic: only what is newer than the card is applied.
    Backfill {
        /// The offset in the commands topic that a replay carries; `None` for a command from elsewhere.
        replayed_offset: Option<i64>,
        /// The record's timestamp, or the decision time when it has none.
        timestamp_ms: i64,
    },
}

impl Origin {
    /// The command's own time.
    pub const fn timestamp_ms(&self) -> i64 {
        match self {
            Self::Live { timestamp_ms, .. } | Self::Backfill { timestamp_ms, .. } => *timestamp_ms,
        }
    }
    /// The offset that the accounts it creates carry.
    pub const fn source_offset(&self) -> Option<i64> {
        match self {
            Self::Live { offset, .. } => Some(*offset),
            Self::Backfill { replayed_offset, .. } => *replayed_offset,
        }
    }
}
