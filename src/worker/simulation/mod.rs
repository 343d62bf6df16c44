//! A simulated Kafka and store, on which the real loop, restorer, projection and checkpoint run, stepped by simulated time.
//!
//! One seed decides everything: which commands come, which calls fail and how, who is killed, frozen or moved, what the disk loses,
//! and in which order everything takes its turns. So a failing seed fails again the same way. It must never be part of what is
//! deployed: only tests and the feature `simulation` have it.

// All of this is test code: a failed expectation is a failed run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cluster;
mod commands;
mod faults;
mod kafka;
mod log;
mod model;
mod plan;
mod process;
mod reader;
mod said;
mod store;
mod world;

pub use cluster::{Asked, Failure, Topic};
pub use commands::{Random, card_id, command, garbage, now_ms, pass_ms, replayed, request_id, rules};
pub use kafka::SimKafka;
pub use log::SimLog;
pub use process::{Worker, identity, restore};
pub use said::{Answer, assert_answered_once, assert_is_fold, completions, dead_letters, dump, fold};
pub use store::{CutStore, SimStore, no_store, sled};

use crate::mutation::{self, Mutation};
use crate::projection::make_small;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds within which each bug is seen: many times the first that sees the rarest, as any change of a schedule moves it.
pub const SEEDS_OF_A_BUG: u64 = 10_000;

/// Runs a seed, with a bug or without; gives a number that two runs of a seed share, or what was seen to be wrong.
pub fn run(seed: u64, bug: Option<Mutation>) -> Result<u64, String> {
    mutation::set(bug);
    make_small(true);
    let run = catch_unwind(AssertUnwindSafe(|| world::World::new(seed).run()));
    mutation::set(None);
    make_small(false);
    run.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests;
