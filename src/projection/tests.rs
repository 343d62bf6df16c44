//! The projection against a model of a few lines, over many lives of its store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::domain::{Account, AccountNumber, AccountType, Currency, Dt, Fingerprint, UtcOffset};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WINDOW_MS: i64 = 1000;

/// A log record: a card's new state, or a remembered request.
#[derive(Clone, Debug)]
enum Event {
    Card(u8, u8),
    Request(u8, i64),
}

fn card_id(card: u8) -> CardId {
    CardId::from_bytes([card; 16])
}

fn accounts(count: u8, at: i64) -> Vec<StoredAccount> {
    let currencies = ["USD", "EUR", "GBP"];
    let account = |i: u8| StoredAccount {
        account: Account {
            kind: AccountType::new(b"IBAN").unwrap(),
            currency: Currency::parse(currencies[i as usize % 3]).unwrap(),
            number: AccountNumber::stored(b"ES7921000813610123456789").unwrap(),
        },
        request_id: RequestId::from_bytes([i; 16]),
        updated_at_ms: at,
        source_offset: Some(at),
    };
    (0..count).map(account).collect()
}

fn first(request: u8, at_ms: i64) -> FirstCompletion {
    let dt = Dt { at_ms, offset: UtcOffset::default() };
    let remembered = Remembered { fingerprint: Fingerprint(u128::from(request)), dt };
    FirstCompletion { request_id: RequestId::from_bytes([request; 16]), remembered }
}

fn identity() -> LogIdentity {
    LogIdentity { cluster: "c".into(), cards_topic: "a".into(), completions_topic: "b".into(), partitions: 1 }
}

fn tree(path: &Path) -> Tree {
    Tree::new(0, Arc::new(SledStore::open(path).unwrap()), Arc::new(BlockCache::default()))
}

fn replay(projection: &mut Projection, log: &[Event], from: Positions) {
    for (offset, event) in (0..).zip(log) {
        match event {
            Event::Card(card, count) if offset >= from.cards => {
                projection.fold_card(&card_id(*card), &accounts(*count, offset), offset + 1);
            }
            Event::Request(request, at) if offset >= from.completions => {
                projection.fold_completion(Some(first(*request, *at)), *at, offset + 1).unwrap();
            }
            _ => {}
        }
    }
    let end = log.len() as i64;
    projection.fold_ends(Positions { cards: end, completions: end });
}

/// The fold in a few lines.
fn model(log: &[Event], now: i64) -> (BTreeMap<CardId, Vec<StoredAccount>>, BTreeMap<RequestId, Remembered>) {
    let (mut cards, mut requests) = (BTreeMap::new(), BTreeMap::new());
    for (offset, event) in (0..).zip(log) {
        match event {
            Event::Card(card, 0) => drop(cards.remove(&card_id(*card))),
            Event::Card(card, count) => drop(cards.insert(card_id(*card), accounts(*count, offset))),
            Event::Request(request, at) => {
                let first = first(*request, *at);
                requests.insert(first.request_id, first.remembered);
            }
        }
    }
    requests.retain(|_, r: &mut Remembered| now - r.dt.at_ms <= WINDOW_MS);
    (cards, requests)
}

fn assert_is_model(projection: &Projection, log: &[Event], now: i64) {
    let (cards, requests) = model(log, now);
    let mut found = BTreeMap::new();
    projection.for_each_card(|id, accounts| drop(found.insert(*id, accounts.to_vec())));
    assert_eq!(found, cards);
    for request in 0..=u8::MAX {
        let id = RequestId::from_bytes([request; 16]);
        assert_eq!(projection.request(&id, now).unwrap(), requests.get(&id).copied());
    }
    assert_eq!(projection.stats().cards, cards.len());
    assert_eq!(projection.stats().accounts, cards.values().map(|a| a.len() as u64).sum::<u64>());
}

/// Runs a round to its end, or stops after `cut` steps as a kill would.
fn round(projection: &mut Projection, writer: &Writer, end: i64, cut: Option<usize>) -> Step {
    projection.begin_round(Positions { cards: end, completions: end });
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut steps = 0;
    loop {
        let step = projection.checkpoint_step(writer, &Lease::default(), &mut StepBytes::default());
        steps += 1;
        if step != Step::UnderWay || cut.is_some_and(|cut| steps > cut) || Instant::now() > deadline {
            return step;
        }
    }
}

