//! Promise: whatever the network does between worker and broker, the worker gets over it.

use std::time::Instant;

use crate::drive::Drive;
use crate::proxy::Proxy;
use crate::rig::Rig;
use crate::table::Row;

/// A drive whose worker, and nobody else, goes through a proxy.
fn through_proxy(rig: &Rig, name: &str) -> (Drive, Proxy) {
    let proxy = rig.proxy();
    let address = proxy.address.clone();
    let drive = Drive::start(rig, name, 4, |site| {
        vec![site.spec("w").threads(2).instance(name).text("kafka.bootstrap_servers", &address)]
    });
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
        drive.flow(300);
        assert!(proxy.lose() > 0, "there was a connection to lose");
        drive.measure(Instant::now());
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
