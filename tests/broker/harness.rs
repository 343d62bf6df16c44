//! Promise: the tests' own tools tell the truth about a real broker; without this no other result means anything.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::support::client::{Producer, config};
use crate::support::expected::dt;
use crate::support::generate::Generator;
use crate::support::{Ctx, Site};

/// Null and empty keys, values and headers, no timestamp, both compressions: all as they were.
pub fn what_is_sent_is_read_back_byte_for_byte(ctx: &Ctx) {
    let site = Site::new(ctx, "harness", 3);
    let mut commands = Generator::new(1, 3, 10).take(500);
    commands[0].key = None;
    commands[1].key = Some(vec![]);
    commands[2].value = None;
    commands[3].value = Some(vec![]);
    commands[4].timestamp = -1;
    commands[5].headers = vec![("a".into(), None), ("b".into(), Some(vec![])), ("a".into(), Some(vec![0, 255]))];
    let mut log = site.send(commands[..250].to_vec());
    let zstd = [("compression.type", "zstd")];
    log.extend(Producer::with(&site.bootstrap, &site.topics.commands, &zstd).send(commands[250..].to_vec()));
    let records = site.read(&site.topics.commands);
    assert_eq!(records.len(), log.len());
    for command in &log {
        let found = records.iter().find(|r| (r.partition, r.offset) == (command.partition, command.offset));
        let record = found.expect("the record is there");
        assert_eq!((&record.key, &record.value), (&command.key, &command.value));
        assert_eq!(record.headers, command.headers);
        assert_eq!(record.timestamp, Some(command.timestamp).filter(|t| *t >= 0));
    }
}

/// Ends behind transaction markers, trimming, growing, making anew, group offsets, members, times.
pub fn the_tools_of_the_tests_do_what_they_say(ctx: &Ctx) {
    let site = Site::new(ctx, "tools", 2);
    let topic = &site.topics.commands;
    let mut generator = Generator::new(2, 2, 10);
    let id = format!("{topic}.tools");
    let mut producer = Producer::with(&site.bootstrap, topic, &[("transactional.id", &id)]);
    let wait = Duration::from_secs(30);
    producer.transactions().init_transactions(wait).expect("transactions");
    producer.transactions().begin_transaction().expect("begun");
    let log = producer.send(generator.take(100));
    producer.transactions().commit_transaction(wait).expect("committed");
    producer.transactions().begin_transaction().expect("begun");
    producer.send(generator.take(50));
    assert!((0..2).any(|p| site.admin.stable_end(topic, p) < site.admin.watermarks(topic, p).1));
    producer.transactions().abort_transaction(wait).expect("aborted");
    assert_eq!(site.read(topic).len(), 100, "only what was committed");

    let client: BaseConsumer = config(&site.bootstrap).set("group.id", &site.group).create().expect("a consumer");
    client.subscribe(&[topic]).expect("subscribed");
    crate::support::wait_until("the group has a member", 30, || {
        let _ = client.poll(Duration::from_millis(50));
        site.admin.members().first().is_some_and(|partitions| partitions.len() == 2)
    });
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 1, Offset::Offset(7)).expect("an offset");
    client.commit(&offsets, CommitMode::Sync).expect("committed");
    assert_eq!(site.admin.committed(topic, 2), [None, Some(7)]);
    drop(client);
    site.admin.delete_group();
    assert_eq!(site.admin.committed(topic, 2), [None, None]);

    site.admin.trim(topic, 0, 10);
    assert_eq!(site.admin.watermarks(topic, 0).0, 10);
    let kept = log.iter().filter(|c| c.partition == 1 || c.offset >= 10).count();
    assert_eq!(site.read(topic).len(), kept);
    site.admin.delete(&[topic]);
    site.admin.create(&site.topics.plans(2)[..1]);
    assert_eq!(site.admin.ends(topic, 2), [0, 0]);
    site.admin.grow(topic, 3);
    assert_eq!(dt(1_735_689_661_000, 30), "2025-01-01T00:31:01+00:30");
    assert_eq!(dt(1_709_251_199_999, -570), "2024-02-29T14:29:59-09:30");
}
