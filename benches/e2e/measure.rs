//! A contestant as a process, and what it costs: read from the system, and from the offsets that its group commits.

use crate::floor;
use crate::support::worker::program;
use crate::support::{Site, wait_until};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Who is measured.
#[derive(Clone, Copy)]
pub enum Contestant<'p> {
    /// A bare copy loop.
    Floor,
    /// The same with contents that a worker wrote, from a file.
    FloorOf(&'p Path),
    /// The worker.
    Worker,
}

/// A contestant under way.
pub struct Running(Child);

/// What the processing of a load that was there before cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Throughput {
    pub commands_per_second: f64,
    pub cpu_s_per_million: f64,
    /// The same of the second half alone; `None` when the offsets were not told in time to see where it begins.
    pub cpu_s_per_million_second_half: Option<f64>,
    pub peak_rss_mib: f64,
}

impl Contestant<'_> {
    /// Starts it on the site's topics.
    pub fn start(self, site: &Site, threads: u32) -> Running {
        let mut command = match self {
            Self::Floor => floor::command(site, threads, None),
            Self::FloorOf(sample) => floor::command(site, threads, Some(sample)),
            Self::Worker => {
                let t = &site.topics;
                let mut command = Command::new(program());
                command.arg("run");
                for (name, value) in [
                    ("kafka.bootstrap_servers", site.bootstrap.as_str()),
                    ("kafka.group_id", &site.group),
                    ("topics.commands", &t.commands),
                    ("topics.backfill", &t.backfill),
                    ("topics.completions", &t.completions),
                    ("topics.cards", &t.cards),
                    ("topics.dead_letters", &t.dead_letters),
                    ("worker.state_dir", &site.path("state").display().to_string()),
                    ("worker.threads", &threads.to_string()),
                    ("http.listen", ""),
                ] {
                    command.arg("--set").arg(format!("{name}={value}"));
                }
                command
            }
        };
        let log = fs::File::create(site.path("log")).unwrap();
        Running(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }
}

impl Running {
    fn assert_running(&mut self, site: &Site) {
        let ended = self.0.try_wait().unwrap();
        assert!(ended.is_none(), "it ended: {}", fs::read_to_string(site.path("log")).unwrap());
    }
    /// CPU seconds of the process so far.
    fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks = |i: usize| after_name.split_whitespace().nth(i).unwrap().parse::<f64>().unwrap();
        // utime and stime, in ticks of 10 ms (`getconf CLK_TCK`).
        (ticks(11) + ticks(12)) / 100.0
    }
    fn peak_rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

/// It ends with what measures it, however that ends.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A moment of a run.
struct Mark {
    at: Instant,
    done: i64,
    cpu_s: f64,
}

/// The group's committed offsets, without waiting for transactions that are open: under load there always is one.
struct Progress {
    group: BaseConsumer,
    inputs: TopicPartitionList,
}

impl Progress {
    fn of(site: &Site) -> Self {
        let mut inputs = TopicPartitionList::new();
        inputs.add_partition_range(&site.topics.commands, 0, site.partitions - 1);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &site.bootstrap).set("group.id", &site.group);
        config.set("isolation.level", "read_uncommitted").set("enable.auto.commit", "false");
        Self { group: config.create().unwrap(), inputs }
    }

    fn done(&self) -> i64 {
        let found = self.group.committed_offsets(self.inputs.clone(), Duration::from_secs(10));
        let offsets =
            found.map(|list| list.elements().iter().map(|e| e.offset()).collect()).unwrap_or_else(|_| Vec::new());
        offsets.iter().filter_map(|offset| if let Offset::Offset(next) = offset { Some(next) } else { None }).sum()
    }
}

/// Waits until `count` commands are processed; measured from the first commit that is seen.
pub fn throughput(site: &Site, running: &mut Running, count: u64) -> Throughput {
    let (count, progress) = (count as i64, Progress::of(site));
    let mut mark = |least: i64| {
        let mut done = 0;
        wait_until(&format!("{least} commands are processed"), 600, || {
            running.assert_running(site);
            done = progress.done();
            done >= least
        });
        Mark { at: Instant::now(), done, cpu_s: running.cpu_s() }
    };
    let marks = [mark(1), mark(count / 2), mark(count)];
    let cpu = |from: &Mark, to: &Mark| (to.cpu_s - from.cpu_s) / (to.done - from.done).max(1) as f64 * 1e6;
    let [first, half, last] = &marks;
    let seconds = (last.at - first.at).max(Duration::from_millis(1)).as_secs_f64();
    Throughput {
        commands_per_second: (last.done - first.done) as f64 / seconds,
        cpu_s_per_million: cpu(first, last),
        cpu_s_per_million_second_half: (half.done < count * 3 / 4).then(|| cpu(half, last)),
        peak_rss_mib: running.peak_rss_mib(),
    }
}
