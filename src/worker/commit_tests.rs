//! How the real loop takes each way that a transaction can fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::loop_tests::running;
use super::main_loop::Flow;
use super::rules::Rules;
use super::simulation::SimKafka;
use super::simulation::{Failure, Topic};
use super::simulation::{
    Worker, assert_answered_once, assert_is_fold, command, completions, dead_letters, fold, garbage, no_store, pass_ms,
    rules,
};
use crate::kafka::{InputOffsets, MemoryRecord};
use std::cell::RefCell;
use std::rc::Rc;

const fn is_committed(failure: Failure) -> bool {
    matches!(failure, Failure::UnknownCommitted | Failure::FencedCommitted)
}

fn live(kafka: &SimKafka, partition: i32, record: MemoryRecord) {
    kafka.append(Topic::Commands, partition, record);
}

#[test]
fn inv_1_only_what_is_committed_reaches_the_projection() {
    for failure in Failure::ALL {
        let kafka = SimKafka::default();
        let mut worker = running(&kafka, rules(), &[0]);
        live(&kafka, 0, command(1, 1, &[(0, 1)]));
        worker.drain();
        let before = worker.state(0);
        live(&kafka, 0, command(2, 1, &[(0, 2), (1, 2)]));
        live(&kafka, 0, command(3, 2, &[(0, 3)]));
        kafka.script([Some(failure)]);
        let flow = worker.step().unwrap();
        let after = worker.state(0);
        if is_committed(failure) {
            assert_eq!(flow, Flow::Worked, "{failure:?}");
            assert_eq!((after.0.len(), after.1.len()), (2, 3), "{failure:?}");
        } else {
            assert_eq!(flow, Flow::Idle, "{failure:?}");
            assert_eq!(after, before, "{failure:?}");
        }
        assert_eq!(after, fold(&kafka, 0), "{failure:?}");
        worker.drain();
        assert_is_fold(&worker, 0);
    }
}

#[test]
fn inv_5_a_request_is_applied_once_whatever_fails() {
    for failure in Failure::ALL {
        for other in Failure::ALL {
            let kafka = SimKafka::default();
            let mut worker = running(&kafka, Rules { batch_max_records: 3, ..rules() }, &[0]);
            for request in [1, 2, 1, 3, 2, 1, 4, 4] {
                live(&kafka, 0, command(request, 1, &[(0, request)]));
            }
            kafka.script([Some(failure), Some(other)]);
            worker.drain();
            let answers = completions(&kafka, 0);
            let first: Vec<i64> = answers.iter().filter(|a| a.ok && !a.replayed).map(|a| a.offset).collect();
            assert_eq!((answers.len(), first), (8, vec![0, 1, 3, 6]), "{failure:?} {other:?}");
            assert_answered_once(&kafka, 0);
            assert_is_fold(&worker, 0);
        }
    }
}

// --- INV-7: an outcome that is unknown ---

/// A worker whose next transaction answers three commands of partition 0 and one of partition 1.
fn about_to_commit(kafka: &SimKafka) -> Worker {
    let worker = running(kafka, rules(), &[0, 1]);
    (0..3).for_each(|i| live(kafka, 0, command(i, i, &[(0, i)])));
    live(kafka, 1, command(9, 9, &[(0, 9)]));
    worker
}

fn assert_all_answered(kafka: &SimKafka, worker: &Worker) {
    assert_eq!((kafka.committed(0).live, kafka.committed(1).live), (Some(3), Some(1)));
    for partition in [0, 1] {
        assert_answered_once(kafka, partition);
        assert_is_fold(worker, partition);
    }
}

#[test]
fn inv_7_offsets_as_staged_mean_committed() {
    for failure in [Failure::UnknownCommitted, Failure::FencedCommitted] {
        let kafka = SimKafka::default();
        let mut worker = about_to_commit(&kafka);
        let before = kafka.asked().len();
        kafka.script([Some(failure)]);
        assert_eq!(worker.step(), Ok(Flow::Worked));
        worker.drain();
        assert_eq!(kafka.asked().len(), before + 2, "nothing is run again: the second proves whose commit it was");
        assert!(kafka.asked()[before + 1].bytes.is_empty());
        assert_all_answered(&kafka, &worker);
    }
}

/// A zombie's transaction was aborted, and the new owner has processed the same records: their offsets are not its own.
#[test]
fn inv_7_offsets_as_staged_that_another_owner_has_committed_are_no_commit() {
    let kafka = SimKafka::default();
    let mut zombie = running(&kafka, rules(), &[0]);
    let mut heir = running(&kafka, rules(), &[1]);
    kafka.append(Topic::Commands, 0, command(1, 1, &[(0, 1)]));
    kafka.deafen(zombie.member, true);
    let (member, to) = (zombie.member, heir.member);
    kafka.script([Some(Failure::FencedOpen)]);
    kafka.on_reset(move |kafka| {
        kafka.expel(member, to);
        pass_ms(1000);
        heir.drain();
    });
    assert_eq!(zombie.step(), Ok(Flow::Idle));
    assert_eq!(kafka.committed(0).live, Some(1), "the heir has processed the same record");
    assert!(zombie.runs(0).is_none(), "the zombie does not trust what it decided");
}

