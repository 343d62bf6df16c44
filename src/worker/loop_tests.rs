//! The real loop on a small Kafka: what it answers, in which transactions, and for whom.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::main_loop::Flow;
use super::rules::Rules;
use super::simulation::SimKafka;
use super::simulation::{
    Answer, Worker, assert_answered_once, assert_is_fold, command, completions, dead_letters, fold, garbage, no_store,
    now_ms, pass_ms, replayed, rules, sled,
};
use super::simulation::{Asked, Failure, Topic};
use super::stage::MAX_PARTITION_OUTPUT_BYTES;
use crate::domain::OnDuplicate;
use crate::kafka::{Input, InputOffsets, MemoryRecord};
use crate::projection::make_small;
use std::time::Duration;

/// A worker without a disk that has taken up its partitions.
pub fn running(kafka: &SimKafka, rules: Rules, partitions: &[i32]) -> Worker {
    let mut worker = Worker::with(kafka, no_store(), rules, partitions);
    worker.drain();
    worker
}

fn live(kafka: &SimKafka, partition: i32, record: MemoryRecord) {
    kafka.append(Topic::Commands, partition, record);
}

fn whys(answers: &[Answer]) -> Vec<(i64, &str)> {
    answers
        .iter()
        .map(|a| {
            (
                a.offset,
                if a.replayed {
                    "replayed"
                } else if a.ok {
                    "ok"
                } else {
                    a.why.as_str()
                },
            )
        })
        .collect()
}

#[test]
fn a_first_start_commits_both_offsets_without_a_record() {
    let kafka = SimKafka::default();
    (0..3).for_each(|i| live(&kafka, 1, command(i, 1, &[])));
    kafka.trim(Topic::Commands, 1, 3);
    running(&kafka, rules(), &[0, 1]);
    assert_eq!(kafka.committed(0), InputOffsets { live: Some(0), backfill: Some(0) });
    assert_eq!(kafka.committed(1), InputOffsets { live: Some(3), backfill: Some(0) });
    let asked = kafka.asked();
    assert!(asked.iter().all(|a| a.bytes.is_empty()), "{asked:?}");
    assert!([Topic::Cards, Topic::Completions, Topic::DeadLetters].iter().all(|t| kafka.end(*t, 0) == 0));
}

#[test]
fn an_idle_loop_writes_nothing() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    let before = kafka.asked().len();
    (0..100).for_each(|_| assert_eq!(worker.step(), Ok(Flow::Idle)));
    assert_eq!(kafka.asked().len(), before);
    // Only the backfill's offset is committed again before Kafka would let it expire.
    pass_ms(13 * 3600 * 1000);
    worker.steps(100);
    let asked = kafka.asked();
    assert_eq!(asked.len(), before + 1);
    assert_eq!(asked[before].offsets, [(0, InputOffsets { live: Some(0), backfill: Some(0) })]);
}

/// A transaction at the end may hang in the client: one that is not needed is not begun.
#[test]
fn a_loop_that_changed_nothing_since_its_last_round_ends_without_a_transaction() {
    let kafka = SimKafka::default();
    let dir = tempfile::tempdir().unwrap();
    let start = || Worker::with(&kafka, sled(dir.path()), rules(), &[0]);
    let ends_with = |mut worker: Worker, transactions: usize| {
        worker.steps(100);
        let before = kafka.asked().len();
        worker.end();
        assert_eq!(kafka.asked().len() - before, transactions);
    };
    ends_with(start(), 0);
    let mut changed = start();
    // The first round begins with the first change.
    for request in 1..3 {
        live(&kafka, 0, command(request, 1, &[(0, request)]));
        changed.drain();
        changed.steps(100);
    }
    ends_with(changed, 1);
    ends_with(start(), 0);
}

/// Between two generations the group takes no offsets.
#[test]
fn a_loop_that_ends_while_the_group_rebalances_makes_its_last_checkpoint() {
    let kafka = SimKafka::default();
    let dir = tempfile::tempdir().unwrap();
    let start = || Worker::with(&kafka, sled(dir.path()), rules(), &[0]);
    let mut worker = start();
    worker.steps(100);
    for request in 1..3 {
        live(&kafka, 0, command(request, 1, &[(0, request)]));
        worker.drain();
        worker.steps(100);
    }
    kafka.outdate(worker.member);
    kafka.script([Some(Failure::NotOwner), Some(Failure::Abort)]);
    let before = kafka.asked().len();
    worker.end();
    assert_eq!(kafka.asked().len() - before, 4, "refused three times");
    let mut next = start();
    next.steps(100);
    let before = kafka.asked().len();
    next.end();
    assert_eq!(kafka.asked().len(), before, "it has nothing to write");
}

