//! Promise: workers that are killed, and zombies that wake up when others have taken over, lose and double nothing.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::drive::Drive;
use crate::rig::Rig;
use crate::support::Site;
use crate::support::broker::free_port;
use crate::support::http::metric;
use crate::support::worker::Spec;
use crate::table::Row;

/// The name that librdkafka gives to the thread behind each of its clients' calls.
const CLIENT_THREAD: &str = "rdk:main";

/// Longer than a session, and than a transaction.
const FREEZE: Duration = Duration::from_secs(12);

/// How long a client goes without.
const STARVATION: Duration = Duration::from_secs(12);

fn worker(site: &Site, name: &str) -> Spec {
    site.spec(name).set("checkpoint.max_tail_records", "1500").text("checkpoint.interval", "1s")
}

/// With static membership a worker that is started again has its partitions back at once.
pub fn a_worker_killed_again_and_again_loses_and_doubles_nothing(rig: &Rig) {
    let mut drive = Drive::start(rig, "killed", 4, |site| vec![worker(site, "w").threads(2).instance("killed")]);
    for _ in 0..8 * rig.rounds {
        drive.pass_random(1000);
        let moment = Instant::now();
        drive.crew[0].replace();
        drive.measure(moment);
    }
    let (recoveries, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "nothing but the kills ended it");
    let row = Row {
        fault: "`kill -9` of the only worker, started again at once (`worker.instance_id` set)",
        reaction: "reads its checkpoint and the tail of the topics, takes its partitions back",
        from: "the kill",
        recoveries,
        restarts: 0,
    };
    rig.table.add("process 1", row);
}

/// Between two generations the group takes no offsets: who is told to end then waits for the next one.
pub fn told_to_end_while_another_joins_it_makes_its_last_checkpoint(rig: &Rig) {
    let mut drive = Drive::start(rig, "leaver", 4, |site| vec![worker(site, "a").threads(2), worker(site, "b")]);
    for _ in 0..4 * rig.rounds {
        drive.wait_complete();
        drive.crew[1].worker.stop();
        drive.crew[1].start_again();
        drive.pass_random(600);
        let before = drive.crew[0].worker.log().len();
        drive.crew[0].worker.stop();
        let said = drive.crew[0].worker.log().split_off(before);
        assert!(said.contains("partitions given up") && !said.contains("last checkpoint"), "{said}");
        drive.crew[0].start_again();
    }
    drive.wait_complete();
    let (_, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "nothing but the signals ended them");
}

/// Without an instance id the group gives the partitions of a killed worker to the others when its session is over.
pub fn one_of_two_workers_killed_is_replaced_by_the_other(rig: &Rig) {
    let mut drive = Drive::start(rig, "heir", 4, |site| vec![worker(site, "a"), worker(site, "b")]);
    for round in 0..2 * rig.rounds {
        drive.wait_complete();
        drive.pass_random(1000);
        let moment = Instant::now();
        drive.crew[round % 2].take_away();
        drive.measure(moment);
        drive.crew[round % 2].start_again();
    }
    drive.wait_complete();
    let (recoveries, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "nothing but the kills ended them");
    let row = Row {
        fault: "`kill -9` of one of two workers, not started again",
        reaction: "the other takes its partitions over when its session (10 s) is over",
        from: "the kill",
        recoveries,
        restarts: 0,
    };
    rig.table.add("process 2", row);
}

/// SIGSTOP past the session's end, then SIGCONT: the zombie was replaced and must write nothing more.
pub fn zombies_that_wake_up_under_load_write_nothing_more(rig: &Rig) {
    let mut drive = Drive::start(rig, "zombies", 4, |site| vec![worker(site, "a"), worker(site, "b")]);
    for round in 0..2 * rig.rounds {
        drive.wait_complete();
        drive.pass_random(1000);
        drive.crew[round % 2].worker.freeze();
        // The fault's duration.
        drive.pass(FREEZE);
        let moment = Instant::now();
        drive.crew[round % 2].worker.thaw();
        drive.measure(moment);
    }
    drive.wait_complete();
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "SIGSTOP of one of two workers for 12 s, then SIGCONT",
        reaction: "the other takes over; the zombie's transaction is fenced, it joins anew or ends with exit code 1",
        from: "SIGCONT",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("process 3", row);
}

/// Kills and zombies of three workers at random, several at once.
pub fn a_storm_of_kills_and_zombies_loses_and_doubles_nothing(rig: &Rig) {
    let names = ["a", "b", "c"];
    let mut drive = Drive::start(rig, "storm", 6, |site| {
        names.iter().map(|name| worker(site, name).instance(&format!("storm-{name}"))).collect()
    });
    for _ in 0..2 * rig.rounds {
        storm(&mut drive, 5);
        let moment = Instant::now();
        drive.crew.iter().for_each(|one| one.worker.thaw());
        drive.measure(moment);
    }
    drive.wait_complete();
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "storm: three workers killed and stopped at random moments, up to 15 s long",
        reaction: "each that is left goes on with what it has; killed ones start again, zombies join anew",
        from: "the storm's end",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("process 4", row);
}

fn storm(drive: &mut Drive, blows: usize) {
    for _ in 0..blows {
        drive.pass_random(3000);
        let one = drive.random.below(drive.crew.len());
        match drive.random.below(3) {
            0 => drive.crew[one].replace(),
            1 => drive.crew[one].worker.freeze(),
            _ => drive.crew.iter().for_each(|one| one.worker.thaw()),
        }
    }
}

/// Where calls into the client time out before its own thread has seen them, nothing may be taken for done that is not.
pub fn a_client_without_processor_time_is_late_and_nothing_else(rig: &Rig) {
    let port = free_port().expect("a port");
    let starved = |site: &Site| worker(site, "w").threads(2).text("http.listen", &format!("127.0.0.1:{port}"));
    let mut drive = Drive::start(rig, "starved", 4, |site| vec![starved(site)]);
    for _ in 0..rig.rounds {
        starve(drive.crew[0].worker.pid());
        let busy = Busy::start();
        // The fault's duration.
        drive.pass(STARVATION);
        drop(busy);
        assert!(late_commits(port) > 0.0, "it has been late");
        drive.crew[0].replace();
        drive.flow(100);
    }
    let (_, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "nothing but the kills ended it");
}

/// How many commits have taken longer than 100 ms.
fn late_commits(port: u16) -> f64 {
    let series = |name: &str| metric(port, &format!("card_update_batch_duration_seconds_{name}")).expect("a metric");
    series("count{step=\"commit\"}") - series("bucket{step=\"commit\",le=\"0.1\"}")
}

/// Its client's threads run only when nobody else wants to.
fn starve(pid: u32) {
    let mut starved = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("a running worker").flatten() {
        // Threads of what was asked at the start may end meanwhile.
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() == CLIENT_THREAD {
            let set = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(task.file_name()).status().expect("chrt");
            starved += usize::from(set.success());
        }
    }
    assert!(starved >= 4, "a consumer's and a producer's thread of each loop: {starved}");
}

/// Threads that leave the idle no time, until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Busy {
        let over = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..2 * cores {
            let over = over.clone();
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {});
        }
        Busy(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
