//! Backfills: what fills the backfill topic, and what came of it.
//!
//! Owns ranges, sources, the notes of how far a replay is, dead letters and their redrive. History comes in through the backfill
//! topic only, never through a second writer: nothing here may write to another topic of the worker (but where an operator
//! names one), commit an offset of its group, or decide what becomes of a command.

mod answers;
mod ledger;
mod letters;
mod lines;
mod notes;
mod outgoing;
mod own;
mod pace;
mod prepare;
mod range;
mod reading;
mod redrive;
mod replay;
mod report;
mod source;
mod tally;
mod workers;

pub use answers::{trim_processed, wait_for_answers};
pub use letters::{Letter, LetterFilter, Summary, masked_text, read_letters};
pub use lines::{Broken, Lines, readable_time, time_ms};
pub use notes::Progress;
pub use outgoing::{Placing, Stamp};
pub use own::Own;
pub use prepare::{Asked, Origin, Prepared, backfill_partitions, begin, disagreeing_key, find_own, prepare, resume};
pub use range::{Bound, Bounds, Misuse, Range, Span};
pub use redrive::{Redrive, Redriven, redrive_group};
pub use replay::{Ended, Manner, Replay, Seen, set_aside};
pub use report::{Report, ReportSpan};
pub use source::{Cards, Chunk, Source};
pub use tally::ReplayTally;
pub use workers::Workers;

use crate::kafka::Fault;

/// Why a backfill tool ends early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It was asked for something that cannot be meant: exit code 2.
    #[error("{0}")]
    Misuse(String),
    /// The same may succeed later: exit code 1; a replay goes on under its id.
    #[error("{0}")]
    Later(String),
    /// Something is wrong that a person must see to: exit code 1.
    #[error("{0}")]
    Stop(String),
}

impl From<Misuse> for Failed {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse.0)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Stop(error.to_string())
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Retry(cause) => Self::Later(cause),
            other => Self::Stop(other.to_string()),
        }
    }
}
