//! Promise: kills and frozen owners lose no answer and double none, and the local state follows the topics.

use std::time::Duration;

use crate::support::compare::Check;
use crate::support::generate::{Generator, Random};
use crate::support::worker::{Spec, Worker};
use crate::support::{Ctx, Load, Site, wait_until};

fn total(site: &Site) -> i64 {
    site.committed().iter().sum()
}

/// Waits until `more` commands beyond `from` are committed; returns how many are then.
fn wait_progress(site: &Site, workers: &mut [&mut Worker], from: i64, more: i64) -> i64 {
    let mut now = from;
    wait_until(&format!("{more} commands beyond {from}"), 90, || {
        workers.iter_mut().for_each(|w| w.assert_running());
        now = now.max(total(site));
        now >= from + more
    });
    now
}

/// INV-2 and INV-5: SIGKILL at random moments, most of them in the middle of work, some during the start and the restore.
pub fn inv_2_twenty_four_kills_under_load_lose_and_double_nothing(ctx: &Ctx) {
    let site = Site::new(ctx, "storm", 4);
    let spec = site
        .spec("w")
        .instance("storm")
        .threads(2)
        .set("checkpoint.max_tail_records", "1500")
        .text("checkpoint.interval", "1s");
    let load = Load::start(&site, Generator::new(200, 4, 300), 800);
    kill_again_and_again(&site, &spec, 24, 201);
    let (_, log) = load.stop();
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 120);
    // The killed ones may have answered everything; the state is whole only where the last one has restored it.
    for partition in 0..4 {
        worker.wait_said(&format!("partition restored partition={partition} "), 60);
    }
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

fn kill_again_and_again(site: &Site, spec: &Spec, kills: usize, seed: u64) {
    let mut random = Random(seed);
    let mut done = 0;
    for kill in 0..kills {
        let mut worker = spec.start();
        let early = kill % 4 == 3;
        if !early {
            done = wait_progress(site, &mut [&mut worker], done, 1);
        }
        // The moment of the kill is what is random here; nothing waits for this.
        let moment = random.below(if early { 1200 } else { 500 });
        std::thread::sleep(Duration::from_millis(moment as u64));
        worker.assert_running();
        worker.kill();
    }
}

/// A killed worker of dynamic membership: its partitions come back after the session time-out.
pub fn a_killed_worker_repeats_no_completion(ctx: &Ctx) {
    let site = Site::new(ctx, "killed", 2);
    let load = Load::start(&site, Generator::new(202, 2, 100), 500);
    let spec = site.spec("w");
    let mut worker = spec.start();
    let done = wait_progress(&site, &mut [&mut worker], 0, 300);
    worker.kill();
    let mut worker = spec.start();
    wait_progress(&site, &mut [&mut worker], done, 300);
    let (_, log) = load.stop();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// INV-8: an owner that stood still for longer than its session wakes up when another has taken over.
pub fn inv_8_a_zombie_that_wakes_up_writes_nothing_more(ctx: &Ctx) {
    let site = Site::new(ctx, "zombie", 4);
    let load = Load::start(&site, Generator::new(203, 4, 200), 1000);
    let (a, b) = (site.spec("a"), site.spec("b"));
    let mut zombie = a.start();
    let before = wait_progress(&site, &mut [&mut zombie], 0, 500);
    zombie.freeze();
    let mut heir = b.start();
    let taken = wait_progress(&site, &mut [&mut heir], before, 3000);
    zombie.thaw();
    wait_progress(&site, &mut [&mut heir], taken, 3000);
    // It is out (non-zero), or it has come back as an ordinary member.
    wait_until("the zombie has found its place", 60, || {
        heir.assert_running();
        zombie.exited().is_some() || site.admin.members().len() == 2
    });
    let (_, log) = load.stop();
    site.wait_processed(&mut [&mut heir], 90);
    match zombie.exited() {
        Some(status) => assert!(!status.success(), "a zombie that ends does not report success"),
        None => drop(zombie.stop()),
    }
    heir.stop();
    Check::new(&site, &log).run();
}

/// INV-8 with static membership: a second process under the same instance id takes over at once.
pub fn inv_8_a_fenced_instance_writes_nothing_more(ctx: &Ctx) {
    let site = Site::new(ctx, "fenced", 2);
    let load = Load::start(&site, Generator::new(204, 2, 100), 800);
    let (a, b) = (site.spec("a").instance("same"), site.spec("b").instance("same"));
    let mut first = a.start();
    let before = wait_progress(&site, &mut [&mut first], 0, 300);
    first.freeze();
    let mut second = b.start();
    let taken = wait_progress(&site, &mut [&mut second], before, 1500);
    first.thaw();
    wait_until("one of the two has given way", 60, || first.exited().is_some() || second.exited().is_some());
    wait_progress(&site, &mut [], taken, 1500);
    let (_, log) = load.stop();
    site.wait_processed(&mut [], 90);
    for worker in [&mut first, &mut second] {
        match worker.exited() {
            Some(status) => assert_eq!(status.code(), Some(1), "a fenced process ends with exit code 1"),
            None => drop(worker.stop()),
        }
    }
    Check::new(&site, &log).run();
}
