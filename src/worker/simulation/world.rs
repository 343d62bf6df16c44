//! A run: processes over one Kafka, taking turns as the seed has it, until all is quiet and can be held against the contract.

use super::cluster::Topic;
use super::commands::{Random, begin_time, command, garbage, now_ms, pass_ms, replayed, skew_ms};
use super::kafka::SimKafka;
use super::model::{Model, Sent};
use super::plan::Plan;
use super::process::{How, Worker, identity, restore_as};
use super::said::{assert_committed, dump, fold_over};
use super::store::{SimStore, no_store};
use crate::kafka::{Input, MemoryRecord};
use crate::projection::{LogIdentity, Store, Writing};
use crate::worker::rules::{OnTrimmed, Rules};
use crate::worker::time::simulated;
use crate::worker::{StartAt, Stop};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// More rounds than a world needs to become quiet: 400 s of its time.
const QUIET: usize = 20_000;

/// A place where a process runs, or does not.
pub struct Slot {
    pub worker: RefCell<Option<Worker>>,
    /// Its member, also while it is in a call and when it has ended.
    pub member: Cell<Option<usize>>,
    /// Since when its process stands still in a call.
    pub still_since: Cell<Option<Duration>>,
    /// Turns in which it is looked at closely.
    pub suspect: Cell<u32>,
    pub store: Arc<SimStore>,
    writing: RefCell<Weak<RefCell<Writing>>>,
    pub skew_ms: Cell<i64>,
    /// How an operator starts it next.
    pub start_at: Cell<Option<StartAt>>,
    pub on_trimmed: Cell<OnTrimmed>,
}

pub struct World {
    pub kafka: SimKafka,
    pub plan: Plan,
    pub random: RefCell<Random>,
    pub slots: Vec<Slot>,
    pub models: RefCell<Vec<Model>>,
    requests: RefCell<BTreeMap<i32, u64>>,
    /// Members whose process has ended, and when; until their session is over the group counts on them.
    ghosts: RefCell<Vec<(usize, Duration)>>,
    /// How often the topics were made anew.
    pub anew: Cell<u64>,
    /// How many processes stand still in a call, one inside the other.
    pub depth: Cell<usize>,
    /// Whether nothing goes wrong any more.
    pub calm: Cell<bool>,
    /// Offsets were deleted, and inputs trimmed before they were processed: these the worker must stop for.
    pub offsets_lost: Cell<bool>,
    pub input_lost: Cell<bool>,
}

impl World {
    pub fn new(seed: u64) -> Rc<Self> {
        begin_time();
        let mut random = Random(seed);
        let plan = Plan::of(&mut random);
        let slot = |_| Slot {
            worker: RefCell::new(None),
            member: Cell::new(None),
            still_since: Cell::new(None),
            suspect: Cell::new(0),
            store: Arc::default(),
            writing: RefCell::default(),
            skew_ms: Cell::new(0),
            start_at: Cell::new(None),
            on_trimmed: Cell::new(OnTrimmed::Fail),
        };
        let world = Rc::new(Self {
            kafka: SimKafka::default(),
            slots: (0..plan.processes).map(slot).collect(),
            models: RefCell::new((0..plan.partitions).map(|_| Model::default()).collect()),
            plan,
            random: RefCell::new(random),
            requests: RefCell::default(),
            ghosts: RefCell::default(),
            anew: Cell::new(0),
            depth: Cell::new(0),
            calm: Cell::new(false),
            offsets_lost: Cell::new(false),
            input_lost: Cell::new(false),
        });
        world.kafka.cluster().lazy = true;
        let (gate, pause) = (Rc::downgrade(&world), Rc::downgrade(&world));
        world.kafka.cluster().gate =
            Some(Rc::new(move |member, call| gate.upgrade().map_or(super::kafka::Fate::Go, |w| w.gate(member, call))));
        simulated::begin(move |time| {
            pass_ms(time.as_millis() as i64);
            pause.upgrade().into_iter().for_each(|world| world.while_one_waits());
        });
        world
    }

