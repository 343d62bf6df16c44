//! The careful reading of a command: the whole JSON value with order and doubled fields kept, and the first fault in it.
//!
//! Only what the quick reading refused comes here.

use super::command::UnknownFields;
use super::fast::{RawAccount, RawCommand};
use crate::domain::{ErrorCode, Path, Rejection};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Levels of nesting that a command may have, the root counted.
const MAX_DEPTH: u32 = 16;

/// A JSON value; of scalars only strings matter.
pub enum Node {
    Scalar,
    String(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads one JSON value; `None` when it is not well-formed or nested too deep.
    pub fn read(value: &[u8]) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_slice(value);
        let node = Level(0).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(node)
    }
}

/// How many levels stand above the value to read.
#[derive(Clone, Copy)]
struct Level(u32);

impl Level {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.0 < MAX_DEPTH { Ok(Self(self.0 + 1)) } else { Err(E::custom("nested too deep")) }
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Node, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Node;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::String(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let level = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(level)? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let level = self.inner()?;
        let mut fields = Vec::new();
        while let Some(name) = map.next_key()? {
            fields.push((name, map.next_value_seed(level)?));
        }
        Ok(Node::Object(fields))
    }
}

/// The value of a field that stands exactly once and is a string.
pub fn once<'n>(fields: &'n [(String, Node)], name: &str) -> Option<&'n str> {
    let mut found = fields.iter().filter(|(n, _)| n == name);
    match (found.next(), found.next()) {
        (Some((_, Node::String(text))), None) => Some(text),
        _ => None,
    }
}

/// What an object may carry: field name, whether it is required, and whether it is a list (else a string).
type Shape = [(&'static str, bool, bool); 3];
const COMMAND: Shape = [("request_id", true, false), ("card_id", true, false), ("accounts", false, true)];
const ACCOUNT: Shape = [("iban", true, false), ("currency", true, false), ("type", true, false)];

/// The fault that is answered: of several, by kind in the order of the contract, then in document order.
pub fn first_fault(fields: &[(String, Node)], unknown_fields: UnknownFields) -> Option<Rejection> {
    let mut faults = Faults { first: None, unknown_fields };
    faults.object(fields, &COMMAND, Path::Root, &Path::Field);
    faults.first
}

struct Faults {
    first: Option<Rejection>,
    unknown_fields: UnknownFields,
}

impl Faults {
    /// Keeps the fault unless one of the same or an earlier kind was found before.
    fn found(&mut self, code: ErrorCode, path: Path) {
        let kind = |code| ErrorCode::ALL.iter().position(|c| *c == code);
        if self.first.is_none_or(|first| kind(code) < kind(first.code)) {
            self.first = Some(Rejection { code, path });
        }
    }

    fn object(
        &mut self,
        fields: &[(String, Node)],
        shape: &Shape,
        holder: Path,
        field_path: &dyn Fn(&'static str) -> Path,
    ) {
        // What is missing stands nowhere: it counts where its object begins.
        for (name, ..) in shape.iter().filter(|(_, required, _)| *required) {
            if !fields.iter().any(|(given, _)| given == name) {
                self.found(ErrorCode::MissingField, field_path(name));
            }
        }
        let mut seen = HashSet::with_capacity(fields.len());
        for (name, value) in fields {
            // An ignored field may not stand twice either: which of them was meant is not known.
            if !seen.insert(name.as_str()) {
                self.found(ErrorCode::DuplicateField, holder);
            }
            let Some((name, _, is_list)) = shape.iter().find(|(known, ..)| known == name) else {
                if self.unknown_fields == UnknownFields::Reject {
                    self.found(ErrorCode::UnknownField, holder);
                }
                continue;
            };
            match (value, is_list) {
                (Node::Array(accounts), true) => self.accounts(accounts),
                (Node::String(_), false) => {}
                _ => self.found(ErrorCode::InvalidType, field_path(name)),
            }
        }
    }

    fn accounts(&mut self, accounts: &[Node]) {
        for (index, account) in (0..).zip(accounts) {
            match account {
                Node::Object(fields) => {
                    self.object(fields, &ACCOUNT, Path::Account(index), &|field| Path::AccountField(index, field));
                }
                _ => self.found(ErrorCode::InvalidType, Path::Account(index)),
            }
        }
    }
}

/// The fields of a command in which [`first_fault`] found none.
pub fn fields_of(fields: &[(String, Node)]) -> Option<RawCommand<'_>> {
    let accounts = match fields.iter().find(|(name, _)| name == "accounts") {
        Some((_, Node::Array(accounts))) => accounts.iter().map(account).collect::<Option<_>>()?,
        Some(_) => return None,
        None => smallvec::SmallVec::new(),
    };
    Some(RawCommand { request_id: once(fields, "request_id")?, card_id: once(fields, "card_id")?, accounts })
}

fn account(node: &Node) -> Option<RawAccount<'_>> {
    let Node::Object(fields) = node else { return None };
    Some(RawAccount { iban: once(fields, "iban")?, currency: once(fields, "currency")?, kind: once(fields, "type")? })
}
