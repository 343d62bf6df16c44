//! The real restorer on a small Kafka: where a partition goes on, and from what.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::loop_tests::running;
use super::rules::{OnTrimmed, Rules};
use super::simulation::SimKafka;
use super::simulation::{
    CutStore, Random, Worker, assert_answered_once, assert_is_fold, command, completions, dump, fold, garbage,
    no_store, pass_ms, restore, rules, sled,
};
use super::simulation::{Failure, Topic};
use super::{StartAt, restorer::RestoredState};
use crate::kafka::{InputOffsets, Log, MemoryRecord};
use crate::wire::{OutTopic, Outbox};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Six processed records of partition 0, the last of them a dead letter; then two that wait.
fn processed() -> SimKafka {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    (0..5).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    kafka.append(Topic::Commands, 0, garbage(10));
    worker.drain();
    worker.kill();
    (6..8).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    kafka
}

fn restored(kafka: &SimKafka, start_at: Option<StartAt>, rules: Rules) -> Result<RestoredState, String> {
    restore(kafka, 0, no_store(), start_at, rules)
}

fn failure(kafka: &SimKafka, start_at: Option<StartAt>) -> String {
    restored(kafka, start_at, rules()).err().expect("the restore stops")
}

// --- where the inputs go on ---

#[test]
fn lost_offsets_are_never_guessed() {
    let kafka = processed();
    kafka.set_committed(0, InputOffsets::default());
    let why = failure(&kafka, None);
    assert!(why.contains("in/live partition 0") && why.contains("--start-at"), "{why}");
    assert!(why.contains("offsets 0 to 8") && why.contains("the last answered offset found is 5"), "{why}");
    for (start_at, live) in [(StartAt::Answered, 6), (StartAt::Earliest, 0), (StartAt::Latest, 8)] {
        let state = restored(&kafka, Some(start_at), rules()).unwrap();
        assert_eq!((state.live, state.backfill), (live, 0), "{start_at:?}");
        assert_eq!(state.committed, InputOffsets::default());
        assert_eq!(dump(&state.projection), fold(&kafka, 0));
    }
}

#[test]
fn the_last_answer_is_found_among_dead_letters_and_completions_of_each_input() {
    let kafka = processed();
    let mut worker = Worker::start(&kafka, no_store(), rules());
    kafka.expel(0, worker.member);
    (0..3).for_each(|i| kafka.append(Topic::Backfill, 0, command(20 + i, 20 + i, &[(0, i)])));
    worker.drain();
    kafka.set_committed(0, InputOffsets::default());
    let state = restored(&kafka, Some(StartAt::Answered), rules()).unwrap();
    assert_eq!((state.live, state.backfill), (8, 3));
    // The live offset alone is not enough where the backfill input was answered too.
    kafka.set_committed(0, InputOffsets { live: Some(8), backfill: None });
    let why = failure(&kafka, None);
    assert!(why.contains("in/back partition 0") && why.contains("the last answered offset found is 2"), "{why}");
    // What was answered and is no longer there is not read again.
    kafka.set_committed(0, InputOffsets::default());
    kafka.append(Topic::Commands, 0, command(40, 4, &[]));
    kafka.append(Topic::Commands, 0, command(41, 4, &[]));
    kafka.trim(Topic::Commands, 0, 9);
    assert_eq!(restored(&kafka, Some(StartAt::Answered), rules()).unwrap().live, 9);
}

#[test]
fn a_backfill_offset_that_was_never_committed_is_a_first_start_of_it() {
    let kafka = processed();
    kafka.append(Topic::Backfill, 0, command(50, 50, &[]));
    kafka.set_committed(0, InputOffsets { live: Some(6), backfill: None });
    let state = restored(&kafka, None, rules()).unwrap();
    assert_eq!((state.live, state.backfill), (6, 0));
}

#[test]
fn outputs_that_were_never_committed_are_no_evidence_of_an_earlier_run() {
    let kafka = SimKafka::default();
    kafka.append(Topic::Commands, 0, command(1, 1, &[(0, 1)]));
    let mut log = kafka.join();
    kafka.assign(0, &[0]);
    log.events().unwrap();
    log.start(0, 0, 0).unwrap();
    kafka.script([Some(Failure::Abort)]);
    log.transact(&outbox(), &[(0, InputOffsets { live: Some(1), backfill: Some(0) })]).unwrap_err();
    assert!(kafka.end(Topic::Completions, 0) > 0);
    let state = restored(&kafka, None, rules()).unwrap();
    assert_eq!((state.live, state.backfill), (0, 0));
}

#[test]
fn inputs_trimmed_past_the_committed_offset_stop_the_worker_with_the_range() {
    let kafka = processed();
    kafka.trim(Topic::Commands, 0, 7);
    let why = failure(&kafka, None);
    assert!(why.contains("offsets 6 to 6 were deleted") && why.contains("starts at 7"), "{why}");
    let skip = Rules { on_trimmed: OnTrimmed::Skip, ..rules() };
    assert_eq!(restored(&kafka, None, skip.clone()).unwrap().live, 7);
    let mut worker = Worker::with(&kafka, no_store(), skip, &[0]);
    worker.drain();
    assert_eq!(completions(&kafka, 0).iter().map(|a| a.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 7]);
    assert_is_fold(&worker, 0);
}

