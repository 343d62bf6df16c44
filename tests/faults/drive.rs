//! Owns a drive: workers under a load, supervised, measured, and in the end held against the model.

use std::time::{Duration, Instant};

use crate::rig::Rig;
use crate::support::client::{Producer, Reader};
use crate::support::compare::Check;
use crate::support::generate::{Generator, Random};
use crate::support::model::Command;
use crate::support::worker::{Spec, Worker};
use crate::support::{Ctx, Load, Site, wait_until};
use crate::table::Recovery;

/// Commands a second, beside those that measure.
const RATE: usize = 500;

/// Within which an answer must come, whatever has failed.
pub const PATIENCE: u64 = 150;

/// A worker that is started again whenever it ends, which it may only do in words and with exit code 1.
pub struct Supervised {
    /// How it is started.
    pub spec: Spec,
    /// The process of now.
    pub worker: Worker,
    /// Why each earlier process ended by itself.
    pub ends: Vec<String>,
    is_away: bool,
}

impl Supervised {
    /// Starts it.
    pub fn start(spec: Spec) -> Supervised {
        let worker = spec.start();
        Supervised { spec, worker, ends: Vec::new(), is_away: false }
    }

    /// What a supervisor does.
    pub fn tend(&mut self) {
        if !self.is_away && self.worker.exited().is_some() {
            self.ends.push(last_words(&mut self.worker));
            self.worker = self.spec.start();
        }
    }

    /// SIGKILL, and a start.
    pub fn replace(&mut self) {
        self.worker.kill();
        self.start_again();
    }

    /// A start after a kill.
    pub fn start_again(&mut self) {
        self.worker = self.spec.start();
        self.is_away = false;
    }

    /// SIGKILL; nobody starts it until somebody says so.
    pub fn take_away(&mut self) {
        self.worker.kill();
        self.is_away = true;
    }
}

/// The one line of a worker that has ended by itself.
pub fn last_words(worker: &mut Worker) -> String {
    let (code, log) = (worker.wait_exit(1), worker.log());
    assert_eq!(code, Some(1), "an end by itself has exit code 1; it said:\n{log}");
    assert!(!log.contains("panicked at"), "an end is not a panic:\n{log}");
    let lines: Vec<&str> = log.lines().filter(|l| l.starts_with("card-update-worker: ")).collect();
    assert_eq!(lines.len(), 1, "one line says why:\n{log}");
    eprintln!("ended: {}", lines[0]);
    lines[0].to_string()
}

/// A site with workers under load.
pub struct Drive {
    /// The workers. They say their last lines when they are dropped, from the site's folder.
    pub crew: Vec<Supervised>,
    /// Topics, group, folder.
    pub site: Site,
    /// Numbers of this test.
    pub random: Random,
    load: Load,
    producer: Producer,
    measured: Vec<Command>,
    recoveries: Vec<Recovery>,
    answers: Reader,
}

impl Drive {
    /// Starts load and workers and waits until they answer; `specs` makes the workers.
    pub fn start(rig: &Rig, name: &str, partitions: i32, specs: impl FnOnce(&Site) -> Vec<Spec>) -> Drive {
        Self::on(&rig.ctx, rig.seed, name, partitions, specs)
    }