#[test]
fn inv_7_offsets_as_before_mean_not_committed() {
    for failure in [Failure::UnknownOpen, Failure::FencedOpen] {
        let kafka = SimKafka::default();
        let mut worker = about_to_commit(&kafka);
        let before = kafka.asked().len();
        kafka.script([Some(failure)]);
        assert_eq!(worker.step(), Ok(Flow::Idle));
        assert_eq!(completions(&kafka, 0), []);
        worker.drain();
        assert_eq!(kafka.asked().len(), before + 2, "the batch is run again, without a restore");
        assert_all_answered(&kafka, &worker);
    }
}

#[test]
fn inv_7_an_unknown_first_commit_of_offsets_alone_is_decided_too() {
    for (failure, transactions) in [(Failure::UnknownCommitted, 2), (Failure::UnknownOpen, 2)] {
        let kafka = SimKafka::default();
        kafka.script([Some(failure)]);
        running(&kafka, rules(), &[0]);
        assert_eq!(kafka.asked().len(), transactions, "{failure:?}");
        assert_eq!(kafka.committed(0), InputOffsets { live: Some(0), backfill: Some(0) });
    }
}

#[test]
fn inv_7_other_offsets_mean_a_restore() {
    let kafka = SimKafka::default();
    let mut worker = about_to_commit(&kafka);
    let (owner, other) = (worker.member, Worker::start(&kafka, no_store(), Rules { batch_max_records: 1, ..rules() }));
    let other = Rc::new(RefCell::new(other));
    let visitor = other.clone();
    // Another owner has answered one of the three, and nobody told this one.
    kafka.on_reset(move |kafka| {
        let mut visitor = visitor.borrow_mut();
        kafka.lose(0, visitor.member);
        visitor.until("one answered", |_| kafka.committed(0).live == Some(1));
        kafka.lose(0, owner);
        kafka.drop_events(owner);
    });
    kafka.script([Some(Failure::UnknownOpen)]);
    assert_eq!(worker.step(), Ok(Flow::Idle));
    assert_eq!(kafka.committed(0).live, Some(1));
    assert!(worker.runs(0).is_none() && worker.runs(1).is_none(), "what is staged is dropped, and restored");
    assert!(worker.main.batch.is_empty());
    worker.drain();
    assert_all_answered(&kafka, &worker);
}

#[test]
fn inv_7_a_partition_that_has_gone_meanwhile_is_left_to_its_owner() {
    for failure in [Failure::UnknownCommitted, Failure::UnknownOpen] {
        for revoked in [false, true] {
            let kafka = SimKafka::default();
            let mut worker = about_to_commit(&kafka);
            let mut other = Worker::start(&kafka, no_store(), rules());
            let before = kafka.asked().len();
            let heir = other.member;
            kafka.on_reset(move |kafka| if revoked { kafka.revoke(0, heir) } else { kafka.lose(0, heir) });
            kafka.script([Some(failure)]);
            assert_eq!(worker.step(), Ok(Flow::Idle), "{failure:?} {revoked}");
            assert!(worker.runs(0).is_none());
            other.drain();
            worker.drain();
            let mut late = kafka.asked().into_iter().skip(before + 1).filter(|a| a.member == worker.member);
            assert!(late.all(|a| a.offsets.iter().all(|(p, _)| *p == 1)), "{failure:?} {revoked}");
            for (partition, owner) in [(0, &other), (1, &worker)] {
                assert_answered_once(&kafka, partition);
                assert_is_fold(owner, partition);
            }
        }
    }
}

#[test]
fn inv_7_offsets_that_stay_do_not_hide_the_outcome() {
    for failure in [Failure::UnknownCommitted, Failure::UnknownOpen] {
        let kafka = SimKafka::default();
        let mut worker = running(&kafka, rules(), &[0, 1]);
        // The backfill offsets of both are due: those of partition 1 are committed as they are.
        pass_ms(13 * 3600 * 1000);
        worker.step().unwrap();
        live(&kafka, 0, command(1, 1, &[(0, 1)]));
        kafka.script([Some(failure)]);
        worker.step().unwrap();
        assert!(worker.runs(0).is_some() && worker.runs(1).is_some(), "{failure:?}");
        worker.drain();
        assert_is_fold(&worker, 0);
    }
}

#[test]
fn inv_7_a_partition_that_went_and_came_back_meanwhile_is_restored_and_goes_on() {
    let kafka = SimKafka::default();
    let mut worker = about_to_commit(&kafka);
    let owner = worker.member;
    kafka.on_reset(move |kafka| kafka.lose(0, owner));
    kafka.script([Some(Failure::UnknownOpen)]);
    assert_eq!(worker.step(), Ok(Flow::Idle));
    worker.steps(50);
    assert!(worker.runs(0).is_some(), "partition 0 is this worker's and nobody reads it");
    worker.drain();
    assert_all_answered(&kafka, &worker);
}

// --- records that the broker refuses ---

