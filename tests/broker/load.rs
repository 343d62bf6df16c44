//! Promise: whatever is mixed, every command is answered once, in order, as the model says, and all topics agree.

use std::time::Duration;

use rdkafka::producer::Producer as _;

use crate::support::client::Producer;
use crate::support::compare::Check;
use crate::support::generate::{Generator, Random};
use crate::support::model::Command;
use crate::support::{Ctx, Site};

const WAIT: Duration = Duration::from_secs(30);

/// INV-3 and INV-4 over 100,000 mixed commands.
pub fn inv_4_each_of_100_000_mixed_commands_is_answered_exactly_once(ctx: &Ctx) {
    let site = Site::new(ctx, "mixed", 8);
    let mut generator = Generator::new(100, 8, 400);
    let mut log = site.send(generator.take(60_000));
    let spec = site.spec("w").threads(2);
    let mut worker = spec.start();
    log.extend(site.send(generator.take(40_000)));
    site.wait_processed(&mut [&mut worker], 180);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// INV-3: checkpoints taken under load leave the same as none.
pub fn inv_3_frequent_checkpoints_leave_the_fold_of_the_topics(ctx: &Ctx) {
    let site = Site::new(ctx, "checkpoints", 2);
    let mut generator = Generator::new(101, 2, 300);
    let spec = site.spec("w").set("checkpoint.max_tail_records", "500").text("checkpoint.interval", "1s");
    let mut log = Vec::new();
    for _ in 0..3 {
        let mut worker = spec.start();
        for _ in 0..3 {
            log.extend(site.send(generator.take(3000)));
            site.wait_processed(&mut [&mut worker], 90);
        }
        worker.stop();
    }
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// The accounts of a card: the named ones are replaced and stand last, the others stay.
pub fn commands_of_one_card_apply_in_order(ctx: &Ctx) {
    let site = Site::new(ctx, "order", 1);
    let mut random = Random(102);
    let card = random.uuid();
    let ibans: Vec<String> = (0..8).map(|_| random.iban()).collect();
    let steps: [&[(&str, usize)]; 8] = [
        &[("USD", 0), ("EUR", 1), ("GBP", 2)],
        &[("USD", 3)],
        &[],
        &[("EUR", 4), ("EUR", 5)],
        &[("CHF", 6), ("GBP", 7), ("CHF", 0)],
        &[("USD", 3)],
        &[("EUR", 1), ("USD", 1)],
        &[("GBP", 2)],
    ];
    let commands = steps.iter().map(|step| {
        let accounts: Vec<_> = step.iter().map(|(currency, n)| ("IBAN", *currency, ibans[*n].as_str())).collect();
        Command::update(0, &random.uuid(), &card, &accounts)
    });
    let log = site.send(commands.collect());
    let spec = site.spec("w");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    let last = site.read(&site.topics.cards).pop().expect("a card record").json();
    let currencies: Vec<_> = last["accounts"].as_array().expect("a list").iter().map(|a| &a["currency"]).collect();
    assert_eq!(currencies, ["CHF", "EUR", "USD", "GBP"]);
}

/// Aborted records of a transactional upstream are not commands.
pub fn aborted_records_of_an_upstream_are_never_seen(ctx: &Ctx) {
    let site = Site::new(ctx, "aborted", 2);
    let mut generator = Generator::new(103, 2, 20);
    let mut upstream = Upstream::new(&site);
    let spec = site.spec("w");
    let mut worker = spec.start();
    let mut log = Vec::new();
    for _ in 0..3 {
        log.extend(upstream.transaction(generator.take(200), true));
        let commands: Vec<_> = (0..50).map(|_| random_update(&mut generator.random)).collect();
        upstream.transaction(commands.clone(), false);
        // The same requests come again, committed: they must be new then.
        log.extend(upstream.transaction(commands, true));
    }
    // The last transaction is aborted: the worker must not hang on what it will never get.
    upstream.transaction(vec![random_update(&mut generator.random)], false);
    site.wait_answers(log.len(), &mut worker, 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    let mut worker = spec.start();
    log.push(site.send_one(random_update(&mut generator.random)));
    site.wait_answers(log.len(), &mut worker, 60);
    worker.stop();
    Check::new(&site, &log).run();
}

struct Upstream(Producer);

impl Upstream {
    fn new(site: &Site) -> Upstream {
        let id = format!("{}.upstream", site.topics.commands);
        let settings = [("transactional.id", id.as_str()), ("linger.ms", "0")];
        let producer = Producer::with(&site.bootstrap, &site.topics.commands, &settings);
        producer.transactions().init_transactions(WAIT).expect("transactions");
        Upstream(producer)
    }

    /// Sends all in one transaction and commits or aborts it.
    fn transaction(&mut self, commands: Vec<Command>, commit: bool) -> Vec<Command> {
        self.0.transactions().begin_transaction().expect("a transaction");
        let sent = self.0.send(commands);
        let client = self.0.transactions();
        if commit { client.commit_transaction(WAIT) } else { client.abort_transaction(WAIT) }.expect("ended");
        sent
    }
}

fn random_update(random: &mut Random) -> Command {
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    Command::update(0, &request, &card, &[("IBAN", "USD", &iban)])
}
