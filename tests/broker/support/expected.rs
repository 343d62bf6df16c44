//! Owns what single records must read: the bodies of completions, their time, and dead letters byte for byte.

use serde_json::Value;
use sha2::Digest;

use super::Site;
use super::client::Record;
use super::model::Command;

/// The body of a first success.
pub fn success(request_id: &str, card_id: &str, dt: &str) -> Value {
    serde_json::json!({ "request_id": request_id, "card_id": card_id, "status": "ok", "request_status": "success", "dt": dt })
}

/// The error completion wanted; the message is free but there, the path is free where the contract does not fix it.
pub fn refusal(
    request_id: &str,
    card_id: Option<&str>,
    dt: &str,
    code: &str,
    path: Option<&str>,
    found: &Value,
) -> Value {
    let message = found.pointer("/error/message").and_then(Value::as_str).filter(|m| !m.is_empty());
    let mut error = serde_json::json!({ "code": code, "message": message });
    match (path, found.pointer("/error/path")) {
        (Some(path), _) => error["path"] = path.into(),
        (None, Some(path)) => error["path"] = path.clone(),
        (None, None) => {}
    }
    let mut body = serde_json::json!({ "request_id": request_id, "status": "error", "request_status": "error", "dt": dt, "error": error });
    if let Some(card_id) = card_id {
        body["card_id"] = card_id.into();
    }
    body
}

/// A time as completions print it: RFC 3339, whole seconds, a numeric offset.
pub fn dt(ms: i64, offset_minutes: i64) -> String {
    let seconds = ms.div_euclid(1000) + offset_minutes * 60;
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let sign = if offset_minutes < 0 { '-' } else { '+' };
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (oh, om) = (offset_minutes.abs() / 60, offset_minutes.abs() % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{sign}{oh:02}:{om:02}")
}

/// Days since 1970-01-01 as a date (the usual era arithmetic).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A dead letter is its record as it came, with the `dlq-` headers behind its own.
pub fn check_dead_letter(site: &Site, command: &Command, letter: &Record, reason: &str) {
    let at = (command.partition, command.offset);
    assert_eq!(letter.partition, command.partition, "{at:?}: the partition of the input");
    assert_eq!(letter.key, command.key, "{at:?}: the key as it came");
    let header = |name: &str, wanted: &str| {
        assert_eq!(letter.header(name), Some(wanted), "{at:?}: the header {name}");
    };
    header("dlq-reason", reason);
    header("dlq-topic", &site.topics.commands);
    header("dlq-partition", &command.partition.to_string());
    header("dlq-offset", &command.offset.to_string());
    if command.timestamp >= 0 {
        header("dlq-timestamp", &command.timestamp.to_string());
    }
    assert!(letter.header("dlq-message").is_some_and(|m| !m.is_empty()), "{at:?}: a message");
    let (own, added) = letter.headers.split_at(command.headers.len());
    assert_eq!(own, command.headers, "{at:?}: the headers as they came, first");
    assert!(added.iter().all(|(key, _)| key.starts_with("dlq-")), "{at:?}: {added:?}");
    if letter.header("dlq-value-omitted").is_none() {
        assert_eq!(letter.value, command.value, "{at:?}: the value as it came");
        return;
    }
    let value = command.value.as_deref().expect("only a value that is there can be left out");
    assert!(value.len() > 1_000_000, "{at:?}: a value of {} bytes was left out", value.len());
    header("dlq-value-omitted", "true");
    header("dlq-value-bytes", &value.len().to_string());
    let sum: String = sha2::Sha256::digest(value).iter().map(|b| format!("{b:02x}")).collect();
    header("dlq-value-sha256", &sum);
    assert!(letter.value.as_deref().unwrap_or_default().is_empty(), "{at:?}: no value");
}