    pub fn below(&self, n: u64) -> u64 {
        self.random.borrow_mut().below(n)
    }
    pub fn chance(&self, percent: u64) -> bool {
        self.random.borrow_mut().chance(percent)
    }
    /// True so many times in ten thousand.
    pub fn rarely(&self, times: u64) -> bool {
        self.below(10_000) < times
    }
    pub fn any_partition(&self) -> i32 {
        self.below(self.plan.partitions as u64) as i32
    }
    pub fn identity(&self) -> LogIdentity {
        let anew = self.anew.get();
        LogIdentity { cards_topic: format!("cards {anew}"), completions_topic: format!("answers {anew}"), ..identity() }
    }
    fn how(&self, rules: Rules, start_at: Option<StartAt>) -> How {
        How { rules, identity: self.identity(), start_at, standby: false, chunk: self.plan.chunk }
    }
    pub fn pass(&self, ms: u64) {
        simulated::pass(Duration::from_millis(ms));
        pass_ms(ms as i64);
    }

    // --- what comes in ---

    fn send(&self) {
        for _ in 0..self.below(self.plan.burst) {
            let partition = self.any_partition();
            let input = if self.chance(20) { Input::Backfill } else { Input::Live };
            let (sent, record) = self.record(partition, input);
            let model = &mut self.models.borrow_mut()[partition as usize];
            assert_eq!(self.kafka.end(input.into(), partition), model.sent[input as usize].len() as i64);
            model.sent[input as usize].push(sent);
            self.kafka.append(input.into(), partition, record);
        }
    }

    /// Something new, repeated, in conflict, invalid, or garbage; or, of the backfill, what was sent live before.
    fn record(&self, partition: i32, input: Input) -> (Sent, MemoryRecord) {
        if self.chance(4) {
            let bytes = 1 + self.below(30) as usize;
            return (Sent::Garbage(bytes), garbage(bytes));
        }
        if input == Input::Backfill && self.chance(50) {
            let models = self.models.borrow();
            let live = &models[partition as usize].sent[0];
            let offset = self.below(live.len().max(1) as u64) as usize;
            if let Some(Sent::Command { request, card, accounts, at_ms, .. }) = live.get(offset) {
                let ours = self.chance(70);
                let sent = Sent::Command {
                    request: *request,
                    card: *card,
                    accounts: accounts.clone(),
                    at_ms: *at_ms,
                    replay_of: ours.then_some(offset as i64),
                };
                let mut record = MemoryRecord { timestamp_ms: Some(*at_ms), ..command(*request, *card, accounts) };
                if ours {
                    record = replayed(record, partition, offset as i64);
                }
                return (sent, record);
            }
        }
        self.command(partition)
    }

    fn command(&self, partition: i32) -> (Sent, MemoryRecord) {
        let mut requests = self.requests.borrow_mut();
        let counter = requests.entry(partition).or_default();
        *counter += u64::from(self.chance(65));
        let n = *counter - self.below((*counter).min(8) + 1);
        let (request, card) = (n * 8 + partition as u64, (n % self.plan.cards) * 8 + partition as u64);
        let accounts: Vec<(usize, u64)> = (0..self.below(4))
            .map(|i| ((n as usize + i as usize) % 3, n + if self.chance(6) { 1 + self.below(3) } else { 0 }))
            .collect();
        let at_ms = now_ms() - if self.chance(20) { self.below(100_000) as i64 } else { 0 };
        let mut record = MemoryRecord { timestamp_ms: Some(at_ms), ..command(request, card, &accounts) };
        if self.chance(4) && !accounts.is_empty() {
            let text = String::from_utf8(record.value.unwrap()).unwrap();
            let invalid = ["USD", "EUR", "GBP"].iter().fold(text, |text, code| text.replace(code, "QQQ"));
            record.value = Some(invalid.into_bytes());
            return (Sent::Invalid { request, card }, record);
        }
        (Sent::Command { request, card, accounts, at_ms, replay_of: None }, record)
    }

    // --- turns ---

    fn turn(&self) {
        self.send();
        self.faults();
        for _ in 0..1 + self.below(6) {
            let slot = self.below(self.slots.len() as u64) as usize;
            self.step(slot);
        }
        let ms = if self.chance(3) { self.below(6000) } else { self.below(40) };
        self.pass(ms);
        self.tick();
    }

    /// A process that can takes a turn of its loop, restorer or writer.
    pub fn step(&self, index: usize) {
        let slot = &self.slots[index];
        let Some(mut worker) = slot.worker.take() else { return };
        let former = skew_ms(slot.skew_ms.get());
        let done = match self.below(8) {
            0 | 1 => {
                worker.restore();
                Ok(())
            }
            2 => {
                worker.writing.borrow_mut().step();
                Ok(())
            }
            _ => worker.main.step().map(drop),
        };
        skew_ms(former);
        match done {
            Err(stop) => self.ended(slot, &stop),
            Ok(()) if self.kafka.is_dead(worker.member) => {
                tracing::info!(member = worker.member, "a process was killed");
                self.bury(worker.member);
            }
            Ok(()) => {
                self.look_at(slot, &worker);
                slot.worker.replace(Some(worker));
            }
        }
    }

