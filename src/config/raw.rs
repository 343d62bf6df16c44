//! The values as they are written; unknown keys are refused by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// How Kafka is reached.
    Kafka {
        /// Brokers to ask first, `host:port,host:port`.
        bootstrap_servers: String = "localhost:9092".into(),
        /// The consumer group; also the prefix of the transactional ids.
        group_id: String = "card-update-worker".into(),
        /// Further librdkafka properties (security.protocol, sasl.*, ssl.*, …). A name that ends in `_file` reads its value from a file.
        client: BTreeMap<String, String> = BTreeMap::new(),
    }
}
section! {
    /// The five topics.
    Topics {
        /// Input, live.
        commands: String = "card-update.commands".into(),
        /// Input, replayed history.
        backfill: String = "card-update.backfill".into(),
        /// One event for each command; also the log of the dedup memory.
        completions: String = "card-update.completions".into(),
        /// Compacted changelog of the cards.
        cards: String = "card-update.cards".into(),
        /// What cannot be answered.
        dead_letters: String = "card-update.dead-letters".into(),
        /// 0: what is there; set: anything else is refused.
        partitions: i64 = 0,
    }
}
section! {
    /// The process.
    Worker {
        /// Stable over restarts (a StatefulSet's pod name): static membership. Empty: dynamic membership.
        instance_id: String = String::new(),
        /// Loops; 0: the number of cores.
        threads: i64 = 0,
        /// Where the local state lies; each worker needs its own.
        state_dir: String = "./state".into(),
        /// "none", or "all": other partitions' state is kept warm in memory.
        standby: String = "none".into(),
        /// How long an orderly end may take.
        drain_timeout: String = "20s".into(),
    }
}
section! {
    /// What one transaction takes.
    Batch {
        /// Most records.
        max_records: i64 = 10_000,
        /// Most bytes of keys and values.
        max_bytes: String = "16MiB".into(),
        /// Longest time that it is filled while more is waiting.
        max_delay: String = "20ms".into(),
    }
}
section! {
    /// What is accepted.
    Ingest {
        /// "strict": the record key must be the card_id; or "trust".
        key_policy: String = "strict".into(),
        /// The allowed account types.
        account_types: Vec<String> = vec!["IBAN".into()],
        /// "reject" or "ignore".
        unknown_fields: String = "reject".into(),
        /// Most accounts in a command.
        max_accounts: i64 = 100,
        /// Largest value.
        max_payload: String = "256KiB".into(),
        /// "fail", or "skip": what to do when commands were deleted before they were processed.
        on_trimmed: String = "fail".into(),
    }
}
section! {
    /// How completions look.
    Completion {
        /// The offset that `dt` is shown with.
        utc_offset: String = "+00:00".into(),
    }
}
section! {
    /// The dedup memory.
    Dedup {
        /// How long a request is remembered.
        window: String = "7d".into(),
        /// "replay", "suppress" or "error".
        on_duplicate: String = "replay".into(),
    }
}
section! {
    /// When the local state is written.
    Checkpoint {
        /// After this time, or earlier once commands come slower, if it pays.
        interval: String = "30s".into(),
        /// When a restart would have to read more records than this; than a quarter of it, if it pays.
        max_tail_records: i64 = 500_000,
    }
}
section! {
    /// The state directory.
    State {
        /// How long a partition that moved away keeps its state here.
        keep_lost_for: String = "1h".into(),
    }
}
section! {
    /// Restores.
    Restore {
        /// How long one may make no progress.
        stall_timeout: String = "60s".into(),
    }
}
section! {
    /// The backfill input.
    Backfill {
        /// Commands per second and process; 0: as live traffic allows.
        max_rate: i64 = 0,
        /// "all", or "applied": stale and replayed ones are suppressed and counted.
        completions: String = "all".into(),
    }
}
section! {
    /// HTTP.
    Http {
        /// Where it listens; empty: off.
        listen: String = "127.0.0.1:9464".into(),
        /// Whether cards and requests can be read.
        read_api: bool = true,
        /// A file with the bearer token of the read API; required when it listens beyond loopback.
        read_api_token_file: String = String::new(),
    }
}
section! {
    /// Logs.
    Log {
        /// "auto", "text" or "json".
        format: String = "auto".into(),
        /// "error", "warn", "info", "debug" or "trace".
        level: String = "info".into(),
    }
}
section! {
    /// Traces.
    Tracing {
        /// Where OTLP is sent; empty: off.
        otlp_endpoint: String = String::new(),
    }
}
section! {
    /// The configuration file.
    Raw {
        /// How Kafka is reached.
        kafka: Kafka = Kafka::default(),
        /// The five topics.
        topics: Topics = Topics::default(),
        /// The process.
        worker: Worker = Worker::default(),
        /// What one transaction takes.
        batch: Batch = Batch::default(),
        /// What is accepted.
        ingest: Ingest = Ingest::default(),
        /// How completions look.
        completion: Completion = Completion::default(),
        /// The dedup memory.
        dedup: Dedup = Dedup::default(),
        /// When the local state is written.
        checkpoint: Checkpoint = Checkpoint::default(),
        /// The state directory.
        state: State = State::default(),
        /// Restores.
        restore: Restore = Restore::default(),
        /// The backfill input.
        backfill: Backfill = Backfill::default(),
        /// HTTP.
        http: Http = Http::default(),
        /// Logs.
        log: Log = Log::default(),
        /// Traces.
        tracing: Tracing = Tracing::default(),
    }
}
