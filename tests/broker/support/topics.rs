//! Owns topics and groups as an administrator sees them: made with the settings of the contract, deleted, trimmed, looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{client, wait_until};

const WAIT: Duration = Duration::from_secs(10);

/// The names of the five topics of one worker.
#[derive(Clone, Debug)]
pub struct Topics {
    /// Live input.
    pub commands: String,
    /// Replayed input.
    pub backfill: String,
    /// Answers.
    pub completions: String,
    /// Changelog.
    pub cards: String,
    /// What could not be answered.
    pub dead_letters: String,
}

impl Topics {
    /// Names with a prefix of their own.
    pub fn named(prefix: &str) -> Topics {
        let name = |role: &str| format!("{prefix}.{role}");
        Topics {
            commands: name("commands"),
            backfill: name("backfill"),
            completions: name("completions"),
            cards: name("cards"),
            dead_letters: name("dead-letters"),
        }
    }

    /// All five.
    pub fn all(&self) -> [&str; 5] {
        [&self.commands, &self.backfill, &self.completions, &self.cards, &self.dead_letters]
    }

    /// The five as the contract wants them.
    pub fn plans(&self, partitions: i32) -> Vec<TopicPlan> {
        let week_and_a_day = (8 * 86_400_000_i64).to_string();
        let plan = |name: &str, settings: &[(&str, &str)]| TopicPlan {
            name: name.to_string(),
            partitions,
            settings: settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        let create_time = ("message.timestamp.type", "CreateTime");
        vec![
            plan(&self.commands, &[("cleanup.policy", "delete")]),
            plan(&self.backfill, &[("cleanup.policy", "delete"), ("retention.ms", "-1"), create_time]),
            plan(
                &self.completions,
                &[
                    ("cleanup.policy", "delete"),
                    ("retention.ms", &week_and_a_day),
                    ("retention.bytes", "-1"),
                    create_time,
                    ("message.timestamp.after.max.ms", "60000"),
                ],
            ),
            plan(&self.cards, &[("cleanup.policy", "compact"), create_time]),
            plan(&self.dead_letters, &[("cleanup.policy", "delete"), ("max.message.bytes", "2097152")]),
        ]
    }
}

/// One topic to be made.
#[derive(Clone, Debug)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// Its number of partitions.
    pub partitions: i32,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
}

impl TopicPlan {
    /// Another value for a setting.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_string(), value.to_string());
    }
}

/// An administrator of the cluster who also knows one group.
pub struct Admin {
    admin: AdminClient<DefaultClientContext>,
    group: String,
    group_view: BaseConsumer,
    stable_view: BaseConsumer,
    bootstrap: String,
}

impl Admin {
    /// For one cluster and one group.
    pub fn new(bootstrap: &str, group: &str) -> Admin {
        let mut config = client::config(bootstrap);
        let admin = config.create().expect("an admin client");
        config.set("group.id", group).set("enable.auto.commit", "false");
        let stable_view = config.set("isolation.level", "read_committed").create().expect("a client");
        let group_view = config.set("isolation.level", "read_uncommitted").create().expect("a client");
        Admin { admin, group: group.to_string(), group_view, stable_view, bootstrap: bootstrap.to_string() }
    }

    /// Makes topics and waits until every partition has a leader.
    pub fn create(&self, plans: &[TopicPlan]) {
        for plan in plans {
            // -1: as the cluster has it.
            let mut topic = NewTopic::new(&plan.name, plan.partitions, TopicReplication::Fixed(-1));
            for (key, value) in &plan.settings {
                topic = topic.set(key, value);
            }
            wait_until(&format!("topic {} is made", plan.name), 30, || {
                let made = block_on(self.admin.create_topics([&topic], &options())).expect("a create request");
                match &made[0] {
                    Ok(_) => true,
                    // A deleted topic's name is taken for a moment.
                    Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => false,
                    Err(error) => panic!("{error:?}"),
                }
            });
        }
        for plan in plans {
            wait_until(&format!("topic {} has leaders", plan.name), 30, || {
                self.leaders(&plan.name) == plan.partitions as usize
            });
        }
    }

    /// Deletes topics and waits until they are gone.
    pub fn delete(&self, names: &[&str]) {
        let deleted = block_on(self.admin.delete_topics(names, &options())).expect("a delete request");
        for result in deleted {
            result.expect("the topic is deleted");
        }
        for name in names {
            wait_until(&format!("topic {name} is gone"), 30, || self.leaders(name) == 0);
        }
    }

    /// Deletes what is there of these, without a word about what is not.
    pub fn try_delete(&self, names: &[&str]) {
        let _ = block_on(self.admin.delete_topics(names, &options()));
    }

    /// Gives a topic more partitions.
    pub fn grow(&self, topic: &str, partitions: i32) {
        let wanted = NewPartitions::new(topic, partitions as usize);
        let results = block_on(self.admin.create_partitions([&wanted], &options())).expect("a request");
        results.into_iter().for_each(|r| drop(r.expect("the topic grows")));
        wait_until(&format!("{topic} has {partitions} partitions"), 30, || self.leaders(topic) == partitions as usize);
    }