fn log() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (any::<u8>(), 0..4u8).prop_map(|(card, count)| Event::Card(card, count)),
        any::<u8>().prop_map(|r| Event::Request(r, 0)),
    ];
    prop::collection::vec(event, 1..400).prop_map(|mut log| {
        // Decision time never goes back, and an id is remembered again only after it has expired.
        for (i, event) in (0..).zip(&mut log) {
            if let Event::Request(request, at) = event {
                (*request, *at) = ((i % 250) as u8, i * 10);
            }
        }
        log
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Wherever a round is cut, the store opens to the fold of the log up to where it says, and replay does the rest.
    #[test]
    fn inv_2_a_store_cut_anywhere_replays_to_the_fold(log in log(), cuts in prop::collection::vec((0.0..1.0f64, 0usize..6), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let now = log.len() as i64 * 10;
        let mut done = 0;
        for (share, cut) in cuts {
            let until = done.max((log.len() as f64 * share) as usize);
            let (writer, thread) = Writer::start().unwrap();
            let opened = Projection::open(tree(dir.path()), identity(), WINDOW_MS).unwrap();
            let mut projection = opened.projection;
            let from = projection.positions();
            replay(&mut projection, &log[..until], from);
            assert_is_model(&projection, &log[..until], now);
            let step = round(&mut projection, &writer, until as i64, Some(cut));
            prop_assert!(step != Step::Failed);
            done = until;
            drop((projection, writer));
            thread.join().unwrap();
        }
        let mut projection = Projection::open(tree(dir.path()), identity(), WINDOW_MS).unwrap().projection;
        let from = projection.positions();
        replay(&mut projection, &log, from);
        assert_is_model(&projection, &log, now);
    }
}

#[test]
fn a_step_hands_over_what_is_left_of_its_bytes_and_one_block_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap().projection;
    for i in 0..4000u64 {
        if i < 200 {
            projection.put_card(&CardId::from_bytes(u128::from(i).to_le_bytes()), &accounts(2, i as i64));
        }
        projection.put_request(&RequestId::from_bytes(u128::from(i).to_le_bytes()), first(0, i as i64).remembered);
    }
    let (writer, mut writing) = Writer::queue();
    let mut handed_over = |projection: &mut Projection, round: usize, ahead: usize| {
        let mut left = StepBytes { round, ahead };
        projection.checkpoint_step(&writer, &Lease::default(), &mut left);
        let before = writer.stats.bytes.load(std::sync::atomic::Ordering::Relaxed);
        while writing.step() {}
        (writer.stats.bytes.load(std::sync::atomic::Ordering::Relaxed) - before, left)
    };
    let block = 64 * 1024;
    // Requests that are written ahead: forty full blocks wait, of 4 KiB each.
    assert_eq!(handed_over(&mut projection, 30_000, 0).0, 0);
    let (ahead, left) = handed_over(&mut projection, 0, 30_000);
    assert!((30_000..30_000 + block).contains(&ahead) && left.ahead == 0 && left.are_used_up(), "{ahead}");
    projection.begin_round(Positions { cards: 1, completions: 1 });
    let mut steps = 0;
    while projection.in_round() {
        let (bytes, _) = handed_over(&mut projection, 30_000, 0);
        assert!(bytes < 30_000 + block, "{bytes}");
        steps += 1;
    }
    assert!(steps >= 5, "{steps}");
}

#[test]
fn a_first_round_of_many_cards_writes_small_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, thread) = Writer::start().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap().projection;
    for i in 0..20_000u128 {
        projection.put_card(&CardId::from_bytes((i << 64 | i).to_le_bytes()), &accounts(2, 7));
    }
    assert_eq!(round(&mut projection, &writer, 1, None), Step::Done);
    // 20,000 cards of 130 bytes: 256 buckets of 10 KB are too large, 512 are enough.
    assert_eq!(projection.on_disk.bits, 9);
    drop((projection, writer));
    thread.join().unwrap();
    let opened = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap();
    assert_eq!(opened.projection.stats().cards, 20_000);
}

