//! Promise: brokers may be killed and come back, one that is all there is, or one of three.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::drive::Drive;
use crate::rig::Rig;
use crate::support::Ctx;
use crate::support::lone::LoneBroker;
use crate::table::Row;

/// The only broker is killed and started again at random moments.
pub fn the_only_broker_killed_and_restarted_loses_and_doubles_nothing(rig: &Rig) {
    let mut broker = LoneBroker::start().expect("a broker of its own");
    let ctx = Ctx { bootstrap: broker.bootstrap.clone() };
    let mut drive = Drive::on(&ctx, rig.seed, "only", 4, |site| vec![site.spec("w").threads(2).instance("only")]);
    for _ in 0..3 * rig.rounds {
        drive.pass_random(2000);
        let moment = Instant::now();
        broker.restart();
        drive.measure(moment);
    }
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "`kill -9` of the only broker, started again when its controller has fenced it",
        reaction: "waits for it; a transaction that was cut off is aborted or found to be committed",
        from: "the kill (9 s until it is fenced and the broker's own start are most of it)",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("broker 1", row);
}

/// Each broker of three is killed in turn: leader of partitions, transaction coordinator and group coordinator at some time.
pub fn each_of_three_brokers_killed_in_turn_loses_and_doubles_nothing(rig: &Rig) {
    let mut cluster = Cluster::start().expect("three brokers");
    let ctx = Ctx { bootstrap: cluster.bootstrap.clone() };
    let mut drive = Drive::on(&ctx, rig.seed, "three", 6, |site| {
        cluster.wait_known(site);
        vec![site.spec("w").threads(2).instance("three")]
    });
    for round in 0..3 * rig.rounds {
        drive.pass_random(2000);
        let node = round % 3;
        cluster.wait_in_sync(&drive.site);
        let led = cluster.leads(&drive.site, node);
        assert!(led > 0, "the one that is killed leads something");
        let moment = Instant::now();
        cluster.nodes[node].kill();
        drive.measure(moment);
        // Under load without it for a moment: what it has missed it must fetch.
        drive.pass(Duration::from_secs(1));
        cluster.nodes[node].start_again();
    }
    cluster.wait_in_sync(&drive.site);
    let (recoveries, ends) = drive.finish();
    let row = Row {
        fault: "`kill -9` of one of three brokers (leader, coordinators), each in turn (`worker.instance_id` set)",
        reaction: "ends with exit code 1 where the group coordinator was away for a session; started again, it goes on with the new leaders and coordinators",
        from: "the kill",
        recoveries,
        restarts: ends.len(),
    };
    rig.table.add("broker 2", row);
}