#[test]
fn inv_4_each_record_has_one_answer_and_offsets_follow() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0, 1]);
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    live(&kafka, 0, garbage(50));
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    live(&kafka, 0, command(1, 1, &[(0, 2)]));
    live(&kafka, 0, command(2, 1, &[(399, 1), (400, 1)]));
    live(&kafka, 0, MemoryRecord { key: None, ..command(3, 1, &[]) });
    live(&kafka, 1, command(1, 9, &[]));
    kafka.append(Topic::Backfill, 0, replayed(command(4, 1, &[(0, 3)]), 0, 0));
    kafka.append(Topic::Backfill, 0, command(5, 2, &[(0, 4)]));
    worker.drain();
    let (first, second): (Vec<_>, Vec<_>) = completions(&kafka, 0).into_iter().partition(|a| a.input == Input::Live);
    assert_eq!(
        whys(&first),
        [(0, "ok"), (2, "replayed"), (3, "request_id_conflict"), (4, "invalid_account_type"), (5, "key_mismatch")]
    );
    assert_eq!(whys(&second), [(0, "stale_command"), (1, "ok")]);
    assert_eq!(whys(&dead_letters(&kafka, 0)), [(1, "malformed_json")]);
    assert_eq!(kafka.committed(0), InputOffsets { live: Some(6), backfill: Some(2) });
    assert_eq!(kafka.committed(1), InputOffsets { live: Some(1), backfill: Some(0) });
    for partition in [0, 1] {
        assert_answered_once(&kafka, partition);
        assert_is_fold(&worker, partition);
    }
}

#[test]
fn repeated_commands_in_one_batch_get_what_is_configured() {
    let table = [
        (OnDuplicate::Replay, vec![(0, "ok"), (1, "replayed"), (2, "request_id_conflict"), (3, "replayed")]),
        (OnDuplicate::Suppress, vec![(0, "ok"), (2, "request_id_conflict")]),
        (
            OnDuplicate::Error,
            vec![(0, "ok"), (1, "duplicate_request"), (2, "request_id_conflict"), (3, "duplicate_request")],
        ),
    ];
    for (on_duplicate, expected) in table {
        let kafka = SimKafka::default();
        let mut worker = running(&kafka, Rules { on_duplicate, ..rules() }, &[0]);
        let before = kafka.asked().len();
        for number in [1, 1, 2, 1] {
            live(&kafka, 0, command(7, 1, &[(0, number)]));
        }
        worker.drain();
        assert_eq!(kafka.asked().len(), before + 1, "one batch");
        let answers = completions(&kafka, 0);
        assert_eq!(whys(&answers), expected, "{on_duplicate:?}");
        let first = answers[0].record.value.clone();
        assert!(answers.iter().filter(|a| a.replayed).all(|a| a.record.value == first), "byte for byte the first one");
        assert_eq!(kafka.committed(0).live, Some(4));
        assert_eq!(kafka.records(Topic::Cards, 0).len(), 1);
        assert_is_fold(&worker, 0);
    }
}

#[test]
fn a_card_has_one_record_a_batch_and_it_is_the_last() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    for place in 0..5 {
        live(&kafka, 0, command(place, 1, &[(place as usize, place), (9, place)]));
        live(&kafka, 0, command(100 + place, 2, &[(0, place)]));
    }
    live(&kafka, 0, command(200, 3, &[]));
    worker.drain();
    assert_eq!(kafka.records(Topic::Cards, 0).len(), 2);
    let (cards, requests) = worker.state(0);
    let mut sizes: Vec<usize> = cards.values().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!((sizes, requests.len()), (vec![1, 6], 11));
    assert_is_fold(&worker, 0);
    live(&kafka, 0, command(300, 1, &[(0, 77)]));
    worker.drain();
    assert_eq!(kafka.records(Topic::Cards, 0).len(), 3);
    assert_is_fold(&worker, 0);
}

