//! What a configuration file, the environment and `--set` may say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use secrecy::ExposeSecret;
use std::io::Write as _;

fn from_file(text: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<Layered, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let environment = environment.iter().map(|(n, v)| ((*n).to_string(), (*v).to_string()));
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_string()).collect();
    load(Some(file.path()), environment, &sets)
}

#[test]
fn the_defaults_are_valid_and_the_contracts() {
    let config = load(None, std::iter::empty(), &[]).unwrap().config;
    assert_eq!(config.kafka.bootstrap_servers, "localhost:9092");
    assert_eq!(config.rules.window_ms, 7 * 24 * 3600 * 1000);
    assert_eq!(config.rules.decode.max_payload, 256 * 1024);
    assert_eq!((config.instance_id, config.partitions, config.standby), (None, None, false));
}

#[test]
fn set_wins_over_environment_over_file_over_default() {
    let file = "[kafka]\ngroup_id = \"file\"\nbootstrap_servers = \"file:1\"\n[batch]\nmax_records = 5";
    let environment = [
        ("CARD_UPDATE_WORKER__KAFKA__GROUP_ID", "env"),
        ("CARD_UPDATE_WORKER__BATCH__MAX_RECORDS", "6"),
        ("OTHER", "x"),
    ];
    let layered = from_file(file, &environment, &["batch.max_records=7"]).unwrap();
    assert_eq!(layered.config.kafka.bootstrap_servers, "file:1");
    assert_eq!(layered.config.kafka.group_id, "env");
    assert_eq!(layered.config.rules.batch_max_records, 7);
    assert_eq!(layered.values["batch.max_records"].origin, Origin::Set);
    assert_eq!(layered.values["dedup.window"].origin, Origin::Default);
}

#[test]
fn client_properties_pass_through_but_not_those_the_guarantees_rest_on() {
    let file = "[kafka.client]\n\"security.protocol\" = \"SSL\"\nsocket.timeout.ms = 5000";
    let environment = [("CARD_UPDATE_WORKER__KAFKA__CLIENT__SASL_USERNAME", "me")];
    let client = from_file(file, &environment, &["kafka.client.ssl.ca.location=/ca"]).unwrap().config.kafka.client;
    let wanted = [
        ("sasl.username", "me"),
        ("security.protocol", "SSL"),
        ("socket.timeout.ms", "5000"),
        ("ssl.ca.location", "/ca"),
    ];
    let client: Vec<_> = client.iter().map(|(k, v)| (k.as_str(), v.expose_secret())).collect();
    assert_eq!(client, wanted);
    for refused in [
        "group.id",
        "group.instance.id",
        "transactional.id",
        "enable.idempotence",
        "acks",
        "isolation.level",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "partition.assignment.strategy",
        "delivery.report.only.error",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.max.bytes",
    ] {
        let error = from_file("", &[], &[&format!("kafka.client.{refused}=1")]).err().unwrap();
        assert!(error.0.contains(refused), "{error}");
    }
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"hunter2\n").unwrap();
    let set = format!("kafka.client.sasl.password_file={}", secret.path().display());
    let layered = from_file("", &[], &[&set, "kafka.client.ssl.key.password=hunter3"]).unwrap();
    assert_eq!(layered.config.kafka.client["sasl.password"].expose_secret(), "hunter2");
    let debug = format!("{:?}", layered.config);
    assert!(debug.contains("sasl.password") && !debug.contains("hunter"), "{debug}");
    assert!(layered.values.values().all(|v| !v.shown.to_string().contains("hunter")));
}

#[test]
fn inv_10_no_error_shows_a_secret() {
    let client = "[kafka.client]\n";
    for (text, set) in [
        ("\"sasl.password\" = \"hunter2\n", "log.level=info"),
        ("\"sasl.password\" = hunter2", "log.level=info"),
        ("\"ssl.key.pem\" = \"\"\n\"ssl.key.pem\" = \"hunter2\"", "log.level=info"),
        ("", "kafka.client.sasl.password hunter2"),
    ] {
        let error = from_file(&format!("{client}{text}"), &[], &[set]).err().unwrap();
        assert!(!error.0.contains("hunter"), "{error}");
    }
    let error = from_file(&format!("{client}\"sasl.password\" = \"hunter2\n"), &[], &[]).err().unwrap();
    assert!(error.0.contains("line 2, column"), "{error}");
}

#[test]
fn inv_10_every_property_that_is_a_secret_is_redacted() {
    for property in [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ] {
        let layered = from_file("", &[], &[&format!("kafka.client.{property}=hunter2")]).unwrap();
        assert!(!format!("{:?}", layered.values).contains("hunter"), "{property}");
    }
}

#[test]
fn what_is_wrong_is_refused_by_name_with_a_hint() {
    for (text, hints) in [
        ("[kafka]\ngruop_id = \"x\"", &["kafka.gruop_id", "kafka.group_id"][..]),
        ("[workers]\nthreads = 1", &["workers.threads", "worker.threads"]),
        ("[batch]\nmax_records = 0", &["batch.max_records", "out of range"]),
        ("[batch]\nmax_records = \"x\"", &["max_records"]),
        ("[batch]\nmax_bytes = \"1 parsec\"", &["batch.max_bytes", "16MiB"]),
        ("[dedup]\nwindow = \"soon\"", &["dedup.window", "7d"]),
        ("[dedup]\nwindow = \"0s\"", &["dedup.window"]),
        ("[dedup]\nwindow = \"500000000y\"", &["dedup.window", "out of range"]),
        ("[worker]\ndrain_timeout = \"500000000y\"", &["worker.drain_timeout", "out of range"]),
        ("[dedup]\non_duplicate = \"ignore\"", &["dedup.on_duplicate", "replay"]),
        ("[completion]\nutc_offset = \"Z\"", &["completion.utc_offset"]),
        ("[topics]\ncards = \"card-update.commands\"", &["five different names"]),
        ("[http]\nlisten = \"here\"", &["http.listen"]),
        ("[log]\nlevel = \"loud\"", &["log.level"]),
        ("[ingest]\naccount_types = [\"\"]", &["ingest.account_types"]),
        ("not toml", &["TOML"]),
    ] {
        let error = from_file(text, &[], &[]).err().unwrap_or_else(|| panic!("{text} was accepted"));
        assert!(hints.iter().all(|hint| error.0.contains(hint)), "{text}: {error}");
    }
}