    /// Whoever stood still is looked at for some turns: it may hold what another has decided.
    fn look_at(&self, slot: &Slot, worker: &Worker) {
        let suspect = slot.suspect.get();
        slot.suspect.set(suspect.saturating_sub(1));
        if suspect == 0 && !self.chance(1) {
            return;
        }
        for partition in 0..self.plan.partitions {
            let whole = self.kafka.start(Topic::Completions, partition) == 0;
            let known = whole && !self.models.borrow()[partition as usize].unpromised;
            // A read that is made to fail is no answer.
            if let Some(running) = worker.runs(partition).filter(|_| known && !slot.store.fails()) {
                assert_committed(&self.kafka, partition, &running.projection);
            }
        }
    }

    /// A process says why it ends; what it says must have a cause.
    pub fn ended(&self, slot: &Slot, Stop(why): &Stop) {
        let member = slot.member.get().unwrap();
        tracing::info!(member, why, "a process ended");
        if why.contains("were deleted before they were processed") {
            assert!(self.input_lost.get(), "no input was trimmed: {why}");
            slot.on_trimmed.set(OnTrimmed::Skip);
        } else if why.contains("--start-at") {
            assert!(self.offsets_lost.get(), "no offset was deleted: {why}");
            slot.start_at.set(Some(StartAt::Answered));
        } else if why.contains("clock is ahead") {
            assert!(slot.skew_ms.replace(0) > 0, "its clock is right: {why}");
        } else {
            assert!(
                why.contains("the process was killed") && self.kafka.is_dead(member),
                "it stops without a cause: {why}"
            );
        }
        self.bury(member);
    }

    /// A member's process has ended; the group learns so when its session is over.
    pub fn bury(&self, member: usize) {
        self.kafka.kill(member);
        self.ghosts.borrow_mut().push((member, simulated::passed()));
    }

    /// Starts what does not run, as a supervisor does.
    pub fn start(&self, index: usize) {
        let slot = &self.slots[index];
        let running = slot.worker.borrow().is_some() || slot.member.get().is_some_and(|m| !self.kafka.is_dead(m));
        if running {
            return;
        }
        let log = self.kafka.join_as(index);
        let former = slot.member.replace(Some(log.member));
        if let Some(former) = former.filter(|_| self.plan.static_members) {
            self.kafka.inherit(former, log.member);
        }
        let rules = Rules { on_trimmed: slot.on_trimmed.get(), ..self.plan.rules.clone() };
        let how = How { standby: self.plan.standby, ..self.how(rules, slot.start_at.get()) };
        let worker = Worker::make(&self.kafka, log, slot.store.clone(), how);
        slot.writing.replace(Rc::downgrade(&worker.writing));
        tracing::info!(index, member = ?slot.member.get(), "a process starts");
        slot.worker.replace(Some(worker));
    }

    /// What time does: processes start, markers are written, transactions and sessions time out, the group finds owners.
    pub fn tick(&self) {
        for index in 0..self.slots.len() {
            if self.calm.get() || self.chance(10) {
                self.start(index);
            }
        }
        self.kafka.write_markers(|| self.next_marker());
        self.kafka.time_out_transactions(Duration::from_secs(10));
        self.time_out_sessions();
        self.find_owners();
    }

    fn next_marker(&self) -> Option<usize> {
        let comes = self.calm.get() || self.chance(self.plan.markers);
        comes.then(|| self.below(8) as usize)
    }

    fn time_out_sessions(&self) {
        let over = |since: Duration| simulated::passed() > since + Duration::from_secs(10);
        let mut ghosts = self.ghosts.borrow_mut();
        ghosts.iter().filter(|(_, since)| over(*since)).for_each(|(member, _)| drop(self.kafka.time_out(*member)));
        ghosts.retain(|(_, since)| !over(*since));
        for slot in self.slots.iter().filter(|slot| slot.still_since.get().is_some_and(over)) {
            slot.member.get().into_iter().for_each(|member| drop(self.kafka.time_out(member)));
            slot.still_since.set(Some(simulated::passed()));
        }
    }

    /// Members that the group counts on.
    pub fn members(&self) -> Vec<usize> {
        self.slots.iter().filter_map(|slot| slot.member.get()).filter(|m| self.kafka.is_in_group(*m)).collect()
    }

