//! Promise: processes share the partitions, come and go under load, and never get in each other's way on one host.

use crate::support::compare::Check;
use crate::support::generate::Generator;
use crate::support::{Ctx, Load, Site, wait_until};

fn wait_more(site: &Site, more: i64) {
    let from: i64 = site.committed().iter().sum();
    wait_until(&format!("{more} more commands are processed"), 90, || {
        site.committed().iter().sum::<i64>() >= from + more
    });
}

/// INV-6: a second process joins and leaves, and comes back to a state it had left behind.
pub fn inv_6_processes_that_join_and_leave_under_load_decide_each_command_once(ctx: &Ctx) {
    let site = Site::new(ctx, "join", 8);
    let load = Load::start(&site, Generator::new(300, 8, 200), 1000);
    let (a, b) = (site.spec("a"), site.spec("b"));
    let mut one = a.start();
    site.wait_members(1, 60);
    wait_more(&site, 1000);
    let mut two = b.start();
    site.wait_members(2, 60);
    wait_more(&site, 2000);
    two.stop();
    site.wait_members(1, 60);
    wait_more(&site, 2000);
    let mut two = b.start();
    site.wait_members(2, 60);
    wait_more(&site, 2000);
    one.assert_running();
    one.stop();
    site.wait_members(1, 60);
    wait_more(&site, 2000);
    let (_, log) = load.stop();
    site.wait_processed(&mut [&mut two], 90);
    two.stop();
    Check::new(&site, &log).state(&a.state_dir).state(&b.state_dir).run();
}

/// Loops of one process share the partitions too.
pub fn the_loops_of_one_process_share_the_partitions(ctx: &Ctx) {
    let site = Site::new(ctx, "loops", 8);
    let mut generator = Generator::new(301, 8, 50);
    let spec = site.spec("w").threads(4);
    let mut worker = spec.start();
    site.wait_members(4, 60);
    let log = site.send(generator.take(8000));
    site.wait_processed(&mut [&mut worker], 90);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// No instance id, one host: neither fences the other.
pub fn two_workers_on_one_host_never_fence_each_other(ctx: &Ctx) {
    let site = Site::new(ctx, "pair", 4);
    let (a, b) = (site.spec("a"), site.spec("b"));
    let load = Load::start(&site, Generator::new(302, 4, 100), 800);
    let (mut one, mut two) = (a.start(), b.start());
    site.wait_members(2, 60);
    wait_more(&site, 4000);
    let (_, log) = load.stop();
    site.wait_processed(&mut [&mut one, &mut two], 60);
    for worker in [&mut one, &mut two] {
        worker.stop();
        assert!(!worker.said("fenced"), "one fenced the other:\n{}", worker.log());
    }
    Check::new(&site, &log).run();
}

/// Workers that keep the others' state warm decide what the others would have decided.
pub fn a_standby_that_takes_over_answers_as_the_owner_would(ctx: &Ctx) {
    let site = Site::new(ctx, "standby", 4);
    let standby = |name| site.spec(name).text("worker.standby", "all");
    let (a, b) = (standby("a"), standby("b"));
    let load = Load::start(&site, Generator::new(304, 4, 100), 800);
    let (mut one, mut two) = (a.start(), b.start());
    site.wait_members(2, 60);
    wait_more(&site, 3000);
    one.kill();
    site.wait_members(1, 60);
    wait_more(&site, 2000);
    let (_, log) = load.stop();
    site.wait_processed(&mut [&mut two], 60);
    two.stop();
    Check::new(&site, &log).state(&b.state_dir).run();
}

/// A state directory has one owner.
pub fn a_state_directory_in_use_is_refused(ctx: &Ctx) {
    let site = Site::new(ctx, "locked", 2);
    let mut generator = Generator::new(303, 2, 20);
    let a = site.spec("a");
    let mut one = a.start();
    let mut log = site.send(generator.take(200));
    site.wait_processed(&mut [&mut one], 60);
    let mut two = site.spec("b").state_dir(&a.state_dir).start();
    two.expect_refusal(30, &[&a.state_dir.display().to_string()]);
    log.extend(site.send(generator.take(200)));
    site.wait_processed(&mut [&mut one], 60);
    one.stop();
    Check::new(&site, &log).state(&a.state_dir).run();
}
