//! Owns the list of fault tests: real faults of network, processes, brokers, disk and rights, under load, on brokers of their own.
//! Each is held against the model, and the time to recover is measured; a run ends with a table. Run with `cargo test --test faults
//! [NAME]`; `FAULTS_SEED` changes the random moments, `FAULTS_ROUNDS=N` makes storms N times as long.

// This binary is all test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod acl;
mod brokers;
mod cluster;
mod disk;
mod drive;
mod network;
mod processes;
mod proxy;
mod rig;
mod security;
mod soak;
#[path = "../broker/support/mod.rs"]
#[allow(dead_code, reason = "the broker tests use all of it")]
mod support;
mod table;
mod tls;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use rig::Rig;

type Test = (&'static str, fn(&Rig));

/// Names are the paths of the functions.
macro_rules! tests {
    ($($module:ident :: { $($name:ident),* $(,)? }),* $(,)?) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(&Rig))),*),*]
    };
}

/// Long ones first, so that the last thread does not end alone.
const TESTS: &[Test] = tests! {
    brokers::{
        the_only_broker_killed_and_restarted_loses_and_doubles_nothing,
        each_of_three_brokers_killed_in_turn_loses_and_doubles_nothing,
    },
    processes::{
        a_storm_of_kills_and_zombies_loses_and_doubles_nothing,
        told_to_end_while_another_joins_it_makes_its_last_checkpoint,
        one_of_two_workers_killed_is_replaced_by_the_other,
        zombies_that_wake_up_under_load_write_nothing_more,
        a_worker_killed_again_and_again_loses_and_doubles_nothing,
        a_client_without_processor_time_is_late_and_nothing_else,
    },
    soak::{
        memory_and_disk_stay_flat_and_each_command_has_one_answer,
    },
    network::{
        a_half_open_connection_is_noticed_and_left,
        a_storm_on_the_network_loses_and_doubles_nothing,
        a_narrow_link_makes_it_late_and_nothing_else,
        too_few_connections_are_waited_out,
        connections_that_are_cut_again_and_again_lose_and_double_nothing,
        a_long_delay_is_no_failure,
    },
    security::{
        an_expired_certificate_is_refused_and_said,
        a_missing_right_on_a_topic_is_named_with_topic_and_operation,
        a_worker_with_its_rights_works_over_tls,
    },
    disk::{
        a_full_disk_stops_no_answer_and_is_said,
        a_read_only_state_directory_stops_no_answer_and_is_said,
        an_unusable_state_directory_stops_no_answer_and_is_said,
        too_few_files_are_refused_by_name_and_the_fewest_suffice,
    },
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Brokers, workers and readers share the machine: more at once only moves time-outs nearer.
    arguments.test_threads.get_or_insert(2);
    let all = trials(&Err("not looked for".into()));
    let wanted = !arguments.list && all.iter().any(|t| !arguments.is_filtered_out(t));
    let wants = |t: &&Trial| !arguments.is_filtered_out(t);
    let unmounted = wanted && all.iter().filter(wants).any(|t| without_mounts(t.name()).is_err());
    let rig = if wanted { start() } else { Err("not needed".into()) };
    let mut all = trials(&rig);
    all.push(Trial::test("proxy::it_delays_narrows_cuts_and_loses", || {
        proxy::self_test();
        Ok(())
    }));
    let conclusion = libtest_mimic::run(&arguments, all);
    if let Ok(rig) = &rig {
        println!("{}", rig.table.text());
        rig.table.write().inspect(|path| println!("written to {}", path.display()));
    }
    if wanted && (rig.is_err() || unmounted) && std::env::var("REQUIRE_BROKER").is_ok_and(|v| v == "1") {
        eprintln!("REQUIRE_BROKER=1 and not all tests could run: no broker, or no right to mount");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn start() -> Result<Arc<Rig>, String> {
    let (seed, rounds) = (number("FAULTS_SEED", 1), number("FAULTS_ROUNDS", 1));
    eprintln!("FAULTS_SEED={seed} FAULTS_ROUNDS={rounds}");
    let rig = Rig::start(seed, rounds.max(1) as usize).map(Arc::new);
    if let Err(why) = &rig {
        eprintln!("\nFAULT TESTS NOT RUN: {why}\nThey want Java 17, Maven and openssl.\n");
    }
    rig
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => default,
    }
}

/// Every test, ready to run or to be reported as ignored with the reason.
fn trials(rig: &Result<Arc<Rig>, String>) -> Vec<Trial> {
    let trial = |(name, test): &Test| {
        let (rig, test) = (without_mounts(name).and_then(|()| rig.clone()), *test);
        Trial::ignorable_test(*name, move || match rig {
            Ok(rig) => {
                test(&rig);
                Ok(Completion::Completed)
            }
            Err(why) => Ok::<_, Failed>(Completion::ignored_with(format!("FAULT TESTS NOT RUN: {why}"))),
        })
    };
    TESTS.iter().map(trial).collect()
}

/// Why a test that mounts something cannot run, if so.
fn without_mounts(name: &str) -> Result<(), String> {
    let wants = name.contains("full_disk") || name.contains("read_only");
    if wants { disk::mounts().map(drop) } else { Ok(()) }
}