    /// Removes the records below `offset`.
    pub fn trim(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
        block_on(self.admin.delete_records(&list, &options())).expect("records deleted");
        wait_until("the log starts later", 30, || self.watermarks(topic, partition).0 == offset);
    }

    /// Deletes the group and so its offsets, as soon as it has no members.
    pub fn delete_group(&self) {
        wait_until("the group is deleted", 30, || {
            let results = block_on(self.admin.delete_groups(&[&self.group], &options())).expect("a delete request");
            match &results[0] {
                Ok(_) => true,
                Err((_, RDKafkaErrorCode::NonEmptyGroup)) => false,
                Err(error) => panic!("{error:?}"),
            }
        });
    }

    /// Commits offsets for the group, which must have no members.
    pub fn commit(&self, topic: &str, offsets: &[i64]) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(offsets) {
            list.add_partition_offset(topic, partition, Offset::Offset(*offset)).expect("an offset");
        }
        wait_until("the offsets are committed", 30, || self.group_view.commit(&list, CommitMode::Sync).is_ok());
    }

    /// Where Java's partitioner, as librdkafka has it, puts these keys: sends them to a topic and sees.
    pub fn places_of(&self, topic: &str, keys: &BTreeSet<Vec<u8>>) -> BTreeMap<Vec<u8>, i32> {
        let producer: BaseProducer =
            client::config(&self.bootstrap).set("partitioner", "murmur2_random").create().expect("a producer");
        for key in keys {
            producer
                .send(BaseRecord::<[u8], [u8]>::to(topic).key(key).payload(b"placed"))
                .map_err(|e| e.0)
                .expect("sent");
        }
        producer.flush(WAIT).expect("delivered");
        let partitions =
            self.group_view.fetch_metadata(Some(topic), WAIT).expect("metadata").topics()[0].partitions().len();
        let records = client::Reader::new(&self.bootstrap, topic, partitions as i32).read_to_end();
        records.into_iter().map(|r| (r.key.expect("a key"), r.partition)).collect()
    }

    /// The group's committed offset per partition.
    pub fn committed(&self, topic: &str, partitions: i32) -> Vec<Option<i64>> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition);
        }
        let found = self.stable_view.committed_offsets(list, WAIT);
        let Ok(found) = found else {
            return vec![None; partitions as usize];
        };
        (0..partitions)
            .map(|p| match found.find_partition(topic, p).map(|e| e.offset()) {
                Some(Offset::Offset(offset)) => Some(offset),
                _ => None,
            })
            .collect()
    }

    /// First offset and end offset, whatever is committed.
    pub fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        log_ends(&self.group_view, topic, partition)
    }

    /// The end of what read_committed readers see; below the end of the log while a transaction is open.
    pub fn stable_end(&self, topic: &str, partition: i32) -> i64 {
        log_ends(&self.stable_view, topic, partition).1
    }

    /// The end offset of every partition.
    pub fn ends(&self, topic: &str, partitions: i32) -> Vec<i64> {
        (0..partitions).map(|p| self.watermarks(topic, p).1).collect()
    }

    /// The partitions of each of the group's members once it is stable; empty while it is not or has none.
    pub fn members(&self) -> Vec<Vec<i32>> {
        let Ok(list) = self.group_view.fetch_group_list(Some(&self.group), WAIT) else {
            return Vec::new();
        };
        let Some(group) = list.groups().iter().find(|g| g.state() == "Stable") else {
            return Vec::new();
        };
        group.members().iter().map(|m| assigned(m.assignment())).collect()
    }

    fn leaders(&self, topic: &str) -> usize {
        let Ok(metadata) = self.group_view.fetch_metadata(Some(topic), WAIT) else {
            return 0;
        };
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        partitions.filter(|p| p.leader() >= 0 && p.error().is_none()).count()
    }
}

/// A topic made anew has another leader than the client remembers, for a moment.
#[expect(clippy::disallowed_methods, reason = "what it gets wrong fails a comparison")]
fn log_ends(view: &BaseConsumer, topic: &str, partition: i32) -> (i64, i64) {
    let mut ends = Err(KafkaError::Canceled);
    wait_until(&format!("{topic}/{partition} tells its ends"), 30, || {
        ends = view.fetch_watermarks(topic, partition, WAIT);
        ends.is_ok()
    });
    ends.expect("just seen")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(15))).request_timeout(Some(Duration::from_secs(60)))
}

/// Partition numbers out of the consumer protocol's assignment: version, then (topic, partitions) pairs.
fn assigned(bytes: Option<&[u8]>) -> Vec<i32> {
    fn number<const N: usize>(bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
        let part = bytes.get(*at..*at + N)?.try_into().ok()?;
        *at += N;
        Some(part)
    }
    fn parse(bytes: &[u8]) -> Option<Vec<i32>> {
        let (mut at, mut partitions) = (2, Vec::new());
        for _ in 0..i32::from_be_bytes(number(bytes, &mut at)?) {
            at += i16::from_be_bytes(number(bytes, &mut at)?) as usize;
            for _ in 0..i32::from_be_bytes(number(bytes, &mut at)?) {
                partitions.push(i32::from_be_bytes(number(bytes, &mut at)?));
            }
        }
        Some(partitions)
    }
    bytes.and_then(parse).unwrap_or_default()
}
