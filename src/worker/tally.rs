//! What became of a batch's commands, counted before the commit and published after it.

use crate::domain::{DeadReason, ErrorCode};
use crate::kafka::Input;

/// What became of one command; the label `result` of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandResult {
    /// New and `ok`.
    Applied,
    /// Answered by the first completion again.
    Replayed,
    /// No answer, by configuration.
    Suppressed,
    /// `duplicate_request`.
    Duplicate,
    /// `request_id_conflict`.
    Conflict,
    /// Another error.
    Rejected,
    /// `stale_command`.
    Stale,
    /// A dead letter.
    DeadLetter,
}

impl CommandResult {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Applied,
        Self::Replayed,
        Self::Suppressed,
        Self::Duplicate,
        Self::Conflict,
        Self::Rejected,
        Self::Stale,
        Self::DeadLetter,
    ];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Replayed => "replayed",
            Self::Suppressed => "suppressed",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
            Self::Stale => "stale",
            Self::DeadLetter => "dead_letter",
        }
    }

    /// What an error code counts as.
    pub const fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::RequestIdConflict => Self::Conflict,
            ErrorCode::DuplicateRequest => Self::Duplicate,
            ErrorCode::StaleCommand => Self::Stale,
            _ => Self::Rejected,
        }
    }
}

/// The counts of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By input and result.
    pub results: [[u64; CommandResult::ALL.len()]; 2],
    /// By error code.
    pub rejections: [u64; ErrorCode::ALL.len()],
    /// By reason.
    pub dead: [u64; DeadReason::ALL.len()],
    /// Decisions whose time was held back by more than a second.
    pub clamped: u64,
}

impl Tally {
    /// Counts a command.
    pub const fn count(&mut self, input: Input, result: CommandResult) {
        self.results[input as usize][result as usize] += 1;
    }
    /// Counts an error's code.
    pub const fn reject(&mut self, code: ErrorCode) {
        self.rejections[code as usize] += 1;
    }
    /// Counts a dead letter's reason.
    pub const fn bury(&mut self, reason: DeadReason) {
        self.dead[reason as usize] += 1;
    }
    /// Counts another batch on top.
    pub fn add(&mut self, other: &Self) {
        let add = |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        self.results.iter_mut().zip(&other.results).for_each(|(a, b)| add(a, b));
        add(&mut self.rejections, &other.rejections);
        add(&mut self.dead, &other.dead);
        self.clamped += other.clamped;
    }
    /// All commands counted.
    pub fn commands(&self) -> u64 {
        self.results.iter().flatten().sum()
    }
}
