//! Owns the list of broker tests: the promises of the worker, checked from outside on a real Kafka. The names read as requirements;
//! `inv_N` marks the invariant of `src/lib.rs` that a test would see broken. Run with `cargo test --test broker [NAME]`.

// This binary is all test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod backfill;
mod broker_faults;
mod crash;
mod dead_letters;
mod duplicates;
mod example;
mod harness;
mod load;
mod members;
mod offsets;
mod prometheus;
mod redrive;
mod rejections;
mod replay;
mod start;
mod state_dir;
mod state_tools;
mod support;
mod watching;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use support::Ctx;
use support::broker::Broker;

type Test = (&'static str, fn(&Ctx));

/// Names are the paths of the functions: `crash::a_killed_worker_repeats_no_completion`.
macro_rules! tests {
    ($($module:ident :: { $($name:ident),* $(,)? }),* $(,)?) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(&Ctx))),*),*]
    };
}

/// Those that do things to a broker that nobody else may notice: they start one of their own, which only the Java way can.
const OWN_BROKER_TESTS: &[Test] = tests! {
    broker_faults::{
        inv_7_a_broker_killed_again_and_again_under_load_makes_nothing_unknown,
        inv_9_a_worker_ends_in_time_while_its_broker_stands_still,
    },
    watching::{ a_worker_whose_broker_is_away_is_alive_and_not_ready },
    prometheus::{ a_partition_whose_broker_stands_still_pages_until_it_goes_on },
    replay::{ a_topic_of_another_cluster_is_compared_by_time_and_placed_by_key },
};