#[test]
fn an_input_trimmed_under_a_running_worker_stops_it_with_the_range() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    (0..4).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[])));
    kafka.trim(Topic::Commands, 0, 2);
    let why = worker.until_stopped();
    assert!(why.contains("offsets 0 to 1 were deleted"), "{why}");
}

#[test]
fn a_committed_offset_beyond_the_end_is_another_log() {
    let kafka = processed();
    for (committed, topic) in [((9, 0), "in/live"), ((6, 1), "in/back")] {
        kafka.set_committed(0, InputOffsets { live: Some(committed.0), backfill: Some(committed.1) });
        let why = failure(&kafka, None);
        assert!(why.contains(topic) && why.contains("truncated or made anew"), "{why}");
    }
    kafka.set_committed(0, InputOffsets { live: Some(8), backfill: Some(0) });
    assert_eq!(restored(&kafka, None, rules()).unwrap().live, 8, "the end itself is none");
}

fn outbox() -> Arc<Outbox> {
    let mut outbox = Outbox::default();
    outbox.begin(OutTopic::Completions, 0, 1, 0);
    outbox.end();
    Arc::new(outbox)
}

#[test]
fn inv_6_a_restore_waits_out_a_predecessors_open_transaction() {
    let kafka = processed();
    let mut dying = kafka.join();
    kafka.assign(dying.member, &[0]);
    dying.events().unwrap();
    dying.start(0, 6, 0).unwrap();
    kafka.script([Some(Failure::UnknownOpen)]);
    dying.transact(&outbox(), &[(0, InputOffsets { live: Some(8), backfill: Some(0) })]).unwrap_err();
    let mut worker = Worker::with(&kafka, no_store(), rules(), &[0]);
    for _ in 0..20 {
        worker.step().unwrap();
        assert!(worker.runs(0).is_none());
    }
    kafka.expel(dying.member, worker.member);
    worker.drain();
    assert_answered_once(&kafka, 0);
    assert_is_fold(&worker, 0);
}

#[test]
fn a_window_that_has_passed_is_forgotten_by_worker_and_restore_alike() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    for i in 0..20 {
        kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)]));
        worker.drain();
        pass_ms(rules().window_ms / 10);
    }
    assert_is_fold(&worker, 0);
    assert!(fold(&kafka, 0).1.len() <= 11);
    (0..20).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    worker.drain();
    let again: Vec<bool> = completions(&kafka, 0)[20..].iter().map(|a| a.replayed).collect();
    assert_eq!(again.iter().filter(|r| !**r).count(), 10, "{again:?}");
    assert_is_fold(&worker, 0);
}

// --- checkpoints ---

/// Rules under which a round is nearly always under way, and batches go on beside it.
fn restless() -> Rules {
    Rules { batch_max_records: 10, checkpoint_max_tail: 5, ..rules() }
}

#[test]
fn inv_2_a_worker_killed_between_any_two_blocks_comes_back_as_the_fold() {
    let (kafka, dir, mut random) = (SimKafka::default(), tempfile::tempdir().unwrap(), Random(7));
    let (mut from_checkpoint, mut request, mut former) = (0, 0, None);
    for life in 0..40 {
        let disk = sled(dir.path());
        let state = restore(&kafka, 0, disk.clone(), Some(StartAt::Earliest), rules()).unwrap();
        assert_eq!(dump(&state.projection), fold(&kafka, 0), "life {life}: from what the kill left");
        from_checkpoint += u32::from(!state.round_due);
        drop(state);
        let cut = Arc::new(CutStore { inner: disk, left: AtomicUsize::new(1 + random.below(25) as usize) });
        let mut worker = Worker::start(&kafka, cut.clone(), restless());
        match former.replace(worker.member) {
            None => kafka.assign(worker.member, &[0]),
            Some(former) => kafka.expel(former, worker.member),
        }
        for _ in 0..40 {
            // Cards large enough that their blocks double from life to life.
            let many: Vec<(usize, u64)> = (0..30).map(|place| (place, random.below(1000))).collect();
            request += u64::from(!random.chance(10));
            kafka.append(Topic::Commands, 0, command(request, random.below(300), &many));
        }
        worker.until("cut or done", |worker| {
            let at_rest = worker.runs(0).is_some_and(|r| !r.projection.in_round());
            cut.is_cut() || at_rest && worker.is_drained()
        });
        worker.kill();
    }
    assert!(from_checkpoint > 20, "{from_checkpoint} lives began with a checkpoint");
    let mut worker = Worker::start(&kafka, sled(dir.path()), rules());
    kafka.expel(former.unwrap(), worker.member);
    worker.drain();
    assert_answered_once(&kafka, 0);
    assert_is_fold(&worker, 0);
    worker.end();
    let state = restore(&kafka, 0, sled(dir.path()), None, rules()).unwrap();
    assert!(!state.round_due, "an end in order leaves a checkpoint");
    assert_eq!(dump(&state.projection), fold(&kafka, 0));
}

