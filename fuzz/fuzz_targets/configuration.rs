//! The loader of configurations: never a panic, and no error message carries a secret's value, nor does what is shown of a
//! configuration that is valid.
//!
//! An input is a TOML file; after a line `---` each line is a `--set`, or with `env ` before it a variable. The secret's value
//! is [`SECRET`] wherever it stands, and `SECRET_FILE` is the path of a file that holds it. A person who writes it where no
//! secret belongs is shown it: such inputs are left out. A file that is no TOML could have it anywhere, and shows it nowhere.

#![no_main]

use card_update_worker::config::load;
use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use toml::{Table, Value};

const SECRET: &str = "hunter2-hunter2";
const PLACE_OF_SECRET: &str = "SECRET_FILE";
/// librdkafka's properties that are secrets by themselves.
const SECRETS: [&str; 8] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
];
/// Reading such a file might never end.
const ENDLESS: [&str; 3] = ["/dev", "/proc", "/sys"];

libfuzzer_sys::fuzz_target!(|input: &str| {
    if ENDLESS.iter().any(|path| input.contains(path)) {
        return;
    }
    FILES.with_borrow_mut(|files| check(&Input::read(&input.replace(PLACE_OF_SECRET, &files.secret())), files));
});

fn check(input: &Input<'_>, files: &mut Files) {
    let file = files.with(input.file);
    let said = match load(Some(&file), input.environment.iter().cloned(), &input.sets) {
        Ok(layered) => {
            assert!(layered.config.rules.window_ms > 0);
            format!("{:?}", layered.values)
        }
        Err(error) => error.to_string(),
    };
    assert!(input.shows_a_secret() || !said.contains(SECRET), "{said}");
}

struct Input<'a> {
    file: &'a str,
    environment: Vec<(String, String)>,
    sets: Vec<String>,
}

impl<'a> Input<'a> {
    fn read(text: &'a str) -> Self {
        let (file, rest) = text.split_once("\n---\n").unwrap_or((text, ""));
        let (mut environment, mut sets) = (Vec::new(), Vec::new());
        for line in rest.lines() {
            match line.strip_prefix("env ").and_then(|variable| variable.split_once('=')) {
                Some((name, value)) => environment.push((name.to_owned(), value.to_owned())),
                None => sets.push(line.to_owned()),
            }
        }
        Input { file, environment, sets }
    }

    /// Whether the secret stands where everybody may see it.
    fn shows_a_secret(&self) -> bool {
        let variable = |name: &str| name.replace("__", ".").replace('_', ".").to_ascii_lowercase();
        let in_sets = self
            .sets
            .iter()
            .filter_map(|set| set.split_once('='))
            .any(|(key, value)| key.contains(SECRET) || value.contains(SECRET) && !is_secret(key, "kafka.client."));
        let in_environment = self.environment.iter().any(|(name, value)| {
            let secret = is_secret(&variable(name), "card.update.worker.kafka.client.");
            name.contains(SECRET) || variable(name).contains(SECRET) || value.contains(SECRET) && !secret
        });
        let in_file = self.file.parse::<Table>().is_ok_and(|table| table.iter().any(|(k, v)| shown_in("", k, v)));
        in_sets || in_environment || in_file
    }
}

fn is_secret(key: &str, before: &str) -> bool {
    key.strip_prefix(before).is_some_and(|property| SECRETS.contains(&property))
}

fn shown_in(holder: &str, name: &str, value: &Value) -> bool {
    let key = format!("{holder}{name}");
    name.contains(SECRET)
        || match value {
            Value::Table(fields) => fields.iter().any(|(name, value)| shown_in(&format!("{key}."), name, value)),
            other => other.to_string().contains(SECRET) && !is_secret(&key, "kafka.client."),
        }
}

/// Files without a name, so that nothing is left behind.
struct Files {
    configuration: File,
    secret: File,
}

thread_local! {
    static FILES: RefCell<Files> = RefCell::new(Files::new());
}

impl Files {
    fn new() -> Self {
        let file = || tempfile::tempfile().expect("the temporary directory can be written");
        let mut secret = file();
        secret.write_all(SECRET.as_bytes()).expect("the temporary directory can be written");
        Self { configuration: file(), secret }
    }

    fn secret(&self) -> String {
        path(&self.secret).display().to_string()
    }

    fn with(&mut self, text: &str) -> PathBuf {
        self.configuration.set_len(0).expect("the file can be cut");
        self.configuration.rewind().expect("the file can be rewound");
        self.configuration.write_all(text.as_bytes()).expect("the file can be written");
        path(&self.configuration)
    }
}

fn path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