#[test]
fn a_partition_with_much_output_is_split_without_reordering_and_holds_up_no_other() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0, 1]);
    let before = kafka.asked().len();
    let many: Vec<(usize, u64)> = (0..380).map(|place| (place, 1)).collect();
    for i in 0..40 {
        // 54 KB of card record each, and now and then a dead letter as large as its command.
        live(&kafka, 0, if i % 8 == 7 { garbage(200_000) } else { command(i, i, &many) });
    }
    (0..20).for_each(|i| live(&kafka, 1, command(i, i, &[(0, i)])));
    worker.drain();
    let asked = &kafka.asked()[before..];
    let large: Vec<usize> = asked.iter().map(|a| a.bytes.get(&0).copied().unwrap_or(0)).collect();
    assert!(
        large.len() >= 3 && large[..large.len() - 1].iter().all(|b| *b > MAX_PARTITION_OUTPUT_BYTES / 2),
        "{large:?}"
    );
    assert!(large.iter().all(|b| *b < MAX_PARTITION_OUTPUT_BYTES + 250_000), "{large:?}");
    let nexts: Vec<_> = asked.iter().filter_map(|a| a.offsets.iter().find(|(p, _)| *p == 0)?.1.live).collect();
    assert!(nexts.is_sorted() && nexts.last() == Some(&40), "{nexts:?}");
    assert_eq!(asked[0].offsets.iter().find(|(p, _)| *p == 1).unwrap().1.live, Some(20), "the other is not held up");
    assert!(completions(&kafka, 0).iter().map(|a| a.offset).is_sorted());
    for partition in [0, 1] {
        assert_answered_once(&kafka, partition);
        assert_is_fold(&worker, partition);
    }
}

/// A steady rate has a round an interval; the tail of a faster one is not left lying when it has ended.
#[test]
fn a_round_follows_as_soon_as_commands_come_slower() {
    let kafka = SimKafka::default();
    let dir = tempfile::tempdir().unwrap();
    let rules = Rules { checkpoint_interval: Duration::from_secs(30), checkpoint_max_tail: 3200, ..rules() };
    let mut worker = Worker::with(&kafka, sled(dir.path()), rules, &[0]);
    let mut sent = 0;
    let mut tail_after = |commands: u64, ms: i64| {
        (sent..sent + commands).for_each(|i| live(&kafka, 0, command(i, i, &[(0, i)])));
        sent += commands;
        pass_ms(ms);
        worker.drain();
        worker.steps(20);
        worker.runs(0).unwrap().projection.tail_records()
    };
    // The first look of all, and the round that any change in a state without one is worth.
    tail_after(1, 31_000);
    let steady: Vec<u64> = (0..40).map(|_| tail_after(5, 500)).collect();
    assert_eq!(*steady.last().unwrap(), 400, "twenty seconds of ten a second, two records each: {steady:?}");
    tail_after(1, 2000);
    let slower = tail_after(1, 2000);
    assert!(slower < 100, "{slower} records are left to read");
    tail_after(45, 2000);
    tail_after(1, 2000);
    let little = tail_after(1, 2000);
    assert!((94..100).contains(&little), "{little} records are not worth a round of their own");
}

/// A loop with many partitions would otherwise stand still for as many blocks.
#[test]
fn rounds_of_many_partitions_share_what_a_step_hands_over_and_all_end() {
    let kafka = SimKafka::default();
    let dir = tempfile::tempdir().unwrap();
    let partitions = [0, 1, 2, 3];
    let mut worker = Worker::with(&kafka, sled(dir.path()), rules(), &partitions);
    for partition in partitions {
        // Each more than a step hands over: the requests, and the cards.
        (0..30).for_each(|i| live(&kafka, partition, command(i, i, &[(0, i)])));
    }
    worker.drain();
    pass_ms(31_000);
    make_small(true);
    let mut most = 0;
    for _ in 0..200 {
        worker.main.step().unwrap();
        let handed_over = std::iter::from_fn(|| worker.writing.borrow_mut().step().then_some(())).count();
        most = most.max(handed_over);
        pass_ms(1);
    }
    make_small(false);
    assert!((1..=2).contains(&most), "the last block of a round's, its meta record and the next one's first: {most}");
    for partition in partitions {
        let running = worker.runs(partition).unwrap();
        assert!(running.projection.is_checkpointed() && !running.projection.in_round(), "partition {partition}");
    }
}