#[test]
fn inv_3_an_end_in_order_leaves_nothing_to_replay() {
    let (kafka, dir) = (SimKafka::default(), tempfile::tempdir().unwrap());
    let mut worker = Worker::with(&kafka, sled(dir.path()), rules(), &[0, 1]);
    for i in 0..100 {
        kafka.append(Topic::Commands, (i % 2) as i32, command(i, i % 9, &[(0, i)]));
    }
    worker.drain();
    worker.end();
    let disk = sled(dir.path());
    for partition in [0, 1] {
        let tree = crate::projection::Tree::new(partition, disk.clone(), Arc::default());
        let opened =
            crate::projection::Projection::open(tree, super::simulation::identity(), rules().window_ms).unwrap();
        assert!(opened.from_checkpoint);
        let at = opened.projection.positions();
        assert_eq!(
            (at.cards, at.completions),
            (kafka.end(Topic::Cards, partition), kafka.end(Topic::Completions, partition))
        );
        assert_eq!(dump(&opened.projection), fold(&kafka, partition));
    }
}

#[test]
fn a_checkpoint_ahead_of_the_logs_is_discarded() {
    let (kafka, dir) = (SimKafka::default(), tempfile::tempdir().unwrap());
    let mut worker = Worker::with(&kafka, sled(dir.path()), rules(), &[0]);
    (0..20).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    worker.drain();
    worker.end();
    let again = SimKafka::default();
    let mut other = running(&again, rules(), &[0]);
    again.append(Topic::Commands, 0, command(1, 1, &[(0, 77)]));
    other.drain();
    let state = restore(&again, 0, sled(dir.path()), None, rules()).unwrap();
    assert!(state.round_due, "another log's checkpoint is not taken");
    assert_eq!(dump(&state.projection), fold(&again, 0));
}

#[test]
fn a_checkpoint_behind_which_the_cards_log_was_trimmed_is_discarded() {
    let (kafka, dir) = (SimKafka::default(), tempfile::tempdir().unwrap());
    let mut worker = Worker::with(&kafka, sled(dir.path()), rules(), &[0]);
    (0..20).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    worker.drain();
    worker.end();
    let end = kafka.end(Topic::Cards, 0);
    kafka.trim(Topic::Cards, 0, end);
    let state = restore(&kafka, 0, sled(dir.path()), None, rules()).unwrap();
    assert!(!state.round_due, "nothing behind the checkpoint is missing");
    drop(state);
    kafka.append(Topic::Cards, 0, MemoryRecord::default());
    kafka.trim(Topic::Cards, 0, end + 1);
    let state = restore(&kafka, 0, sled(dir.path()), None, rules()).unwrap();
    assert!(state.round_due, "what was trimmed may have changed any card");
    assert_eq!(dump(&state.projection).0, fold(&kafka, 0).0);
}

#[test]
fn a_revoked_partition_is_checkpointed_before_it_goes() {
    let (kafka, dir) = (SimKafka::default(), tempfile::tempdir().unwrap());
    let disk = sled(dir.path());
    let mut first = Worker::with(&kafka, disk.clone(), rules(), &[0]);
    let mut second = Worker::start(&kafka, no_store(), rules());
    (0..50).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    first.drain();
    kafka.revoke(0, second.member);
    first.step().unwrap();
    let state = restore(&kafka, 0, disk, None, rules()).unwrap();
    assert!(!state.round_due);
    assert_eq!(dump(&state.projection), fold(&kafka, 0));
    drop(state);
    second.drain();
    assert_is_fold(&second, 0);
}

#[test]
fn inv_2_the_ends_of_a_log_that_another_owner_writes_begin_no_round() {
    let (kafka, dir) = (SimKafka::default(), tempfile::tempdir().unwrap());
    let disk = sled(dir.path());
    let mut first = Worker::with(&kafka, disk.clone(), restless(), &[0]);
    let mut second = Worker::start(&kafka, no_store(), rules());
    first.drain();
    (0..30).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    // Its tail is long enough for a round; before the ends come, another owner goes on, and nobody tells the first.
    first.until("the ends are asked for", |w| w.runs(0).is_some_and(|r| r.ends_requested));
    kafka.deafen(first.member, true);
    kafka.lose(0, second.member);
    (100..150).for_each(|i| kafka.append(Topic::Commands, 0, command(i, i, &[(0, i)])));
    second.drain();
    let stale = first.state(0);
    first.steps(6);
    assert_eq!(first.state(0), stale);
    assert!(!first.runs(0).unwrap().projection.in_round(), "a round would claim what another has written");
    kafka.deafen(first.member, false);
    first.step().unwrap();
    let state = restore(&kafka, 0, disk, None, rules()).unwrap();
    assert_eq!(dump(&state.projection), fold(&kafka, 0));
}
