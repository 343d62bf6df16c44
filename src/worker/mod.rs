//! The worker: loops, restores and their lives in one process.
//!
//! Owns the order of the protocol ([`Loop::step`]): poll, decode, decide, stage, commit, apply. It must never apply what is
//! not committed (INV-1), decide before a partition is restored or after it was revoked (INV-6), or guess an outcome
//! (INV-7).

mod batch;
mod checks;
mod commit;
mod doctor;
mod inputs;
mod instruments;
mod lag;
mod leases;
mod lookout;
mod loops;
mod main_loop;
mod partition;
mod process;
mod queries;
mod rehearsal;
mod restore;
mod restorer;
mod rounds;
mod rules;
mod share;
mod snapshot;
mod stage;
mod status;
mod tally;
mod time;
mod topics;
mod verify;

pub use batch::{CommittedBatch, StagedBatch};
pub use checks::{Finding, TopicPlan, check_topics, plan_topics, wanted_topics};
pub use doctor::{Examined, Found, examine};
pub use leases::{Held, Leases};
pub use main_loop::{Flow, Loop, LoopParts};
pub use process::{Outcome, ProcessOptions, now_ms, run};
pub use queries::{Asked, Known, MAX_QUESTIONS, Question};
pub use rehearsal::{ChangedCard, Rehearsal};
pub use restore::StartAt;
pub use restorer::{Restored, Restorer, RestorerParts};
pub use rules::{BackfillCompletions, OnTrimmed, Rules};
pub use snapshot::{Snapshot, SnapshotParts};
pub use stage::{MAX_PARTITION_OUTPUT_BYTES, Stager};
pub use status::{InputStatus, PartitionState, PartitionStatus, Partitions, Status};
pub use tally::{CommandResult, Tally};
pub use topics::log_identity;
pub use verify::{Verified, verify_partition};

/// Why a loop or the process ends without being asked: one line that says what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stop(pub String);

#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod loop_tests;
#[cfg(test)]
mod restore_tests;
