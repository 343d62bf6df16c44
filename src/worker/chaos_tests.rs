//! Two real workers over one small Kafka: random commands, failures, moves and kills, then the invariants.

use super::rules::Rules;
use super::sim_cluster::{Failure, Topic};
use super::sim_log::SimKafka;
use super::sim_worker::{
    Random, Worker, assert_answered_once, assert_is_fold, command, completions, dump, fold, garbage, pass_ms, restore,
    rules, sled,
};
use crate::domain::{CardId, StoredAccount};
use crate::kafka::{Input, MemoryRecord};
use crate::projection::Store;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const PARTITIONS: i32 = 2;
const TURNS: usize = 60;
const FAILURES: [Failure; 6] = [
    Failure::Abort,
    Failure::NotOwner,
    Failure::UnknownCommitted,
    Failure::UnknownOpen,
    Failure::FencedCommitted,
    Failure::FencedOpen,
];

struct World {
    kafka: SimKafka,
    random: Random,
    stores: [Arc<dyn Store>; 2],
    workers: [Worker; 2],
    requests: u64,
}

fn small_batches() -> Rules {
    Rules { batch_max_records: 5, checkpoint_max_tail: 10, ..rules() }
}

impl World {
    fn new(seed: u64, dir: &Path) -> Self {
        let kafka = SimKafka::default();
        let stores = [0, 1].map(|i| sled(&dir.join(i.to_string())));
        let workers = [0, 1].map(|i: usize| Worker::start(&kafka, stores[i].clone(), small_batches()));
        for partition in 0..PARTITIONS {
            kafka.assign(workers[partition as usize % 2].member, &[partition]);
        }
        Self { kafka, random: Random(seed), stores, workers, requests: 0 }
    }

    /// A command, new or repeated or in conflict with an earlier one; sometimes garbage. Backfilled ones have cards of their own.
    fn record(&mut self, input: Input) -> MemoryRecord {
        if self.random.chance(8) {
            return garbage(1 + self.random.below(30) as usize);
        }
        self.requests += u64::from(self.random.chance(70));
        let request = self.requests - self.random.below(self.requests.min(6) + 1);
        let card = request % 7 + 100 * input as u64;
        let accounts: Vec<(usize, u64)> = (0..self.random.below(4))
            .map(|i| ((request % 3 + i) as usize, request + u64::from(self.random.chance(10))))
            .collect();
        command(request, card, &accounts)
    }

    fn send(&mut self) {
        for _ in 0..self.random.below(12) {
            let partition = self.random.below(PARTITIONS as u64) as i32;
            let input = if self.random.chance(20) { Input::Backfill } else { Input::Live };
            let record = self.record(input);
            self.kafka.append(Topic::from(input), partition, record);
        }
    }

    /// The other worker than the one that has the partition.
    fn heir(&self, partition: i32) -> usize {
        let owner = self.kafka.owner(partition);
        self.workers.iter().map(|w| w.member).find(|m| Some(*m) != owner).unwrap()
    }

    /// A partition moves: asked for, taken, or taken while an outcome is being decided.
    fn moves(&mut self) {
        let partition = self.random.below(PARTITIONS as u64) as i32;
        let heir = self.heir(partition);
        match self.random.below(4) {
            0 => self.kafka.revoke(partition, heir),
            1 => self.kafka.lose(partition, heir),
            2 => self.kafka.before_transact(move |kafka| move_away(kafka, partition, heir)),
            _ => self.kafka.on_reset(move |kafka| move_away(kafka, partition, heir)),
        }
    }

    fn kill(&mut self) {
        let index = self.random.below(2) as usize;
        let fresh = Worker::start(&self.kafka, self.stores[index].clone(), small_batches());
        let member = fresh.member;
        let killed = std::mem::replace(&mut self.workers[index], fresh);
        let former = killed.member;
        killed.kill();
        self.kafka.forget_moves();
        self.kafka.expel(former, member);
    }

