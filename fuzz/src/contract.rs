//! The contract of a command, written as plainly as it reads, without regard to speed: what the decoder must answer.
//!
//! It shares no code with the worker. Well-formed is what [`serde_json::Value`] reads; since that keeps only the last of
//! doubled fields and no order, objects are then taken apart as lists of raw pairs.
//!
//! Left out, as [`is_comparable`] says: `Value` gives one field name of serde_json's own a meaning that JSON does not.

use crate::currencies;
use crate::record::{MAX_ACCOUNTS, MAX_PAYLOAD, Record, TYPES};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

/// What becomes of a record, in words.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dead letter, with its reason.
    Dead(&'static str),
    /// Answered with an error.
    Rejected { request_id: String, card_id: Option<String>, code: &'static str, path: String },
    /// Accepted: type, currency and number of each account.
    Accepted { request_id: String, card_id: String, accounts: Vec<[String; 3]> },
}

/// Whether `Value` can be the judge of this value.
pub fn is_comparable(value: &[u8]) -> bool {
    let magic = b"$serde_json::private::";
    !value.windows(magic.len()).any(|window| window == magic)
}

/// The verdict on a record.
pub fn verdict(record: &Record<'_>) -> Verdict {
    let text = match object_text(&record.value) {
        Ok(text) => text,
        Err(reason) => return Verdict::Dead(reason),
    };
    let fields = pairs(text);
    let Some(request_id) = uuid_of(&fields, "request_id") else { return Verdict::Dead("invalid_request_id") };
    let card_id = uuid_of(&fields, "card_id");
    let checked = match first_fault(&fields, record.ignore_unknown) {
        Some((code, path)) => Err((code, path)),
        None => after_the_fields(record, &fields, card_id.as_deref()),
    };
    match checked {
        Ok((card_id, accounts)) => Verdict::Accepted { request_id, card_id, accounts },
        Err((code, path)) => Verdict::Rejected { request_id, card_id, code, path },
    }
}

/// Size, one JSON value, nesting, an object.
fn object_text(value: &[u8]) -> Result<&str, &'static str> {
    if value.is_empty() {
        return Err("empty_value");
    }
    if value.len() > MAX_PAYLOAD {
        return Err("payload_too_large");
    }
    let parsed: Value = serde_json::from_slice(value).map_err(|_| "malformed_json")?;
    let text = std::str::from_utf8(value).map_err(|_| "malformed_json")?;
    match (nesting(text) <= 16, parsed) {
        (false, _) => Err("malformed_json"),
        (true, Value::Object(_)) => Ok(text),
        (true, _) => Err("not_an_object"),
    }
}

/// Levels of nesting of a well-formed text: brackets outside strings.
fn nesting(text: &str) -> usize {
    let (mut level, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' if !in_string => level -= 1,
            _ => {}
        }
    }
    deepest
}

/// An object's fields as they stand, doubled ones too.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

type Fields<'a> = Vec<(String, &'a RawValue)>;

fn pairs(object: &str) -> Fields<'_> {
    serde_json::from_str::<Pairs<'_>>(object).expect("it was found to be an object").0
}

fn value_of(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).expect("it is part of a well-formed value")
}

/// A field that stands once and is a string.
fn text_of(fields: &Fields<'_>, name: &str) -> Option<String> {
    let mut found = fields.iter().filter(|(n, _)| n == name);
    let (_, raw) = found.next().filter(|_| found.next().is_none())?;
    value_of(raw).as_str().map(str::to_owned)
}

fn uuid_of(fields: &Fields<'_>, name: &str) -> Option<String> {
    let text = text_of(fields, name)?;
    let hyphens = [8, 13, 18, 23];
    let fits = |(at, c): (usize, char)| if hyphens.contains(&at) { c == '-' } else { c.is_ascii_hexdigit() };
    (text.chars().count() == 36 && text.chars().enumerate().all(fits)).then(|| text.to_lowercase())
}

