//! The card-update worker: commands in, exactly one answer out, on Kafka.
pub mod cli;
pub mod config;
pub mod domain;
pub mod inspect;
pub mod kafka;
pub mod observe;
pub mod projection;
pub mod wire;
pub mod worker;