/// Where writes fail those ahead of the round are sent again and again: it must not wait for them.
#[test]
fn a_round_fails_beside_many_requests_that_cannot_be_written_ahead() {
    let nothing = Tree::new(0, Arc::new(NoStore("full".into())), Arc::default());
    let mut projection = Projection::empty(nothing, identity(), i64::MAX);
    for i in 0..100_000u128 {
        projection.put_request(&RequestId::from_bytes(i.to_le_bytes()), first(0, 7).remembered);
    }
    let (writer, mut writing) = Writer::queue();
    projection.begin_round(Positions { cards: 1, completions: 1 });
    let mut steps = (0..10).map(|_| {
        let step = projection.checkpoint_step(&writer, &Lease::default(), &mut StepBytes::default());
        while writing.step() {}
        step
    });
    assert!(steps.any(|step| step == Step::Failed));
}

#[test]
fn a_warm_state_that_moves_in_has_nothing_to_remove() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = Tree::new(0, Arc::new(NoStore("warm".into())), Arc::default());
    let mut projection = Projection::empty(nothing, identity(), WINDOW_MS);
    for i in 0..20_000u64 {
        let at_ms = i as i64 * WINDOW_MS;
        projection.put_request(&RequestId::from_bytes(u128::from(i).to_le_bytes()), first(0, at_ms).remembered);
    }
    projection.expire_in_memory();
    assert!(projection.expired.is_empty());
    assert!(projection.requests.mark().blocks <= 2, "{:?}", projection.requests.mark());
    projection.expired.push(BlockId::META);
    projection.move_to(tree(dir.path()));
    assert!(projection.expired.is_empty());
}

#[test]
fn a_store_with_blocks_of_another_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, thread) = Writer::start().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap().projection;
    for i in 0..200u128 {
        projection.put_request(&RequestId::from_bytes(i.to_le_bytes()), first(0, 7).remembered);
    }
    assert_eq!(round(&mut projection, &writer, 1, None), Step::Done);
    drop((projection, writer));
    thread.join().unwrap();
    let open = || Projection::open(tree(dir.path()), identity(), i64::MAX);
    assert_eq!(open().unwrap().projection.stats().requests, 200);
    make_small(true);
    let opened = open();
    make_small(false);
    assert!(matches!(opened.err(), Some(StoreError::Damaged(_))));
}

/// A bucket that were split behind the round's back would be written empty.
#[test]
fn cards_that_come_during_a_round_leave_no_block_without_the_older_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, thread) = Writer::start().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap().projection;
    let id = |i: u128| CardId::from_bytes((i << 64 | i).to_le_bytes());
    (0..4000).for_each(|i| projection.put_card(&id(i), &accounts(2, 7)));
    assert_eq!(round(&mut projection, &writer, 1, None), Step::Done);
    (0..4000).for_each(|i| projection.put_card(&id(i), &accounts(2, 8)));
    projection.begin_round(Positions { cards: 2, completions: 2 });
    let mut next = 4000;
    while projection.in_round() {
        projection.checkpoint_step(&writer, &Lease::default(), &mut StepBytes { round: 20_000, ahead: 20_000 });
        (next..next + 400).for_each(|i| projection.put_card(&id(i), &accounts(2, 9)));
        next += 400;
    }
    drop((projection, writer));
    thread.join().unwrap();
    let opened = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap().projection;
    for i in 0..4000 {
        let mut found = Vec::new();
        opened.card(&id(i), &mut found);
        assert_eq!(found, accounts(2, 8), "card {i}");
    }
}

#[test]
fn buckets_double_as_cards_come_and_a_large_store_opens_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, thread) = Writer::start().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap().projection;
    let id = |i: u64| CardId::from_bytes(u128::from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    let request = |i: u64| RequestId::from_bytes(u128::from(i).to_le_bytes());
    let remembered =
        |i: u64| Remembered { dt: first(0, i as i64).remembered.dt, fingerprint: Fingerprint(u128::from(i)) };
    for i in 0..20_000 {
        projection.put_card(&id(i), &accounts(2, i as i64));
        projection.put_request(&request(i), remembered(i));
        if i % 4000 == 3999 {
            for _ in 0..3 {
                assert_eq!(round(&mut projection, &writer, i as i64, None), Step::Done);
            }
        }
    }
    // Removals are written behind the round.
    while projection.checkpoint_step(&writer, &Lease::default(), &mut StepBytes::default()) != Step::Idle
        || !projection.removals.is_empty()
    {}
    // 20,000 cards of 130 bytes fill 320 buckets of 8 KiB; they double when needed and not at every round.
    assert!((8..=9).contains(&projection.on_disk.bits), "{:?}", projection.on_disk);
    drop((projection, writer));
    thread.join().unwrap();
    let opened = Projection::open(tree(dir.path()), identity(), i64::MAX).unwrap();
    let projection = opened.projection;
    assert!(opened.from_checkpoint);
    assert_eq!((projection.stats().cards, projection.stats().requests), (20_000, 20_000));
    let mut card = Vec::new();
    for i in (0..20_000).step_by(97) {
        assert!(projection.card(&id(i), &mut card));
        assert_eq!(card, accounts(2, i as i64));
        assert_eq!(projection.request(&request(i), 20_000).unwrap(), Some(remembered(i)));
    }
}