// --- INV-6 and INV-8: whose records they are ---

#[test]
fn inv_6_no_record_is_decided_before_the_restore_is_complete() {
    let kafka = SimKafka::default();
    let former = {
        let mut former = running(&kafka, rules(), &[0]);
        (0..200).for_each(|i| live(&kafka, 0, command(i, i % 50, &[(0, i)])));
        former.drain();
        former.member
    };
    (0..200).for_each(|i| live(&kafka, 0, command(i, i % 50, &[(0, i)])));
    let before = kafka.asked().len();
    let mut worker = Worker::start_with(&kafka, no_store(), rules(), 5);
    kafka.expel(former, worker.member);
    let mut steps = 0;
    worker.until("restored", |worker| {
        steps += 1;
        assert!(worker.runs(0).is_some() || kafka.asked().len() == before, "decided while restoring");
        worker.runs(0).is_some()
    });
    assert!(steps > 40, "the restore takes many steps");
    worker.drain();
    let answers = completions(&kafka, 0);
    assert_eq!(answers.iter().filter(|a| a.replayed).count(), 200, "all was remembered");
    assert_answered_once(&kafka, 0);
    assert_is_fold(&worker, 0);
}

/// Two workers; the first has answered some of what it has read of partitions 0 and 1.
fn two_workers() -> (SimKafka, Worker, Worker) {
    let kafka = SimKafka::default();
    let few = || Rules { batch_max_records: 8, ..rules() };
    let mut first = running(&kafka, few(), &[0, 1]);
    let second = Worker::start(&kafka, no_store(), few());
    for i in 0..30 {
        live(&kafka, 0, command(i, i % 5, &[(0, i)]));
        live(&kafka, 1, command(i, i % 5, &[(0, i)]));
    }
    assert_eq!(first.step(), Ok(Flow::Worked));
    assert!(first.main.batch.iter().any(|(_, r)| r.partition == 0), "records of both wait");
    assert!(first.main.batch.iter().any(|(_, r)| r.partition == 1), "records of both wait");
    (kafka, first, second)
}

/// The first worker has answered nothing of partition 0 after transaction `before`, and all is answered once.
fn assert_handed_over(kafka: &SimKafka, first: &mut Worker, second: &mut Worker, before: usize) {
    let stood =
        kafka.asked()[..before].iter().rev().find_map(|a| a.offsets.iter().find(|(p, _)| *p == 0)).map(|(_, o)| o.live);
    assert!(first.main.batch.iter().all(|(_, r)| r.partition != 0), "what waited of it is dropped");
    second.drain();
    first.drain();
    let mut late = kafka.asked().into_iter().skip(before).filter(|a| a.member == first.member);
    // Offsets that stay where they are prove ownership for a last checkpoint, and answer nothing.
    let answers =
        |a: &Asked| a.bytes.contains_key(&0) || a.offsets.iter().any(|(p, o)| *p == 0 && Some(o.live) != stood);
    assert_eq!(late.find(answers).map(|a| a.offsets), None);
    assert_eq!(kafka.owner(0), Some(second.member));
    assert_eq!(kafka.committed(0).live, Some(30));
    for partition in [0, 1] {
        assert_answered_once(kafka, partition);
    }
    assert_is_fold(second, 0);
    assert_is_fold(first, 1);
}

#[test]
fn inv_6_nothing_is_decided_after_a_partition_was_revoked() {
    let (kafka, mut first, mut second) = two_workers();
    let before = kafka.asked().len();
    kafka.revoke(0, second.member);
    first.step().unwrap();
    assert_handed_over(&kafka, &mut first, &mut second, before);
}

#[test]
fn inv_6_nothing_is_decided_after_a_partition_was_lost() {
    let (kafka, mut first, mut second) = two_workers();
    let before = kafka.asked().len();
    kafka.lose(0, second.member);
    first.step().unwrap();
    assert_handed_over(&kafka, &mut first, &mut second, before);
}

