//! Promise: a start on topics that would break the guarantees is refused in one line that says what to do.

use crate::support::topics::TopicPlan;
use crate::support::worker::program;
use crate::support::{Ctx, Site};

/// Starts on topics with changed plans and expects the refusal to hold these words.
fn refused(ctx: &Ctx, name: &str, words: &[&str], change: impl FnOnce(&mut Vec<TopicPlan>)) {
    let site = Site::with(ctx, name, 2, change);
    site.spec("w").start().expect_refusal(30, words);
}

/// A topic is not there.
pub fn a_missing_topic_is_refused_with_the_command_that_makes_it(ctx: &Ctx) {
    for (n, role) in ["commands", "backfill", "completions", "cards", "dead-letters"].iter().enumerate() {
        let ending = format!(".{role}");
        refused(ctx, &format!("missing-{role}"), &["topics apply", &ending], |plans| drop(plans.remove(n)));
    }
}

/// From nothing: the refusal names the command that makes the topics, and after it the worker runs on them.
pub fn topics_apply_makes_what_a_run_needs_from_nothing(ctx: &Ctx) {
    let site = Site::with(ctx, "nothing", 2, Vec::clear);
    site.spec("w").start().expect_refusal(30, &["topics apply", ".commands", ".dead-letters"]);
    let names = ["commands", "backfill", "completions", "cards", "dead_letters"];
    let topics = names.iter().zip(site.topics.all()).map(|(key, name)| format!("topics.{key}={name}"));
    let sets = topics.chain([format!("kafka.bootstrap_servers={}", site.bootstrap)]);
    let made = std::process::Command::new(program())
        .args(["topics", "apply", "--partitions", "2"])
        .args(sets.flat_map(|set| ["--set".to_owned(), set]))
        .output()
        .expect("the program starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut worker = site.spec("w").start();
    worker.wait_said("partition restored partition=1 ", 60);
    worker.stop();
}

/// One topic has another number of partitions.
pub fn unequal_partition_counts_are_refused(ctx: &Ctx) {
    for (n, role) in ["commands", "backfill", "completions", "cards", "dead-letters"].iter().enumerate() {
        let ending = format!(".{role}");
        refused(ctx, &format!("unequal-{role}"), &["partitions", &ending], |plans| plans[n].partitions = 3);
    }
}

/// The changelog would lose cards.
pub fn a_cards_topic_that_is_not_compact_only_is_refused(ctx: &Ctx) {
    refused(ctx, "not-compact", &[".cards", "cleanup.policy"], |p| p[3].set("cleanup.policy", "delete"));
    refused(ctx, "compact-delete", &[".cards", "cleanup.policy"], |p| p[3].set("cleanup.policy", "compact,delete"));
}

/// The memory could not be restored.
pub fn a_completions_retention_below_the_window_is_refused(ctx: &Ctx) {
    refused(ctx, "short", &[".completions", "retention.ms"], |p| p[2].set("retention.ms", "86400000"));
}

/// `topics.partitions` is set and something else is there.
pub fn another_partition_count_than_configured_is_refused(ctx: &Ctx) {
    let site = Site::new(ctx, "count", 2);
    site.spec("w").set("topics.partitions", "3").start().expect_refusal(30, &["topics.partitions", "3", "2"]);
}

/// The topics grew in place: a card would meet a partition that does not know it.
pub fn a_partition_count_that_changed_since_the_last_run_is_refused(ctx: &Ctx) {
    let site = Site::new(ctx, "grown", 2);
    let spec = site.spec("w");
    let mut worker = spec.start();
    site.wait_members(1, 60);
    worker.stop();
    for topic in site.topics.all() {
        site.admin.grow(topic, 3);
    }
    spec.start().expect_refusal(30, &["partitions", "replay"]);
}

/// The same while it runs.
pub fn a_partition_count_that_changes_under_a_running_worker_stops_it(ctx: &Ctx) {
    let site = Site::new(ctx, "growing", 2);
    let mut worker = site.spec("w").start();
    site.wait_members(1, 60);
    for topic in site.topics.all() {
        site.admin.grow(topic, 3);
    }
    worker.expect_refusal(90, &["partitions", "replay"]);
}

/// A dead-letter topic that takes no more than the input is named.
pub fn a_dead_letter_topic_that_is_too_narrow_is_named(ctx: &Ctx) {
    let site = Site::with(ctx, "narrow", 1, |plans| plans[4].set("max.message.bytes", "1000"));
    let mut worker = site.spec("w").start();
    worker.wait_said("max.message.bytes", 30);
    assert!(worker.said(&site.topics.dead_letters), "the topic is named:\n{}", worker.log());
}
