//! The card-update worker: commands in, exactly one answer out, on Kafka.
//!
//! # The flow
//!
//! ```text
//! commands topic ─▶ decode ─▶ decide (pure) ─▶ stage ─▶ Kafka transaction ─▶ apply to the projection ─▶ sled checkpoint
//!                                   ▲                      │ completions                  (memory)          (write-behind)
//!                                   └── projection reads ──┤ cards (compacted changelog)
//!                                                          │ dead letters
//!                                                          └ input offsets
//! ```
//!
//! Decide in memory, commit to Kafka in one transaction, and only then let sled follow. Kafka is the truth; the local state
//! is a cache of two of its topics and can be deleted at any time. The order of the steps stands in one function,
//! [`worker::Loop::step`]; data goes through one type a hop: record → [`domain::Command`] → [`domain::Verdict`] →
//! [`worker::StagedBatch`] → [`worker::CommittedBatch`] → [`projection::Projection`].
//!
//! # Who may import whom
//!
//! [`domain`] imports nothing of the project; [`wire`] imports `domain`; [`projection`] and [`kafka`] import those two;
//! [`worker`] imports all of them, and [`observe`], to which it reports; [`backfill`] imports `domain`, `wire` and `kafka`, and
//! knows no worker; [`config`] makes what they are configured with; only [`cli`] starts a worker. Only `projection` knows sled, only `kafka` knows rdkafka, and `unsafe` stands only in
//! `kafka::raw`. `tests/architecture.rs` reads the sources and fails when this breaks.
//!
//! # Invariants
//!
//! They hold while Kafka keeps what it has acknowledged (`acks=all` with replicas in sync, no unclean leader election) and
//! no one else writes to the worker's topics. Tests carry their numbers.
//!
//! - **INV-1** Nothing reaches the projection that Kafka has not committed: applying takes a value that only a commit (or a
//!   restore) can make.
//! - **INV-2** Whatever a kill leaves in sled, opening it and replaying the log from the stored position gives exactly the
//!   fold of the log, or the store is seen to be damaged and thrown away.
//! - **INV-3** The projection is the fold of the cards topic up to its position; the dedup memory is the fold of the
//!   completions topic over the window.
//! - **INV-4** Every input record ends as exactly one of completion, dead letter or counted suppression. The committed input
//!   offset is the last processed one + 1.
//! - **INV-5** One `request_id`, within the window and its partition, has at most one `ok` completion that is not marked as
//!   replayed.
//! - **INV-6** No record is decided before the partition's restore is complete, and none after it was revoked.
//! - **INV-7** An unknown outcome is never guessed: a new producer decides the old transaction, and the stable committed
//!   offsets tell how.
//! - **INV-8** A fenced or lost owner writes nothing more.
//! - **INV-9** Everything is bounded, also each call into the client: a watchdog ends the process when one outlasts its
//!   time-out.
//! - **INV-10** No payload value stands in logs, metrics, error messages or span attributes, at any level.
//!
//! # Deliberately absent
//!
//! No write to sled that a decision waits for, no key per record, no hash function that places output (the input's partition
//! number does), no second writer for backfills, no retry of a commit.

pub mod backfill;
pub mod cli;
pub mod config;
pub mod domain;
pub mod inspect;
pub mod kafka;
pub mod mutation;
pub mod observe;
pub mod projection;
pub mod wire;
pub mod worker;