    fn turn(&mut self) {
        self.send();
        let random = &mut self.random;
        let outcomes: Vec<_> = (0..3).map(|_| random.chance(12).then(|| FAILURES[random.below(6) as usize])).collect();
        self.kafka.script(outcomes);
        if self.random.chance(10) {
            self.moves();
        }
        if self.random.chance(4) {
            self.kill();
        }
        for _ in 0..self.random.below(4) {
            let index = self.random.below(2) as usize;
            self.workers[index].step().unwrap();
        }
        pass_ms(self.random.below(20) as i64);
    }

    fn settle(&mut self) {
        self.kafka.script([]);
        self.kafka.forget_moves();
        for _ in 0..100_000 {
            let settled = (0..PARTITIONS).all(|p| {
                let owner = self.kafka.owner(p);
                self.workers.iter().any(|w| Some(w.member) == owner && w.runs(p).is_some() && w.is_drained())
            });
            if settled {
                return;
            }
            for worker in &mut self.workers {
                worker.step().unwrap();
            }
        }
        panic!("not settled");
    }
}

/// Moves a partition that may have moved before.
fn move_away(kafka: &SimKafka, partition: i32, heir: usize) {
    if kafka.owner(partition) != Some(heir) {
        kafka.lose(partition, heir);
    }
}

/// Cards by place and number, made from the answers' order alone with the patch rule in a few lines.
fn patched(kafka: &SimKafka, partition: i32) -> BTreeMap<CardId, Vec<(String, String, String)>> {
    let inputs = |topic| kafka.records(topic, partition).into_iter().collect::<BTreeMap<_, _>>();
    let (live, backfill) = (inputs(Topic::Commands), inputs(Topic::Backfill));
    let mut cards: BTreeMap<CardId, Vec<(String, String, String)>> = BTreeMap::new();
    for answer in completions(kafka, partition).iter().filter(|a| a.ok && !a.replayed) {
        let record = if answer.input == Input::Live { &live[&answer.offset] } else { &backfill[&answer.offset] };
        let body: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let card = cards.entry(CardId::parse(&text(&body["card_id"])).unwrap()).or_default();
        for account in body["accounts"].as_array().unwrap() {
            let account = (text(&account["type"]), text(&account["currency"]), text(&account["iban"]));
            card.retain(|(kind, currency, _)| (kind, currency) != (&account.0, &account.1));
            card.push(account);
        }
    }
    cards.retain(|_, accounts| !accounts.is_empty());
    cards
}

fn plain(accounts: &[StoredAccount]) -> Vec<(String, String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let plain = |s: &StoredAccount| {
        let account = &s.account;
        (text(account.kind.as_bytes()), text(&account.currency.code()), text(account.number.as_bytes()))
    };
    accounts.iter().map(plain).collect()
}

fn check(world: World) {
    let World { kafka, stores, workers, .. } = world;
    let owners: Vec<usize> =
        (0..PARTITIONS).map(|p| workers.iter().position(|w| Some(w.member) == kafka.owner(p)).unwrap()).collect();
    for (partition, owner) in (0..).zip(&owners) {
        assert_answered_once(&kafka, partition);
        assert_is_fold(&workers[*owner], partition);
        let cards: BTreeMap<_, _> = workers[*owner].state(partition).0.iter().map(|(id, a)| (*id, plain(a))).collect();
        assert_eq!(cards, patched(&kafka, partition), "partition {partition}: the patches in the order of the answers");
    }
    workers.into_iter().for_each(Worker::kill);
    for (partition, owner) in (0..).zip(owners) {
        let state = restore(&kafka, partition, stores[owner].clone(), None, rules()).unwrap();
        assert_eq!(dump(&state.projection), fold(&kafka, partition), "partition {partition}: checkpoint and tail");
    }
}

#[test]
fn inv_3_4_5_hold_whatever_fails_moves_or_is_killed() {
    std::thread::scope(|scope| {
        for seed in 1..=8 {
            std::thread::Builder::new()
                .name(format!("seed {seed}"))
                .spawn_scoped(scope, move || {
                    let dir = tempfile::tempdir().unwrap();
                    let mut world = World::new(seed, dir.path());
                    world.settle();
                    (0..TURNS).for_each(|_| world.turn());
                    world.settle();
                    check(world);
                })
                .unwrap();
        }
    });
}