fn with_headers(mut record: MemoryRecord, bytes: usize) -> MemoryRecord {
    record.headers.push(("tracestate".to_owned(), Some(vec![b'x'; bytes])));
    record
}

fn says(record: &MemoryRecord, name: &str) -> Option<String> {
    let found = record.headers.iter().find(|(n, _)| n == name)?;
    Some(String::from_utf8_lossy(found.1.as_deref()?).into_owned())
}

#[test]
fn a_refused_completion_becomes_a_dead_letter_and_the_rest_is_answered() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0, 1]);
    kafka.limit(Topic::Completions, 600);
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    let long_key = MemoryRecord { key: Some(vec![b'k'; 700]), ..command(2, 1, &[(0, 2)]) };
    live(&kafka, 0, long_key.clone());
    live(&kafka, 0, command(3, 1, &[(1, 3)]));
    live(&kafka, 1, command(4, 4, &[(0, 4)]));
    worker.drain();
    assert_eq!(completions(&kafka, 0).iter().map(|a| (a.offset, a.ok)).collect::<Vec<_>>(), [(0, true), (2, true)]);
    let dead = dead_letters(&kafka, 0);
    assert_eq!((dead.len(), dead[0].offset, dead[0].why.as_str()), (1, 1, "payload_too_large"));
    assert_eq!((&dead[0].record.value, &dead[0].record.key), (&None, &long_key.key));
    assert_eq!(says(&dead[0].record, "dlq-value-omitted").as_deref(), Some("true"));
    let length = long_key.value.unwrap().len().to_string();
    assert_eq!(says(&dead[0].record, "dlq-value-bytes"), Some(length));
    for partition in [0, 1] {
        assert_answered_once(&kafka, partition);
        assert_is_fold(&worker, partition);
    }
}

#[test]
fn a_refused_card_record_becomes_the_dead_letter_of_the_command_that_made_it_too_large() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    kafka.limit(Topic::Cards, 2000);
    let many: Vec<(usize, u64)> = (0..30).map(|place| (place, 1)).collect();
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    live(&kafka, 0, command(2, 2, &[(0, 2)]));
    live(&kafka, 0, command(3, 2, &many));
    live(&kafka, 0, command(4, 3, &[(0, 4)]));
    worker.drain();
    assert_eq!(dead_letters(&kafka, 0).iter().map(|a| a.offset).collect::<Vec<_>>(), [2]);
    let (cards, requests) = worker.state(0);
    assert!(cards.len() == 3 && cards.values().all(|accounts| accounts.len() == 1));
    assert_eq!(requests.len(), 3);
    // The refused command is not remembered: when it is sent again within the limit, it is new.
    live(&kafka, 0, command(3, 2, &many[..2]));
    worker.drain();
    assert!(completions(&kafka, 0).last().is_some_and(|a| a.ok && !a.replayed));
    assert_answered_once(&kafka, 0);
    assert_is_fold(&worker, 0);
}

#[test]
fn a_refused_dead_letter_leaves_out_more_and_more_until_the_operator_is_told() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    kafka.limit(Topic::DeadLetters, 1000);
    live(&kafka, 0, garbage(5000));
    live(&kafka, 0, MemoryRecord { key: Some(vec![b'k'; 3000]), ..garbage(10) });
    live(&kafka, 0, with_headers(garbage(10), 900));
    live(&kafka, 0, command(1, 1, &[(0, 1)]));
    worker.drain();
    let dead = dead_letters(&kafka, 0);
    let kept: Vec<_> = dead.iter().map(|d| (d.offset, d.record.value.is_some(), d.record.key.is_some())).collect();
    assert!(kept.contains(&(0, false, true)) && kept.contains(&(1, false, false)) && kept.len() == 3, "{kept:?}");
    assert!(dead.iter().all(|d| d.why == "malformed_json"), "what was wrong with them is still said");
    assert_eq!(completions(&kafka, 0).len(), 1);
    assert_answered_once(&kafka, 0);
    kafka.limit(Topic::DeadLetters, 20);
    live(&kafka, 0, command(2, 1, &[(0, 2)]));
    live(&kafka, 0, garbage(10));
    let stop = worker.until_stopped();
    assert!(stop.contains("partition 0 offset 5") && stop.contains("max.message.bytes"), "{stop}");
    assert_eq!(kafka.committed(0).live, Some(4), "nothing of the batch is committed");
}

#[test]
fn a_dead_letter_refused_for_its_headers_does_not_cost_its_neighbour_the_value() {
    let kafka = SimKafka::default();
    let mut worker = running(&kafka, rules(), &[0]);
    kafka.limit(Topic::DeadLetters, 2000);
    live(&kafka, 0, garbage(300));
    live(&kafka, 0, with_headers(garbage(10), 3000));
    live(&kafka, 0, garbage(300));
    worker.drain();
    let dead = dead_letters(&kafka, 0);
    let kept: Vec<_> = dead.iter().map(|d| (d.offset, d.record.value.is_some(), d.why.as_str())).collect();
    assert_eq!(kept, [(0, true, "malformed_json"), (1, false, "malformed_json"), (2, true, "malformed_json")]);
}