    /// The same on another cluster.
    pub fn on(ctx: &Ctx, seed: u64, name: &str, partitions: i32, specs: impl FnOnce(&Site) -> Vec<Spec>) -> Drive {
        let site = Site::new(ctx, name, partitions);
        let seed = name.bytes().fold(seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let load = Load::start(&site, Generator::new(seed, partitions, 100), RATE);
        let crew = specs(&site).into_iter().map(Supervised::start).collect();
        let answers = Reader::new(&site.bootstrap, &site.topics.completions, partitions);
        let producer = Producer::new(&site.bootstrap, &site.topics.commands);
        let (measured, recoveries) = (Vec::new(), Vec::new());
        let mut drive = Drive { site, crew, random: Random(seed ^ 1), load, producer, measured, recoveries, answers };
        // The first one also connects producer and reader, which later ones must not measure.
        drive.answered_after(Instant::now());
        drive.flow(300);
        drive
    }

    /// Does what a supervisor does, once.
    pub fn tend(&mut self) {
        self.crew.iter_mut().for_each(Supervised::tend);
    }

    /// Waits until all loops of all workers are members with partitions, and the group rests.
    pub fn wait_complete(&mut self) {
        let count: usize = self.crew.iter().map(|supervised| supervised.spec.loops()).sum();
        wait_until(&format!("{count} members with partitions"), PATIENCE, || {
            self.tend();
            let members = self.site.admin.members();
            // Those that move from one to another are nobody's for a generation.
            let owned: usize = members.iter().map(Vec::len).sum();
            members.len() == count
                && members.iter().all(|partitions| !partitions.is_empty())
                && owned == self.site.partitions as usize
        });
    }

    /// Waits until so many more commands are processed.
    pub fn flow(&mut self, more: i64) {
        let from: i64 = self.site.committed().iter().sum();
        wait_until(&format!("{more} more commands are processed"), PATIENCE, || {
            self.tend();
            self.site.committed().iter().sum::<i64>() >= from + more
        });
    }

    /// A duration of a fault, or a random moment under load: waits for nothing, and keeps the workers running.
    pub fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tend();
            std::thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// A random duration below `ms`.
    pub fn pass_random(&mut self, ms: usize) {
        let time = Duration::from_millis(self.random.below(ms) as u64);
        self.pass(time);
    }

    /// Sends one command to each partition now, waits for their answers, and notes how long after `since` they came.
    pub fn measure(&mut self, since: Instant) -> Recovery {
        let found = self.answered_after(since);
        self.recoveries.push(found);
        found
    }

    fn answered_after(&mut self, since: Instant) -> Recovery {
        // A reader that is behind would be measured instead of the worker.
        while self.answers.poll(Duration::ZERO).is_some() {}
        let commands = (0..self.site.partitions).map(|p| update(&mut self.random, p)).collect();
        let sent = self.producer.send(commands);
        let mut open: Vec<String> = sent.iter().map(|c| self.site.source(c)).collect();
        self.measured.extend(sent);
        let (mut first, deadline) = (None, Instant::now() + Duration::from_secs(PATIENCE));
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "not answered within {PATIENCE} s: {open:?}");
            self.tend();
            let Some(record) = self.answers.poll(Duration::from_millis(20)) else { continue };
            let before = open.len();
            open.retain(|source| record.header("source") != Some(source));
            if open.len() < before {
                first.get_or_insert(since.elapsed());
            }
        }
        Recovery { first: first.unwrap_or_default().as_secs_f64(), every: since.elapsed().as_secs_f64() }
    }

    /// Ends load and workers and compares everything with the model; returns what was measured and why processes ended.
    pub fn finish(mut self) -> (Vec<Recovery>, Vec<String>) {
        while self.crew.len() > 1 {
            let mut leaving = self.crew.pop().expect("more than one");
            leaving.tend();
            leaving.worker.stop();
            self.crew[0].ends.append(&mut leaving.ends);
        }
        // Answers in each partition: the one worker that is left has restored them all. Those of a group that does not rest may
        // come from a loop that is about to give partitions up, and whose last checkpoint is refused then.
        self.wait_complete();
        self.answered_after(Instant::now());
        let (_, mut log) = self.load.stop();
        log.append(&mut self.measured);
        let last = &mut self.crew[0];
        let ends = self.site.admin.ends(&self.site.topics.commands, self.site.partitions);
        wait_until("everything is processed", PATIENCE, || {
            last.tend();
            self.site.committed().iter().zip(&ends).all(|(committed, end)| committed >= end)
        });
        last.tend();
        last.worker.stop();
        Check::new(&self.site, &log).state(&last.spec.state_dir).run();
        (self.recoveries, std::mem::take(&mut last.ends))
    }
}

/// A command that nobody has sent before.
pub fn update(random: &mut Random, partition: i32) -> Command {
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    Command::update(partition, &request, &card, &[("IBAN", "USD", &iban)])
}