#[test]
fn expired_requests_cost_neither_memory_nor_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), WINDOW_MS).unwrap().projection;
    for i in 0..10_000u64 {
        let id = RequestId::from_bytes(u128::from(i).to_le_bytes());
        projection.put_request(&id, Remembered { dt: first(0, i as i64).remembered.dt, fingerprint: Fingerprint(1) });
        projection.expire();
    }
    for _ in 0..100 {
        projection.expire();
    }
    // A block holds 96, of which the newest decides; the block being filled stays.
    assert!(projection.stats().requests <= 1000 + 2 * 96, "{}", projection.stats().requests);
    let alive =
        |i: u64| projection.request(&RequestId::from_bytes(u128::from(i).to_le_bytes()), 10_000).unwrap().is_some();
    assert!(alive(9_000) && !alive(8_999) && !alive(0));
}

#[test]
fn a_decision_time_at_the_edge_of_numbers_is_old_or_new_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), WINDOW_MS).unwrap().projection;
    for (request, at_ms, alive) in [(1, i64::MIN, false), (2, i64::MAX, true)] {
        projection.fold_completion(Some(first(request, at_ms)), at_ms, 1).unwrap();
        let found = projection.request(&first(request, at_ms).request_id, 1_735_689_661_000).unwrap();
        assert_eq!(found.is_some(), alive);
    }
    projection.expire();
}

#[test]
fn a_damaged_store_is_refused_never_misread() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, thread) = Writer::start().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), WINDOW_MS).unwrap().projection;
    projection.put_card(&card_id(1), &accounts(2, 5));
    projection.put_request(&first(1, 5).request_id, first(1, 5).remembered);
    assert_eq!(round(&mut projection, &writer, 7, None), Step::Done);
    drop((projection, writer));
    thread.join().unwrap();
    let tree = tree(dir.path());
    for id in [
        BlockId::META,
        BlockId { kind: Kind::Cards, generation: 1, number: 0 },
        BlockId { kind: Kind::Requests, generation: 0, number: 0 },
    ] {
        let good = tree.get(&id.key()).unwrap().unwrap();
        let refused = |stored: &[u8]| {
            tree.write(&id.key(), Some(stored)).unwrap();
            Projection::open(tree.clone(), identity(), WINDOW_MS).is_err()
        };
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&flipped), "{id:?} bit {bit}");
        }
        for len in 0..good.len() {
            assert!(refused(&good[..len]), "{id:?} cut at {len}");
        }
        tree.write(&id.key(), Some(&good)).unwrap();
    }
    let other = LogIdentity { cluster: "other".into(), ..identity() };
    assert!(Projection::open(tree.clone(), other, WINDOW_MS).is_err());
    assert!(Projection::open(tree, identity(), WINDOW_MS).unwrap().from_checkpoint);
}

#[test]
fn a_write_after_the_lease_has_ended_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _thread) = Writer::start().unwrap();
    let mut projection = Projection::open(tree(dir.path()), identity(), WINDOW_MS).unwrap().projection;
    projection.put_card(&card_id(1), &accounts(1, 0));
    let lease = Lease::default();
    lease.end();
    projection.begin_round(Positions { cards: 1, completions: 1 });
    while projection.checkpoint_step(&writer, &lease, &mut StepBytes::default()) == Step::UnderWay {}
    assert_eq!(projection.tree.get(&BlockId::META.key()).unwrap(), None);
}
