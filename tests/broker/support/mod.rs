//! Owns what the broker tests share: the context of a run, a site (topics, group, folder) per test, and waiting on conditions.

pub mod broker;
pub mod client;
pub mod compare;
pub mod expected;
pub mod generate;
pub mod http;
pub mod java;
pub mod lone;
pub mod model;
pub mod topics;
pub mod worker;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use broker::Guard;
use client::{Producer, Reader, Record};
use generate::Generator;
use model::Command;
use topics::{Admin, TopicPlan, Topics};
use worker::{Spec, Worker};

/// What every test gets.
pub struct Ctx {
    /// The broker of this run.
    pub bootstrap: String,
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as i64
}

/// Looks at a condition again and again until it holds; panics, naming it, when it does not in time.
pub fn wait_until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// The topics, the group and the folder of one test; all gone when it is dropped.
pub struct Site {
    /// The broker.
    pub bootstrap: String,
    /// Topic names.
    pub topics: Topics,
    /// Partitions of each topic.
    pub partitions: i32,
    /// An administrator who knows the group.
    pub admin: Admin,
    /// The consumer group, unused until a worker joins it.
    pub group: String,
    folder: tempfile::TempDir,
    _guard: Option<Guard>,
}

impl Site {
    /// Topics as the contract wants them.
    pub fn new(ctx: &Ctx, name: &str, partitions: i32) -> Site {
        Self::with(ctx, name, partitions, |_| {})
    }

    /// Topics with changes to the plans: commands, backfill, completions, cards, dead letters.
    pub fn with(ctx: &Ctx, name: &str, partitions: i32, change: impl FnOnce(&mut Vec<TopicPlan>)) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("cut-{}-{}-{count}-{name}", now_ms() / 1000, std::process::id());
        let topics = Topics::named(&prefix);
        let admin = Admin::new(&ctx.bootstrap, &prefix);
        let mut plans = topics.plans(partitions);
        change(&mut plans);
        admin.create(&plans);
        let folder = tempfile::Builder::new().prefix("card-update-test-").tempdir().expect("a folder");
        let _guard = Guard::start("rm -rf \"$0\"", &folder.path().display().to_string()).ok();
        Site { bootstrap: ctx.bootstrap.clone(), topics, partitions, admin, group: prefix, folder, _guard }
    }

    /// A worker of this site, with one loop; tests change the rest.
    pub fn spec(&self, name: &str) -> Spec {
        Spec::new(name, self.folder.path())
            .text("kafka.bootstrap_servers", &self.bootstrap)
            .text("kafka.group_id", &self.group)
            .text("topics.commands", &self.topics.commands)
            .text("topics.backfill", &self.topics.backfill)
            .text("topics.completions", &self.topics.completions)
            .text("topics.cards", &self.topics.cards)
            .text("topics.dead_letters", &self.topics.dead_letters)
            .threads(1)
    }

    /// A file of this test, gone with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends live commands and returns them with their offsets.
    pub fn send(&self, commands: Vec<Command>) -> Vec<Command> {
        Producer::new(&self.bootstrap, &self.topics.commands).send(commands)
    }

    /// Sends one live command.
    pub fn send_one(&self, command: Command) -> Command {
        self.send(vec![command]).remove(0)
    }

    /// Sends to the backfill topic.
    pub fn send_backfill(&self, commands: Vec<Command>) -> Vec<Command> {
        Producer::new(&self.bootstrap, &self.topics.backfill).send(commands)
    }

    /// The group's committed offsets of the commands topic, 0 where there is none.
    pub fn committed(&self) -> Vec<i64> {
        let found = self.admin.committed(&self.topics.commands, self.partitions);
        found.into_iter().map(|o| o.unwrap_or(0)).collect()
    }

    /// Waits until everything in the commands topic is processed; these workers must stay alive meanwhile.
    pub fn wait_processed(&self, workers: &mut [&mut Worker], seconds: u64) {
        self.wait_topic_processed(&self.topics.commands, workers, seconds);
    }

    /// The same for the backfill topic.
    pub fn wait_backfilled(&self, workers: &mut [&mut Worker], seconds: u64) {
        self.wait_topic_processed(&self.topics.backfill, workers, seconds);
    }

    fn wait_topic_processed(&self, topic: &str, workers: &mut [&mut Worker], seconds: u64) {
        let ends = self.admin.ends(topic, self.partitions);
        wait_until(&format!("{topic} is processed up to {ends:?}"), seconds, || {
            workers.iter_mut().for_each(|w| w.assert_running());
            let committed = self.admin.committed(topic, self.partitions);
            committed.iter().zip(&ends).all(|(c, end)| c.unwrap_or(0) >= *end)
        });
    }

    /// Waits until completions and dead letters together hold `count` committed records.
    pub fn wait_answers(&self, count: usize, worker: &mut Worker, seconds: u64) {
        let topics = [&self.topics.completions, &self.topics.dead_letters];
        let readers = topics.map(|topic| Reader::new(&self.bootstrap, topic, self.partitions));
        let mut found = 0;
        wait_until(&format!("{count} answers"), seconds, || {
            for reader in &readers {
                while reader.poll(Duration::from_millis(20)).is_some() {
                    found += 1;
                }
            }
            worker.assert_running();
            found >= count
        });
    }

    /// Waits until the group is stable with this many members, each with at least one partition.
    pub fn wait_members(&self, count: usize, seconds: u64) {
        wait_until(&format!("{count} members with partitions"), seconds, || {
            let members = self.admin.members();
            members.len() == count && members.iter().all(|partitions| !partitions.is_empty())
        });
    }

    /// All committed records of a topic, once no transaction is open in it.
    pub fn read(&self, topic: &str) -> Vec<Record> {
        wait_until(&format!("no transaction is open in {topic}"), 30, || {
            (0..self.partitions).all(|p| self.admin.watermarks(topic, p).1 == self.admin.stable_end(topic, p))
        });
        Reader::new(&self.bootstrap, topic, self.partitions).read_to_end()
    }

    /// All completions.
    pub fn completions(&self) -> Vec<Record> {
        self.read(&self.topics.completions)
    }

    /// The completions of one command, by its position.
    pub fn answers_to(&self, command: &Command) -> Vec<Record> {
        let source = self.source(command);
        self.completions().into_iter().filter(|r| r.header("source") == Some(&source)).collect()
    }

    /// The one completion of a command.
    pub fn answer_to(&self, command: &Command) -> Record {
        let mut found = self.answers_to(command);
        assert_eq!(found.len(), 1, "one completion for {}: {found:?}", self.source(command));
        found.remove(0)
    }

    /// The header `source` of a command's completion.
    pub fn source(&self, command: &Command) -> String {
        format!("{}/{}/{}", self.topics.commands, command.partition, command.offset)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.admin.try_delete(&self.topics.all());
    }
}