/// Long ones first, so that the last thread does not end alone.
const TESTS: &[Test] = tests! {
    load::{ inv_4_each_of_100_000_mixed_commands_is_answered_exactly_once },
    crash::{
        inv_2_twenty_four_kills_under_load_lose_and_double_nothing,
        inv_8_a_zombie_that_wakes_up_writes_nothing_more,
        inv_8_a_fenced_instance_writes_nothing_more,
        a_killed_worker_repeats_no_completion,
    },
    replay::{
        a_fresh_group_fed_by_a_replay_that_is_killed_reaches_the_live_cards,
        a_replay_that_is_killed_sends_each_record_once_with_time_headers_and_position,
        a_file_fills_a_cluster_and_its_broken_lines_are_never_skipped,
        the_tally_of_a_dry_run_is_that_of_the_replay,
        a_whole_topic_replayed_onto_a_live_projection_changes_nothing,
        a_replay_beyond_the_window_changes_nothing_that_is_newer,
        a_range_is_what_was_asked_and_what_is_gone_is_said,
        an_interrupted_replay_that_retention_overtakes_says_what_is_gone,
        live_commands_are_answered_before_a_backlog_of_backfill,
    },
    redrive::{
        a_mended_dead_letter_is_sent_again_once_and_never_overwrites_newer_accounts,
        dead_letters_are_found_by_reason_time_and_place_and_shown_masked,
    },
    state_tools::{
        a_card_and_a_request_are_shown_by_a_worker_that_runs_and_by_its_directory,
        verify_finds_what_differs_from_the_topics,
        drop_asks_first_and_the_next_start_restores,
    },
    members::{
        inv_6_processes_that_join_and_leave_under_load_decide_each_command_once,
        the_loops_of_one_process_share_the_partitions,
        two_workers_on_one_host_never_fence_each_other,
        a_standby_that_takes_over_answers_as_the_owner_would,
        a_state_directory_in_use_is_refused,
    },
    offsets::{
        topics_made_anew_under_a_running_worker_stop_it,
        topics_made_anew_under_a_stopped_worker_are_refused_until_accepted,
        a_cards_topic_made_anew_is_refused_by_name,
        a_commands_topic_made_anew_is_refused_by_name,
        deleted_group_offsets_are_refused_and_start_at_answered_doubles_nothing,
        deleted_group_offsets_are_refused_without_a_state_directory_too,
        an_input_trimmed_past_the_committed_offset_is_refused_with_the_range,
        an_input_trimmed_behind_the_committed_offset_is_no_matter,
    },
    state_dir::{
        inv_2_a_bit_flipped_state_directory_gives_no_wrong_answer,
        inv_2_a_truncated_state_directory_gives_no_wrong_answer,
        a_deleted_state_directory_is_restored_from_the_topics,
        an_intact_state_directory_is_used,
        sigterm_leaves_nothing_uncommitted_and_the_next_start_is_quick,
        an_idle_worker_ends_at_once,
    },
    load::{
        inv_3_frequent_checkpoints_leave_the_fold_of_the_topics,
        commands_of_one_card_apply_in_order,
        aborted_records_of_an_upstream_are_never_seen,
    },
    start::{
        a_partition_count_that_changes_under_a_running_worker_stops_it,
        a_partition_count_that_changed_since_the_last_run_is_refused,
        a_missing_topic_is_refused_with_the_command_that_makes_it,
        topics_apply_makes_what_a_run_needs_from_nothing,
        unequal_partition_counts_are_refused,
        a_cards_topic_that_is_not_compact_only_is_refused,
        a_completions_retention_below_the_window_is_refused,
        another_partition_count_than_configured_is_refused,
        a_dead_letter_topic_that_is_too_narrow_is_named,
    },
    duplicates::{
        an_id_is_new_again_when_the_window_is_over_also_after_a_restart,
        a_duplicate_is_answered_with_the_first_answer,
        a_duplicate_is_silent_under_suppress,
        a_duplicate_is_an_error_under_error,
        a_reused_id_with_other_content_conflicts_and_changes_nothing,
        a_rejected_command_may_be_corrected_under_its_id,
        the_memory_survives_the_loss_of_the_state_directory,
    },
    backfill::{
        a_replay_is_stale_by_its_source_position,
        a_backfill_from_elsewhere_is_stale_by_its_timestamp,
        a_backfilled_command_is_answered_like_a_live_one,
        only_applied_backfill_is_answered_where_so_configured,
    },
    dead_letters::{
        every_dead_letter_is_the_record_as_it_came_with_its_reason,
        bad_input_of_every_kind_is_answered_and_stops_nothing,
        a_command_without_a_timestamp_is_stamped_with_the_decision_time,
        a_record_too_large_for_the_dead_letter_topic_goes_there_without_its_value,
        inv_10_no_payload_value_is_ever_logged,
    },
    watching::{
        every_metric_of_the_contract_is_exposed_and_counts,
        lag_is_exactly_0_behind_a_transaction_marker,
        a_restore_in_progress_is_seen_and_what_waits_behind_it,
        a_worker_whose_loop_is_stuck_is_not_alive,
        the_read_api_shows_masked_accounts_and_outcomes,
        the_read_api_wants_a_token_beyond_loopback,
        spans_of_sampled_commands_reach_the_collector,
    },
    prometheus::{
        all_that_rules_and_dashboard_ask_for_is_there,
        a_partition_whose_restore_stands_still_pages_until_it_goes_on,
        commands_that_wait_too_long_page_until_they_are_answered,
    },
    rejections::{
        every_rejection_has_its_code_and_its_path,
        what_is_accepted_can_be_widened_by_configuration,
    },
    harness::{ what_is_sent_is_read_back_byte_for_byte, the_tools_of_the_tests_do_what_they_say },
    example::{
        the_example_of_the_api_succeeds,
        a_replayed_answer_keeps_its_bytes_after_the_offset_was_reconfigured,
    },
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Broker, workers and readers share the machine: more at once only moves time-outs nearer.
    arguments.test_threads.get_or_insert(2);
    let all = trials(&Err("not looked for".into()));
    let wanted = !arguments.list && all.iter().any(|t| !arguments.is_filtered_out(t));
    let unwatched =
        wanted && all.iter().any(|t| !arguments.is_filtered_out(t) && without_prometheus(t.name()).is_err());
    let broker = if wanted { Broker::find() } else { Err("not needed".into()) };
    match &broker {
        Ok(broker) => {
            eprintln!("broker: {} {} Kafka {}", broker.how, broker.bootstrap, broker.version);
        }
        Err(why) if wanted => not_run(why),
        Err(_) => {}
    }
    let mut all = trials(&broker);
    all.push(Trial::test("model::the_generator_makes_every_kind_of_command", || {
        support::generate::self_test();
        Ok(())
    }));
    let conclusion = libtest_mimic::run(&arguments, all);
    let missing = wanted && broker.is_err();
    drop(broker);
    if missing && required("REQUIRE_BROKER") {
        eprintln!("REQUIRE_BROKER=1 and there is no broker");
        return ExitCode::FAILURE;
    }
    if unwatched && required("REQUIRE_PROMETHEUS") {
        eprintln!("REQUIRE_PROMETHEUS=1 and there is no prometheus");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn required(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|v| v == "1")
}

fn not_run(why: &str) {
    eprintln!("\n************************************************************************");
    eprintln!("BROKER TESTS NOT RUN: {why}");
    eprintln!("Set KAFKA_BOOTSTRAP_SERVERS, or start Docker, or install Java 17 and Maven.");
    eprintln!("************************************************************************\n");
}

/// Every test, ready to run or to be reported as ignored with the reason.
fn trials(broker: &Result<Broker, String>) -> Vec<Trial> {
    let context = match broker {
        Ok(broker) => Ok(Arc::new(Ctx { bootstrap: broker.bootstrap.clone() })),
        Err(why) => Err(format!("BROKER TESTS NOT RUN: {why}")),
    };
    let own = match broker {
        Ok(broker) if broker.how != "java" => {
            Err(format!("starts a broker of its own, which the way \"{}\" cannot", broker.how))
        }
        _ => context.clone(),
    };
    let with = |tests: &'static [Test], context: Result<Arc<Ctx>, String>| {
        tests.iter().map(move |(name, test)| {
            let context = without_prometheus(name).and_then(|()| context.clone());
            trial(name, *test, context)
        })
    };
    with(OWN_BROKER_TESTS, own).chain(with(TESTS, context)).collect()
}

/// Why a test that wants a Prometheus cannot run, if so.
fn without_prometheus(name: &str) -> Result<(), String> {
    match name.starts_with("prometheus::") {
        true => prometheus::program().map(drop).map_err(|why| format!("PROMETHEUS TESTS NOT RUN: {why}")),
        false => Ok(()),
    }
}

fn trial(name: &str, test: fn(&Ctx), context: Result<Arc<Ctx>, String>) -> Trial {
    Trial::ignorable_test(name, move || match &context {
        Ok(context) => {
            test(context);
            Ok(Completion::Completed)
        }
        Err(why) => Ok::<_, Failed>(Completion::ignored_with(why)),
    })
}
