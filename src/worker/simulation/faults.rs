//! What goes wrong in a run: in the calls of a process, and around it.

use super::cluster::{Failure, Topic};
use super::commands::{pass_ms, skew_ms};
use super::kafka::{Call, Fate};
use super::world::World;
use crate::kafka::InputOffsets;
use crate::projection::{Projection, Tree};
use crate::worker::time::simulated;
use std::sync::Arc;
use std::time::Duration;

/// What completions outlive the window by; their topic's settings have it so.
const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long a process that is told to end may take over its last checkpoints: each of its looks is a millisecond.
const DRAIN: Duration = Duration::from_millis(300);
/// How deep processes stand still inside each other's calls.
const DEPTH: usize = 2;
impl World {
    /// A process makes a call: it may stand still in it, be killed, or get no answer.
    pub fn gate(&self, member: usize, call: Call) -> Fate {
        if self.calm.get() {
            return Fate::Go;
        }
        let faults = &self.plan.faults;
        if self.rarely(faults.freeze) && self.depth.get() < DEPTH {
            self.freeze(member);
        }
        if self.rarely(faults.die) {
            tracing::info!(member, ?call, at = ?simulated::passed(), "is killed in a call");
            return Fate::Die;
        }
        if self.rarely(faults.fail) {
            return Fate::Fail;
        }
        if call == Call::OffsetsSent {
            let failure = self.rarely(faults.commit).then(|| Failure::ALL[self.below(6) as usize]);
            self.kafka.script([failure]);
        }
        Fate::Go
    }

    /// A process stands still in a call while all others go on, perhaps for longer than its session.
    fn freeze(&self, member: usize) {
        let Some(slot) = self.slots.iter().find(|slot| slot.member.get() == Some(member)) else { return };
        tracing::info!(member, at = ?simulated::passed(), "stands still in a call");
        slot.still_since.set(Some(simulated::passed()));
        self.depth.set(self.depth.get() + 1);
        let long = self.chance(50);
        for _ in 0..self.below(if long { 60 } else { 10 }) {
            let other = self.below(self.slots.len() as u64) as usize;
            self.step(other);
            self.pass(self.below(if long { 1000 } else { 40 }));
            self.tick();
        }
        self.depth.set(self.depth.get() - 1);
        slot.still_since.set(None);
        slot.suspect.set(8);
        self.kafka.deafen_for(member, Duration::from_millis(self.below(3000)));
    }

    /// What goes wrong between two turns.
    pub fn faults(&self) {
        let faults = &self.plan.faults;
        let index = self.below(self.slots.len() as u64) as usize;
        if self.rarely(faults.kill) {
            self.kill(index);
        }
        if self.rarely(faults.told) {
            self.tell(index);
        }
        if self.rarely(faults.moves) {
            self.move_one();
        }
        if self.rarely(faults.away) {
            self.kafka.cluster().away_until = simulated::passed() + Duration::from_millis(self.below(8000));
        }
        if self.rarely(faults.clock) {
            self.jump();
        }
        self.disks(index);
        self.logs(index);
    }

    /// A process is killed, unless it is in a call.
    pub fn kill(&self, index: usize) {
        let slot = &self.slots[index];
        if slot.worker.take().is_some() {
            tracing::info!(member = ?slot.member.get(), at = ?simulated::passed(), "is killed");
            slot.member.get().into_iter().for_each(|member| self.bury(member));
        }
    }

    /// A process is told to end, unless it is in a call: it makes its last checkpoints, and leaves at once or is missed when its session
    /// is over. Meanwhile its group may go on.
    fn tell(&self, index: usize) {
        let slot = &self.slots[index];
        let Some(worker) = slot.worker.take() else { return };
        tracing::info!(member = worker.member, at = ?simulated::passed(), "is told to end");
        let former = skew_ms(slot.skew_ms.get());
        let ended = worker.main.end(DRAIN);
        skew_ms(former);
        while !self.kafka.is_dead(worker.member) && worker.writing.borrow_mut().step() {}
        match ended {
            Ok(()) if self.chance(50) => {
                self.kafka.kill(worker.member);
                self.kafka.time_out(worker.member);
            }
            Ok(()) => self.bury(worker.member),
            Err(stop) => self.ended(slot, &stop),
        }
    }

    /// A partition moves to another member; the generation that the others know is over.
    fn move_one(&self) {
        let members = self.members();
        let partition = self.any_partition();
        let heirs: Vec<usize> = members.iter().copied().filter(|m| self.kafka.owner(partition) != Some(*m)).collect();
        if heirs.is_empty() || !self.kafka.is_settled(partition) {
            return;
        }
        self.kafka.revoke(partition, heirs[self.below(heirs.len() as u64) as usize]);
        members.iter().filter(|_| self.chance(30)).for_each(|m| self.kafka.outdate(*m));
    }