    fn find_owners(&self) {
        let members = self.members();
        if members.is_empty() {
            return;
        }
        for partition in 0..self.plan.partitions {
            if self.kafka.owner(partition).is_none() {
                self.kafka.assign(members[self.below(members.len() as u64) as usize], &[partition]);
            }
        }
    }

    /// Somebody waits in a loop of its own: brokers and disks go on.
    fn while_one_waits(&self) {
        self.kafka.write_markers(|| self.next_marker());
        self.kafka.time_out_transactions(Duration::from_secs(10));
        for slot in &self.slots {
            slot.writing.borrow().upgrade().into_iter().for_each(|writing| {
                writing.borrow_mut().step();
            });
        }
    }

    // --- the end ---

    /// Nothing goes wrong any more, until all that was sent is processed.
    fn settle(&self) {
        self.calm.set(true);
        for slot in &self.slots {
            slot.store.fill(false);
            slot.store.fail_reads(0);
            slot.store.fail_writes(0);
        }
        self.kafka.cluster().away_until = Duration::ZERO;
        self.kafka.cluster().script.clear();
        for round in 0..QUIET {
            if round % 8 == 0 && self.is_quiet() {
                self.offsets_lost.set(false);
                self.input_lost.set(false);
                for slot in &self.slots {
                    slot.on_trimmed.set(OnTrimmed::Fail);
                    slot.start_at.set(None);
                }
                return;
            }
            (0..self.slots.len()).for_each(|slot| self.step(slot));
            self.pass(20);
            self.tick();
        }
        let owners: Vec<_> = (0..self.plan.partitions).map(|p| self.kafka.owner(p)).collect();
        tracing::info!(?owners, members = ?self.members(), incomplete = self.kafka.cluster().incomplete.len(), plan = ?self.plan, "no quiet");
        panic!("the world does not become quiet");
    }

    fn is_quiet(&self) -> bool {
        let drained = |p: i32| {
            let owner = self.kafka.owner(p);
            let slot = self.slots.iter().find(|slot| slot.member.get() == owner);
            slot.is_some_and(|slot| slot.worker.borrow().as_ref().is_some_and(|w| w.has_drained(p)))
        };
        self.kafka.cluster().incomplete.is_empty() && (0..self.plan.partitions).all(drained)
    }

    /// INV-3 to INV-5: the answers are the contract's, and every owner's state is the fold of the logs, as is a restore.
    fn check(&self) {
        for partition in 0..self.plan.partitions {
            self.models.borrow_mut()[partition as usize].check(&self.kafka, partition, &self.plan.rules);
            let expected = fold_over(&self.kafka, partition, self.plan.rules.window_ms);
            for slot in &self.slots {
                let worker = slot.worker.borrow();
                let Some(worker) = worker.as_ref().filter(|w| self.kafka.owner(partition) == Some(w.member)) else {
                    continue;
                };
                let state = dump(&worker.runs(partition).unwrap().projection);
                assert_eq!(state, expected, "partition {partition}: the running state and the fold of the logs");
            }
            self.check_restore(partition, no_store());
        }
    }

    fn check_restore(&self, partition: i32, store: Arc<dyn Store>) {
        let how = self.how(self.plan.rules.clone(), None);
        let restored = restore_as(&self.kafka, partition, store, how).unwrap();
        let expected = fold_over(&self.kafka, partition, self.plan.rules.window_ms);
        assert_eq!(dump(&restored.projection), expected, "partition {partition}: a restore and the fold of the logs");
    }

    /// INV-2: whatever the disks hold after a kill leads to the fold of the logs.
    fn check_disks(&self) {
        for slot in &self.slots {
            drop(slot.worker.take());
            for partition in slot.store.partitions() {
                self.check_restore(partition, slot.store.clone());
            }
        }
    }

    /// The whole run; a number that two runs of a seed share.
    pub fn run(&self) -> u64 {
        tracing::info!(plan = ?self.plan.faults, window_ms = self.plan.rules.window_ms, "a world begins");
        (0..self.slots.len()).for_each(|slot| self.start(slot));
        self.find_owners();
        for part in 0..2 {
            self.calm.set(false);
            (0..self.plan.turns / 2).for_each(|_| self.turn());
            self.settle();
            self.check();
            if part == 0 && self.chance(50) {
                (0..self.slots.len()).for_each(|slot| self.kill(slot));
            }
        }
        self.check_disks();
        self.kafka.digest() ^ self.below(u64::MAX)
    }
}