/// Mixed commands sent at a steady pace beside the test.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Generator, Vec<Command>)>>,
    topic: (String, String, i32),
}

impl Load {
    /// Sends about `rate` commands a second until it is stopped.
    pub fn start(site: &Site, mut generator: Generator, rate: usize) -> Load {
        let mut producer = Producer::new(&site.bootstrap, &site.topics.commands);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                let start = Instant::now();
                let commands = (0..rate / 20 + 1).map(|_| generator.next_command()).collect();
                sent.extend(producer.send_beside_faults(commands));
                std::thread::sleep(Duration::from_millis(50).saturating_sub(start.elapsed()));
            }
            (generator, sent)
        });
        let topic = (site.bootstrap.clone(), site.topics.commands.clone(), site.partitions);
        Load { stop, thread: Some(thread), topic }
    }

    /// Stops sending; returns the generator, with what it remembers, and what is in the topic.
    pub fn stop(mut self) -> (Generator, Vec<Command>) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        let (generator, sent) = thread.join().expect("the load ran to its end");
        (generator, stored(sent, &self.topic))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The thread of a test that has failed goes on to its next look, and no longer.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was sent without those that a fault kept from the topic: whether a record whose outcome the client does not know was stored,
/// the topic says.
fn stored(sent: Vec<Command>, (bootstrap, topic, partitions): &(String, String, i32)) -> Vec<Command> {
    let (mut known, unknown): (Vec<_>, Vec<_>) = sent.into_iter().partition(|c| c.offset >= 0);
    if unknown.is_empty() {
        return known;
    }
    let claimed: HashSet<(i32, i64)> = known.iter().map(|c| (c.partition, c.offset)).collect();
    let mut free = Reader::new(bootstrap, topic, *partitions).read_to_end();
    free.retain(|r| !claimed.contains(&(r.partition, r.offset)));
    for mut command in unknown {
        if let Some(at) = free.iter().position(|r| r.is(&command)) {
            command.offset = free.remove(at).offset;
            known.push(command);
        }
    }
    known
}

/// The files below a folder.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