/// Kind in the contract's order, place in the document, code and path.
type Fault = (usize, usize, &'static str, String);

struct Faults {
    found: Vec<Fault>,
    place: usize,
    ignore_unknown: bool,
}

const KINDS: [&str; 4] = ["unknown_field", "duplicate_field", "missing_field", "invalid_type"];

/// Of several faults: by kind in the order given, then in document order. A field that is missing stands nowhere: it counts
/// where its object begins, in the order of the contract's table.
fn first_fault(fields: &Fields<'_>, ignore_unknown: bool) -> Option<(&'static str, String)> {
    let mut faults = Faults { found: Vec::new(), place: 0, ignore_unknown };
    faults.command(fields);
    faults.found.into_iter().min_by_key(|(kind, place, ..)| (*kind, *place)).map(|(_, _, code, path)| (code, path))
}

impl Faults {
    fn add(&mut self, code: &'static str, path: String) {
        let kind = KINDS.iter().position(|k| *k == code).expect("one of the four");
        self.place += 1;
        self.found.push((kind, self.place, code, path));
    }

    fn command(&mut self, fields: &Fields<'_>) {
        self.missing(fields, &["request_id", "card_id"], "");
        let mut seen = HashSet::new();
        for (name, raw) in fields {
            self.name(name, &mut seen, &["request_id", "card_id", "accounts"], "");
            match (name.as_str(), value_of(raw)) {
                ("request_id" | "card_id", Value::String(_)) => {}
                ("accounts", Value::Array(_)) => self.accounts(raw),
                ("request_id" | "card_id" | "accounts", _) => self.add("invalid_type", format!("/{name}")),
                _ => {}
            }
        }
    }

    fn accounts(&mut self, raw: &RawValue) {
        for (index, account) in list(raw).into_iter().enumerate() {
            let at = format!("/accounts/{index}");
            match value_of(account) {
                Value::Object(_) => self.account(&pairs(account.get()), &at),
                _ => self.add("invalid_type", at),
            }
        }
    }

    fn account(&mut self, fields: &Fields<'_>, at: &str) {
        let known = ["iban", "currency", "type"];
        self.missing(fields, &known, at);
        let mut seen = HashSet::new();
        for (name, raw) in fields {
            self.name(name, &mut seen, &known, at);
            if known.contains(&name.as_str()) && !value_of(raw).is_string() {
                self.add("invalid_type", format!("{at}/{name}"));
            }
        }
    }

    fn name<'n>(&mut self, name: &'n str, seen: &mut HashSet<&'n str>, known: &[&str], holder: &str) {
        if !known.contains(&name) && !self.ignore_unknown {
            self.add("unknown_field", holder.to_owned());
        }
        if !seen.insert(name) {
            self.add("duplicate_field", holder.to_owned());
        }
    }

    fn missing(&mut self, fields: &Fields<'_>, required: &[&str], holder: &str) {
        for name in required.iter().filter(|name| !fields.iter().any(|(given, _)| given == *name)) {
            self.add("missing_field", format!("{holder}/{name}"));
        }
    }
}

fn list(raw: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(raw.get()).expect("it was found to be a list")
}

type Checked = Result<(String, Vec<[String; 3]>), (&'static str, String)>;

/// Card id, key, number of accounts, each account in order.
fn after_the_fields(record: &Record<'_>, fields: &Fields<'_>, card_id: Option<&str>) -> Checked {
    let card_id = card_id.ok_or(("invalid_card_id", "/card_id".to_owned()))?;
    if !record.trust && record.key.as_deref() != Some(card_id.as_bytes()) {
        return Err(("key_mismatch", "/card_id".to_owned()));
    }
    let accounts = fields.iter().find(|(name, _)| name == "accounts").map_or(Vec::new(), |(_, raw)| list(raw));
    if accounts.len() > MAX_ACCOUNTS {
        return Err(("too_many_accounts", "/accounts".to_owned()));
    }
    let accounts = accounts.iter().enumerate().map(|(index, raw)| account(index, &pairs(raw.get())));
    Ok((card_id.to_owned(), accounts.collect::<Result<_, _>>()?))
}

fn account(index: usize, fields: &Fields<'_>) -> Result<[String; 3], (&'static str, String)> {
    let text = |name| text_of(fields, name).expect("the fields were checked");
    let fault = |code, field| (code, format!("/accounts/{index}/{field}"));
    let (kind, currency, iban) = (text("type"), text("currency"), text("iban"));
    if !TYPES.contains(&kind.as_str()) {
        return Err(fault("invalid_account_type", "type"));
    }
    if !currencies::is_current(&currency) {
        return Err(fault("invalid_currency", "currency"));
    }
    let number = if kind == "IBAN" { electronic(&iban) } else { printable(&iban) };
    number.map(|number| [kind, currency, number]).ok_or(fault("invalid_iban", "iban"))
}

/// Spaces and lower case are accepted and normalised; structure and check digits are the crate's that the contract names.
fn electronic(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| *c != ' ').map(|c| c.to_ascii_uppercase()).collect();
    text.parse::<iban::Iban>().is_ok().then_some(text)
}

fn printable(text: &str) -> Option<String> {
    ((1..=34).contains(&text.len()) && text.chars().all(|c| (' '..='~').contains(&c))).then(|| text.to_owned())
}