    fn jump(&self) {
        let far = [1000, 70_000, 1_800_000, 72_000_000][self.below(4) as usize];
        let by = self.below(2 * far) as i64 - far as i64;
        tracing::info!(by, at = ?simulated::passed(), "a clock jumps, ms");
        if self.chance(50) {
            pass_ms(by);
        } else {
            self.slots[self.below(self.slots.len() as u64) as usize].skew_ms.set(by);
        }
    }

    fn disks(&self, index: usize) {
        let (faults, store) = (&self.plan.faults, &self.slots[index].store);
        if self.rarely(faults.disk) {
            match self.chance(40) {
                true => store.fill(self.chance(60)),
                false => store.fail_writes(1 + self.below(3) as usize),
            }
        }
        if self.rarely(faults.disk) && self.chance(20) {
            store.fail_reads(1 + self.below(3) as usize);
        }
        if self.rarely(faults.damage) {
            self.kill(index);
            if self.chance(20) {
                store.wipe();
            } else if store.values() > 0 {
                store.damage(self.below(store.values() as u64) as usize, self.below(u64::MAX));
            }
        }
    }

    /// What happens to the logs: some of it is Kafka's everyday life, some is what it must not do.
    fn logs(&self, index: usize) {
        let faults = &self.plan.faults;
        let partition = self.any_partition();
        if self.rarely(faults.compact) {
            self.kafka.compact(partition, || self.chance(80));
        }
        if !self.offsets_lost.get() && self.rarely(faults.retention) {
            self.expire_completions(partition);
        }
        if self.rarely(faults.trim) {
            self.trim_input(partition);
        }
        // What was answered is known as far back as the topics go.
        let whole = self.kafka.start(Topic::Completions, partition) == 0;
        if whole && self.rarely(faults.expire) && self.all_stopped() {
            self.offsets_lost.set(true);
            self.kafka.set_committed(partition, InputOffsets::default());
        }
        if self.rarely(faults.anew) && self.all_stopped() {
            self.make_anew();
        }
        if self.rarely(faults.truncate) && self.all_stopped() {
            self.truncate(partition, index);
        }
    }

    /// Stops all processes and waits until no transaction is under way; `false` while one stands still in a call.
    fn all_stopped(&self) -> bool {
        if self.depth.get() > 0 {
            return false;
        }
        (0..self.slots.len()).for_each(|index| self.kill(index));
        self.pass(11_000);
        self.kafka.time_out_transactions(Duration::from_secs(10));
        self.kafka.complete_all();
        true
    }

    /// Retention deletes completions that no clock counts as within the window.
    fn expire_completions(&self, partition: i32) {
        let rules = &self.plan.rules;
        self.models.borrow_mut()[partition as usize].follow(&self.kafka, partition, rules);
        let skews = self.slots.iter().map(|slot| slot.skew_ms.get());
        let oldest_ms = super::commands::now_ms() + skews.min().unwrap_or(0).min(0) - rules.window_ms - DAY_MS;
        self.kafka.expire(Topic::Completions, partition, oldest_ms);
    }

    /// Retention overtakes the worker, now and then.
    fn trim_input(&self, partition: i32) {
        let committed = self.kafka.committed(partition).live.unwrap_or(0);
        let start = self.kafka.start(Topic::Commands, partition);
        let end = self.kafka.end(Topic::Commands, partition);
        let to = if self.chance(50) { committed } else { committed + self.below((end - committed + 1) as u64) as i64 };
        if to <= start {
            return;
        }
        self.input_lost.set(self.input_lost.get() || to > committed);
        self.models.borrow_mut()[partition as usize].gone.extend((committed..to).map(|offset| (0, offset)));
        self.kafka.trim(Topic::Commands, partition, to);
    }

    /// Kafka loses what it had acknowledged: one of the logs ends before the position of a checkpoint.
    fn truncate(&self, partition: i32, index: usize) {
        let tree = Tree::new(partition, self.slots[index].store.clone(), Arc::default());
        let Ok(opened) = Projection::open(tree, self.identity(), self.plan.rules.window_ms) else { return };
        let at = opened.projection.positions();
        let (topic, position) =
            if self.chance(50) { (Topic::Cards, at.cards) } else { (Topic::Completions, at.completions) };
        if position <= self.kafka.start(topic, partition) {
            return;
        }
        self.models.borrow_mut()[partition as usize].unpromised = true;
        let end = self.below(position as u64) as i64;
        tracing::info!(partition, ?topic, position, end, at = ?simulated::passed(), "a log loses its end");
        self.kafka.truncate(topic, partition, end);
    }

    /// All topics are deleted and made anew, and an operator accepts it.
    fn make_anew(&self) {
        self.anew.set(self.anew.get() + 1);
        self.kafka.make_anew();
        self.models.borrow_mut().iter_mut().for_each(|model| *model = super::model::Model::default());
    }
}