#[test]
fn inv_6_a_partition_that_is_taken_away_while_it_is_restored_is_not_started() {
    let kafka = SimKafka::default();
    let mut first = Worker::start_with(&kafka, no_store(), rules(), 1);
    let mut second = Worker::start(&kafka, no_store(), rules());
    let mut former = running(&kafka, rules(), &[0]);
    (0..50).for_each(|i| live(&kafka, 0, command(i, i, &[(0, i)])));
    former.drain();
    kafka.expel(former.member, first.member);
    first.steps(5);
    assert!(first.runs(0).is_none());
    kafka.lose(0, second.member);
    second.drain();
    first.steps(200);
    assert!(first.runs(0).is_none());
    // And back again: the new restore counts, not the one that was given up.
    live(&kafka, 0, command(0, 0, &[(0, 0)]));
    kafka.lose(0, first.member);
    first.drain();
    assert!(completions(&kafka, 0)[50].replayed);
    assert_is_fold(&first, 0);
}

#[test]
fn inv_6_the_result_of_a_restore_that_was_given_up_is_not_taken() {
    let kafka = SimKafka::default();
    kafka.set_committed(0, InputOffsets { live: Some(0), backfill: Some(0) });
    let mut first = Worker::with(&kafka, no_store(), rules(), &[0]);
    let mut second = Worker::start(&kafka, no_store(), rules());
    // Its restore is complete, and nobody has looked at the result, when the partition goes and comes back.
    first.step().unwrap();
    kafka.lose(0, second.member);
    (0..5).for_each(|i| live(&kafka, 0, command(i, 1, &[(0, i)])));
    second.drain();
    kafka.lose(0, first.member);
    (0..5).for_each(|i| live(&kafka, 0, command(i, 1, &[(0, i)])));
    first.drain();
    assert_eq!(completions(&kafka, 0).iter().filter(|a| a.replayed).count(), 5);
    assert_answered_once(&kafka, 0);
    assert_is_fold(&first, 0);
}

#[test]
fn inv_8_a_partition_lost_in_the_middle_of_a_batch_is_not_written() {
    let (kafka, mut first, mut second) = two_workers();
    let before = kafka.asked().len();
    let (heir, committed) = (second.member, kafka.committed(0));
    kafka.before_transact(move |kafka| kafka.lose(0, heir));
    assert_eq!(first.step(), Ok(Flow::Idle));
    assert_eq!(kafka.asked().len(), before + 1);
    assert_eq!(kafka.committed(0), committed, "the group refused the batch");
    first.step().unwrap();
    assert_handed_over(&kafka, &mut first, &mut second, before + 1);
}

#[test]
fn inv_8_a_fenced_owner_writes_nothing_of_what_it_lost() {
    for failure in [Failure::FencedOpen, Failure::FencedCommitted] {
        let (kafka, mut first, mut second) = two_workers();
        let before = kafka.asked().len();
        let heir = second.member;
        kafka.on_reset(move |kafka| kafka.lose(0, heir));
        kafka.script([Some(failure)]);
        assert_eq!(first.step(), Ok(Flow::Idle), "{failure:?}");
        assert_eq!(kafka.asked().len(), before + 1);
        assert!(first.runs(0).is_none() && first.runs(1).is_none(), "what may be committed is not in its state");
        assert_handed_over(&kafka, &mut first, &mut second, before + 1);
    }
}

// --- time ---

#[test]
fn decisions_never_go_back_behind_an_earlier_one() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    worker.drain();
    let first_ms = now_ms();
    pass_ms(-5000);
    live(&kafka, 0, command(2, 1, &[(0, 2)]));
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    worker.drain();
    assert!(completions(&kafka, 0).iter().all(|a| a.record.timestamp_ms == Some(first_ms)));
    let (_, requests) = fold(&kafka, 0);
    assert_eq!(requests.len(), 2);
    assert_is_fold(&worker, 0);
    worker.kill();
    let restored = running_again(&kafka);
    assert_is_fold(&restored, 0);
}

fn running_again(kafka: &SimKafka) -> Worker {
    let mut worker = Worker::start(kafka, no_store(), rules());
    kafka.expel(0, worker.member);
    live(kafka, 0, command(3, 1, &[]));
    worker.drain();
    assert_eq!(completions(kafka, 0).last().unwrap().record.timestamp_ms, completions(kafka, 0)[0].record.timestamp_ms);
    worker
}
