//! Promise: whatever the network does between worker and broker, the worker gets over it.

use std::time::{Duration, Instant};

use crate::drive::Drive;
use crate::proxy::Proxy;
use crate::rig::Rig;
use crate::table::Row;

/// How late everything is behind a long way.
const DELAY: Duration = Duration::from_millis(250);

/// Bytes a second behind a narrow link.
const NARROW: u64 = 48_000;

/// Longer than connections that nobody uses are kept: a worker that has run for a while has no others.
const SETTLED: Duration = Duration::from_secs(25);

/// A drive whose worker, and nobody else, goes through a proxy.
fn through_proxy(rig: &Rig, name: &str) -> (Drive, Proxy) {
    let proxy = rig.proxy();
    let address = proxy.address.clone();
    let mut drive = Drive::start(rig, name, 4, |site| {
        vec![site.spec("w").threads(2).instance(name).text("kafka.bootstrap_servers", &address)]
    });
    drive.wait_complete();
    (drive, proxy)
}

/// All connections are cut at random moments, again and again.
pub fn connections_that_are_cut_again_and_again_lose_and_double_nothing(rig: &Rig) {
    let (mut drive, proxy) = through_proxy(rig, "cut");
    for _ in 0..12 * rig.rounds {
        drive.pass_random(1500);
        assert!(proxy.cut() > 0, "there was something to cut");
        drive.measure(Instant::now());
    }
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "all connections cut, at random moments",
        reaction: "connects again; a transaction that was cut off is aborted or found to be committed",
        from: "the cut",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("network 1", row);
}

/// Connections stay open and nothing arrives on them any more, as behind a router that has forgotten them.
pub fn a_half_open_connection_is_noticed_and_left(rig: &Rig) {
    let (mut drive, proxy) = through_proxy(rig, "half-open");
    for _ in 0..rig.rounds {
        drive.pass(SETTLED);
        assert!(proxy.lose() > 0, "there was a connection to lose");
        let took = drive.measure(Instant::now());
        assert!(took.every < NOTICED, "noticed by time-outs shorter than the client's own: {took:?}");
    }
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "connections half-open: they stay, and what is sent on them is lost",
        reaction: "leaves them when a request has timed out, and connects anew",
        from: "the loss",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("network 2", row);
}

/// Seconds; by the client's own time-outs it takes more than 150.
const NOTICED: f64 = 100.0;

/// A long way: everything is late, and nothing may take that for an end.
pub fn a_long_delay_is_no_failure(rig: &Rig) {
    let (mut drive, proxy) = through_proxy(rig, "delay");
    proxy.delay(DELAY);
    for _ in 0..4 * rig.rounds {
        // The fault's duration, until what is under way has seen it.
        drive.pass(DELAY * 4);
        drive.measure(Instant::now());
    }
    proxy.delay(Duration::ZERO);
    let (recoveries, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "slow is not broken");
    let row = Row {
        fault: "every packet 250 ms late, each way",
        reaction: "goes on, each transaction takes some round trips",
        from: "the command, meanwhile",
        recoveries,
        restarts: 0,
    };
    rig.table.add("network 3", row);
}

/// Less gets through than commands come in: the worker falls behind, and catches up afterwards.
pub fn a_narrow_link_makes_it_late_and_nothing_else(rig: &Rig) {
    let (mut drive, proxy) = through_proxy(rig, "narrow");
    for _ in 0..rig.rounds {
        proxy.narrow(NARROW);
        // The fault's duration.
        drive.pass(Duration::from_secs(12));
        proxy.narrow(0);
        drive.measure(Instant::now());
    }
    let (recoveries, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "slow is not broken");
    let row = Row {
        fault: "48 KB a second for all connections together, for 12 s",
        reaction: "falls behind, then catches up",
        from: "the end of the fault",
        recoveries,
        restarts: 0,
    };
    rig.table.add("network 4", row);
}

/// All connections are cut and only two are let in again: fewer than the worker needs.
pub fn too_few_connections_are_waited_out(rig: &Rig) {
    let (mut drive, proxy) = through_proxy(rig, "few");
    for _ in 0..2 * rig.rounds {
        proxy.admit(2);
        proxy.cut();
        // The fault's duration.
        drive.pass(Duration::from_secs(6));
        assert!(proxy.refused() > 0, "it wanted more");
        proxy.admit(usize::MAX);
        drive.measure(Instant::now());
    }
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "only two connections let in, for 6 s",
        reaction: "tries again, at most a second apart",
        from: "the end of the fault",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("network 5", row);
}

/// Everything at once and in any order.
pub fn a_storm_on_the_network_loses_and_doubles_nothing(rig: &Rig) {
    let (mut drive, proxy) = through_proxy(rig, "network-storm");
    for _ in 0..rig.rounds {
        for _ in 0..10 {
            blow(&mut drive, &proxy);
            drive.pass_random(2500);
        }
        proxy.delay(Duration::ZERO);
        proxy.narrow(0);
        proxy.admit(usize::MAX);
        drive.measure(Instant::now());
    }
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "storm: cuts, delays, a narrow link and too few connections at random moments, 12 s long",
        reaction: "gets over each",
        from: "the storm's end",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("network 6", row);
}

fn blow(drive: &mut Drive, proxy: &Proxy) {
    match drive.random.below(5) {
        0 | 1 => drop(proxy.cut()),
        2 => proxy.delay(Duration::from_millis(drive.random.below(300) as u64)),
        3 => proxy.narrow(NARROW + drive.random.below(200_000) as u64),
        _ => proxy.admit(1 + drive.random.below(20)),
    }
}
