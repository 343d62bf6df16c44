//! Sends a workload's commands as an upstream does: keyed by card, in the partition that Java clients choose.

use crate::support::Site;
use crate::workload::Workload;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::time::Duration;

pub fn producer(site: &Site, linger_ms: u32) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", &site.bootstrap)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", linger_ms.to_string())
        .set("queue.buffering.max.messages", "100000")
        .create()
        .unwrap()
}

/// Sends the first `count` commands and waits until all are acknowledged.
pub fn send(site: &Site, workload: &Workload, count: u64) {
    let producer = producer(site, 20);
    for number in 0..count {
        send_one(&producer, site, workload, number);
        if number % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    let stored: i64 = site.admin.ends(&site.topics.commands, site.partitions).iter().sum();
    assert_eq!(stored, count as i64, "all commands are stored");
}

pub fn send_one(producer: &BaseProducer, site: &Site, workload: &Workload, number: u64) {
    let (key, value) = workload.command(number);
    let mut record = BaseRecord::to(&site.topics.commands).key(&key).payload(&value);
    while let Err((error, refused)) = producer.send(record) {
        assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        producer.poll(Duration::from_millis(5));
        record = refused;
    }
}
