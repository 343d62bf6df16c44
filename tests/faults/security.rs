//! Promise: a worker that may not, or that cannot trust its broker, says so in one line and ends; one that may works over TLS.

use std::time::Instant;

use crate::acl::{self, Operation};
use crate::drive::{Drive, last_words};
use crate::rig::{Rig, USER};
use crate::support::worker::Spec;
use crate::support::{Site, wait_until};
use crate::table::Row;

/// Kafka's words for the protocols.
const PLAIN: &str = "SASL_PLAINTEXT";
const TLS: &str = "SASL_SSL";

/// A worker that logs in as the one user there is.
fn as_user(site: &Site, rig: &Rig, address: &str, protocol: &str, name: &str) -> Spec {
    let (user, password) = USER;
    let client = format!(
        "{{ \"security.protocol\" = \"{protocol}\", \"sasl.mechanism\" = \"PLAIN\", \"sasl.username\" = \"{user}\", \
         \"sasl.password\" = \"{password}\", \"ssl.ca.location\" = \"{}\" }}",
        rig.ca.display()
    );
    site.spec(name).text("kafka.bootstrap_servers", address).set("kafka.client", &client)
}

/// Which topic of a site.
type TopicOf = fn(&Site) -> &str;

/// Starts it and waits for its end in one line, which must hold these words; returns how long it took.
fn refused(spec: &Spec, words: &[&str]) -> f64 {
    let start = Instant::now();
    let mut worker = spec.start();
    wait_until("the worker ends by itself", 100, || worker.exited().is_some());
    let line = last_words(&mut worker);
    words.iter().for_each(|word| assert!(line.contains(word), "{word:?} in {line}"));
    start.elapsed().as_secs_f64()
}

/// One right after the other is missing; each time the line names topic and operation.
pub fn a_missing_right_on_a_topic_is_named_with_topic_and_operation(rig: &Rig) {
    let cases: [(TopicOf, Operation, &str); 3] = [
        (|s| &s.topics.commands, Operation::Read, "grant Read on"),
        (|s| &s.topics.completions, Operation::Write, "grant Write on"),
        (|s| &s.topics.cards, Operation::Write, "grant Write on"),
    ];
    let mut slowest = 0.0_f64;
    for (topic, operation, word) in cases {
        let site = Site::new(&rig.ctx, "denied", 2);
        let topic = topic(&site);
        acl::grant(&site, Some((topic, operation)));
        let mut generator = crate::support::generate::Generator::new(rig.seed, 2, 10);
        site.send(generator.take(100));
        slowest = slowest.max(refused(&as_user(&site, rig, &rig.users, PLAIN, "w"), &[topic, word]));
        assert_eq!(site.completions().len(), 0, "nothing is answered by halves");
    }
    let row = Row {
        fault: "a right is missing on one topic",
        reaction: "exit code 1, one line with topic and operation",
        from: "the start; within this the process has ended",
        recoveries: vec![crate::table::Recovery { first: slowest, every: slowest }],
        restarts: 0,
    };
    rig.table.add("security 1", row);
}

/// Users, rights and TLS together, with exactly the rights that the deployment files list.
pub fn a_worker_with_its_rights_works_over_tls(rig: &Rig) {
    let moment = Instant::now();
    let mut drive = Drive::start(rig, "tls", 2, |site| {
        acl::grant(site, None);
        vec![as_user(site, rig, &rig.secure, TLS, "w").threads(2)]
    });
    drive.measure(Instant::now());
    assert!(moment.elapsed().as_secs() < 60, "no time-out stands behind it");
    let (_, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "nothing ended it");
}

/// TLS again, and the broker shows a certificate that has expired.
pub fn an_expired_certificate_is_refused_and_said(rig: &Rig) {
    let site = Site::new(&rig.ctx, "expired", 2);
    acl::grant(&site, None);
    let took = refused(&as_user(&site, rig, &rig.expired, TLS, "w"), &["certificate verify failed", "has expired"]);
    let row = Row {
        fault: "the broker's certificate has expired",
        reaction: "tries for a minute, then exit code 1 and one line that says so",
        from: "the start; within this the process has ended",
        recoveries: vec![crate::table::Recovery { first: took, every: took }],
        restarts: 0,
    };
    rig.table.add("security 2", row);
}
