//! Promise: a broker that dies or stands still leaves no transaction's outcome to a guess and no worker hanging.

use std::time::{Duration, Instant};

use crate::support::compare::Check;
use crate::support::generate::{Generator, Random};
use crate::support::java::Server;
use crate::support::lone::LoneBroker;
use crate::support::worker::{Spec, Worker};
use crate::support::{Ctx, Load, Site, wait_until};

fn own_broker(settings: &[(&str, &str)]) -> (Server, Ctx) {
    let server = Server::start(settings).expect("a broker of its own");
    let bootstrap = server.bootstrap.clone();
    (server, Ctx { bootstrap })
}

fn wait_more(site: &Site, from: &mut i64, more: i64, mut also: impl FnMut()) {
    let start = *from;
    wait_until(&format!("{more} more commands are processed"), 120, || {
        also();
        *from = (*from).max(site.committed().iter().sum());
        *from >= start + more
    });
}

/// INV-7: commits are cut off at random moments; a worker that ends does so with exit code 1 and is started again, as a supervisor would.
pub fn inv_7_a_broker_killed_again_and_again_under_load_makes_nothing_unknown(_: &Ctx) {
    let mut broker = LoneBroker::start().expect("a broker of its own");
    let site = Site::new(&Ctx { bootstrap: broker.bootstrap.clone() }, "outcome", 2);
    let spec = site.spec("w").instance("outcome");
    let load = Load::start(&site, Generator::new(700, 2, 100), 600);
    let (mut random, mut done) = (Random(701), 0);
    let mut worker = spec.start();
    for _ in 0..6 {
        wait_more(&site, &mut done, 300, || tend(&mut worker, &spec));
        // The moment of the kill is what is random here; nothing waits for this.
        std::thread::sleep(Duration::from_millis(random.below(300) as u64));
        broker.restart();
    }
    wait_more(&site, &mut done, 300, || tend(&mut worker, &spec));
    let (_, log) = load.stop();
    let ends = site.admin.ends(&site.topics.commands, site.partitions);
    wait_until("everything is processed by a member that has it all", 90, || {
        tend(&mut worker, &spec);
        let processed = site.committed().iter().zip(&ends).all(|(committed, end)| committed >= end);
        processed && site.admin.members().iter().map(Vec::len).collect::<Vec<_>>() == [2]
    });
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// What a supervisor does.
fn tend(worker: &mut Worker, spec: &Spec) {
    if let Some(status) = worker.exited() {
        assert_eq!(status.code(), Some(1), "an end is fatal and says so:\n{}", worker.log());
        *worker = spec.start();
    }
}

/// INV-9: SIGTERM is obeyed within the drain time-out although no call into the client can succeed.
pub fn inv_9_a_worker_ends_in_time_while_its_broker_stands_still(_: &Ctx) {
    // A frozen single broker that loses its own session has no leaders for a moment after it wakes up. Kafka 4.3.1 was seen to
    // complete an abort in that moment without writing its markers: the next commit of the same producer id then committed what
    // had been aborted. That is the broker's fault and not what is asked here.
    let (mut broker, ctx) = own_broker(&[("broker.session.timeout.ms", "120000")]);
    let site = Site::new(&ctx, "still", 2);
    let spec = site.spec("w").text("worker.drain_timeout", "10s");
    let load = Load::start(&site, Generator::new(702, 2, 100), 600);
    let mut worker = spec.start();
    wait_more(&site, &mut 0, 500, || worker.assert_running());
    broker.freeze();
    let start = Instant::now();
    worker.terminate();
    let code = worker.wait_exit(20);
    let took = start.elapsed();
    broker.thaw();
    assert!(matches!(code, Some(0 | 1)), "it ended by itself: {code:?}");
    assert!(took < Duration::from_secs(16), "it took {took:?}");
    let mut worker = spec.start();
    let (_, log) = load.stop();
    site.wait_processed(&mut [&mut worker], 120);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}
