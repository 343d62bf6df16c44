//! Promise: what was done to topics and offsets behind the worker's back stops it by name, and goes on only when an operator says how.

use crate::support::compare::Check;
use crate::support::generate::Generator;
use crate::support::worker::Spec;
use crate::support::{Ctx, Site};

/// A site whose worker has processed `count` commands and was stopped.
fn worked(ctx: &Ctx, name: &str, count: usize) -> (Site, Spec, Generator, Vec<crate::support::model::Command>) {
    let site = Site::new(ctx, name, 1);
    let mut generator = Generator::new(500, 1, 50);
    let spec = site.spec("w");
    let log = site.send(generator.take(count));
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    (site, spec, generator, log)
}

/// All topics made anew under a stopped worker.
pub fn topics_made_anew_under_a_stopped_worker_are_refused_until_accepted(ctx: &Ctx) {
    let (site, spec, mut generator, _) = worked(ctx, "anew", 300);
    site.admin.delete(&site.topics.all());
    site.admin.create(&site.topics.plans(1));
    let log = site.send(generator.take(200));
    let mut refused = spec.start();
    refused.expect_refusal(60, &["--accept-new-topics"]);
    assert!(site.topics.all().iter().any(|t| refused.said(t)), "the topic is named:\n{}", refused.log());
    let mut again = spec.start();
    again.expect_refusal(60, &["--accept-new-topics"]);
    let mut accepted = spec.clone().argument("--accept-new-topics").start();
    site.wait_processed(&mut [&mut accepted], 60);
    accepted.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    // Once accepted, it is not asked about again.
    let mut plain = spec.start();
    let mut log = log;
    log.extend(site.send(generator.take(100)));
    site.wait_processed(&mut [&mut plain], 60);
    plain.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// Only the changelog made anew: named, and not silently taken for an empty one.
pub fn a_cards_topic_made_anew_is_refused_by_name(ctx: &Ctx) {
    let (site, spec, mut generator, log) = worked(ctx, "cards-anew", 300);
    remake(&site, &site.topics.cards);
    let mut refused = spec.start();
    refused.expect_refusal(60, &["--accept-new-topics", &site.topics.cards]);
    let mut accepted = spec.clone().argument("--accept-new-topics").start();
    let more = site.send(generator.take(100));
    site.wait_processed(&mut [&mut accepted], 60);
    accepted.stop();
    assert_eq!(answers(&site), log.len() + more.len());
}

/// Only the input made anew.
pub fn a_commands_topic_made_anew_is_refused_by_name(ctx: &Ctx) {
    let (site, spec, mut generator, log) = worked(ctx, "input-anew", 300);
    remake(&site, &site.topics.commands);
    let more = site.send(generator.take(100));
    let mut refused = spec.start();
    refused.expect_refusal(60, &["--accept-new-topics", &site.topics.commands]);
    let spec = spec.argument("--accept-new-topics").argument("--start-at").argument("earliest");
    let mut accepted = spec.start();
    site.wait_answers(log.len() + more.len(), &mut accepted, 60);
    accepted.stop();
    assert_eq!(answers(&site), log.len() + more.len());
}

/// Made anew under a running worker: it ends by itself and names the topic.
pub fn topics_made_anew_under_a_running_worker_stop_it(ctx: &Ctx) {
    let sites = ["live-input", "live-cards"].map(|name| Site::new(ctx, name, 1));
    let mut generator = Generator::new(501, 1, 20);
    let mut workers = sites.each_ref().map(|site| {
        site.send(generator.take(100));
        let mut worker = site.spec("w").start();
        site.wait_processed(&mut [&mut worker], 60);
        worker
    });
    let remade = [&sites[0].topics.commands, &sites[1].topics.cards];
    remake(&sites[0], remade[0]);
    remake(&sites[1], remade[1]);
    for (worker, topic) in workers.iter_mut().zip(remade) {
        worker.expect_refusal(90, &[topic]);
    }
}

fn remake(site: &Site, topic: &str) {
    site.admin.delete(&[topic]);
    let plans = site.topics.plans(site.partitions);
    site.admin.create(&plans.into_iter().filter(|p| p.name == topic).collect::<Vec<_>>());
}

fn answers(site: &Site) -> usize {
    site.completions().len() + site.read(&site.topics.dead_letters).len()
}

/// The group's offsets are gone: refused, with where the answers end; then it goes on there.
pub fn deleted_group_offsets_are_refused_and_start_at_answered_doubles_nothing(ctx: &Ctx) {
    let (site, spec, mut generator, mut log) = worked(ctx, "lost-offsets", 300);
    site.admin.delete_group();
    log.extend(site.send(generator.take(200)));
    let mut refused = spec.start();
    refused.expect_refusal(60, &["--start-at"]);
    let last = log[299].offset;
    let printed = refused.said(&last.to_string()) || refused.said(&(last + 1).to_string());
    assert!(printed, "the greatest answered offset {last} is printed:\n{}", refused.log());
    assert_eq!(answers(&site), 300, "nothing was decided meanwhile");
    let mut accepted = spec.clone().argument("--start-at").argument("answered").start();
    site.wait_processed(&mut [&mut accepted], 60);
    accepted.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    let mut plain = spec.start();
    log.extend(site.send(generator.take(50)));
    site.wait_processed(&mut [&mut plain], 60);
    plain.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// The same with the state directory lost too.
pub fn deleted_group_offsets_are_refused_without_a_state_directory_too(ctx: &Ctx) {
    let (site, spec, mut generator, mut log) = worked(ctx, "lost-both", 200);
    site.admin.delete_group();
    std::fs::remove_dir_all(&spec.state_dir).expect("deleted");
    log.extend(site.send(generator.take(100)));
    spec.start().expect_refusal(60, &["--start-at"]);
    let mut accepted = spec.clone().argument("--start-at").argument("answered").start();
    site.wait_processed(&mut [&mut accepted], 60);
    accepted.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// Retention overtook a stopped worker: refused with the range that is gone; `skip` goes on behind it.
pub fn an_input_trimmed_past_the_committed_offset_is_refused_with_the_range(ctx: &Ctx) {
    let (site, spec, mut generator, mut log) = worked(ctx, "trimmed", 300);
    log.extend(site.send(generator.take(200)));
    site.admin.trim(&site.topics.commands, 0, 417);
    let mut refused = spec.start();
    refused.expect_refusal(60, &["300", "on_trimmed", &site.topics.commands]);
    assert!(refused.said("416") || refused.said("417"), "the end of the gap is named:\n{}", refused.log());
    let mut skipping = spec.clone().text("ingest.on_trimmed", "skip").start();
    site.wait_processed(&mut [&mut skipping], 60);
    assert!(
        skipping.said("300") && (skipping.said("416") || skipping.said("417")),
        "it says what it skips:\n{}",
        skipping.log()
    );
    skipping.stop();
    log.retain(|c| !(300..417).contains(&c.offset));
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// Trimmed only behind the committed offset: nothing is lost, nothing is said.
pub fn an_input_trimmed_behind_the_committed_offset_is_no_matter(ctx: &Ctx) {
    let (site, spec, mut generator, mut log) = worked(ctx, "behind", 200);
    site.admin.trim(&site.topics.commands, 0, 200);
    log.extend(site.send(generator.take(100)));
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}
