//! Durations, sizes and secrets as they are written.

use super::ConfigError;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::time::Duration;

/// Clocks have room for a century from now; longer is a mistake.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

/// `250ms`, `30s`, `7d`.
pub fn duration(key: &str, text: &str) -> Result<Duration, ConfigError> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| ConfigError(format!("{key}: {text:?} is no duration; write it as 250ms, 30s or 7d")))?;
    match duration <= LONGEST {
        true => Ok(duration),
        false => Err(ConfigError(format!("{key}: {text} is out of range (at most 36500d)"))),
    }
}

/// `256KiB`, `16MiB`.
pub fn size(key: &str, text: &str) -> Result<u64, ConfigError> {
    let parsed = text.parse::<bytesize::ByteSize>();
    parsed
        .map(|s| s.as_u64())
        .map_err(|_| ConfigError(format!("{key}: {text:?} is no size; write it as 256KiB or 16MiB")))
}

/// The content of a file that holds a secret; it must hold something.
pub fn secret(key: &str, file: &str) -> Result<SecretString, ConfigError> {
    let content =
        std::fs::read_to_string(file).map_err(|e| ConfigError(format!("{key}: {file} cannot be read: {e}")))?;
    match content.trim() {
        "" => Err(ConfigError(format!("{key}: {file} is empty"))),
        secret => Ok(secret.into()),
    }
}

/// Replaces each `NAME_file` by `NAME` with the file's content.
pub fn with_secrets(properties: &BTreeMap<String, String>) -> Result<BTreeMap<String, SecretString>, ConfigError> {
    let read = |(name, value): (&String, &String)| match name.strip_suffix("_file") {
        None => Ok((name.clone(), value.as_str().into())),
        Some(secret) => match std::fs::read_to_string(value) {
            Ok(content) => Ok((secret.to_owned(), content.trim_end_matches(['\r', '\n']).into())),
            Err(error) => Err(ConfigError(format!("kafka.client.{name:?}: {value} cannot be read: {error}"))),
        },
    };
    properties.iter().map(read).collect()
}

/// Whether a key's value must not be shown.
pub fn is_secret(key: &str) -> bool {
    let secret = ["password", "passphrase", "secret", "token", "sasl.oauthbearer.config", "key.pem"];
    secret.iter().any(|s| key.contains(s)) && !key.ends_with("_file")
}
