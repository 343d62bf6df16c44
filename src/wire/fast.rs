//! The quick reading of a command: borrowed strings, exactly the contract's fields, each once, each of its type.
//!
//! It says yes or no, never why: whatever it refuses is read again by [`super::tree`], which finds the fault (or finds none,
//! where a string merely has escapes). It must accept nothing that the careful reading refuses.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;
use std::fmt;

/// An account's fields as they stand in the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAccount<'a> {
    pub iban: &'a str,
    pub currency: &'a str,
    pub kind: &'a str,
}

/// A command's fields as they stand in the record.
#[derive(Debug, PartialEq, Eq)]
pub struct RawCommand<'a> {
    pub request_id: &'a str,
    pub card_id: &'a str,
    pub accounts: SmallVec<[RawAccount<'a>; 4]>,
}

/// Reads a command of the usual shape; `None` for anything else.
pub fn read(value: &[u8]) -> Option<RawCommand<'_>> {
    serde_json::from_slice(value).ok()
}

/// A field's name, matched without an allocation.
struct Slot(usize);

/// The names that an object may have, in the order of its slots.
#[derive(Clone, Copy)]
struct Names([&'static str; 3]);

const COMMAND: Names = Names(["request_id", "card_id", "accounts"]);
const ACCOUNT: Names = Names(["iban", "currency", "type"]);

impl Visitor<'_> for Names {
    type Value = Slot;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field of the contract")
    }
    fn visit_str<E: Error>(self, name: &str) -> Result<Slot, E> {
        self.0.iter().position(|n| *n == name).map(Slot).ok_or_else(|| E::custom("unknown"))
    }
}

impl<'de> DeserializeSeed<'de> for Names {
    type Value = Slot;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Slot, D::Error> {
        d.deserialize_identifier(self)
    }
}

/// Fills an empty slot; a field that stands twice is refused.
fn fill<'de, A: MapAccess<'de>, T: Deserialize<'de>>(slot: &mut Option<T>, map: &mut A) -> Result<(), A::Error> {
    match slot.replace(map.next_value()?) {
        None => Ok(()),
        Some(_) => Err(A::Error::custom("twice")),
    }
}

struct CommandVisitor;

impl<'de> Visitor<'de> for CommandVisitor {
    type Value = RawCommand<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawCommand<'de>, A::Error> {
        let (mut request_id, mut card_id, mut accounts) = (None, None, None);
        while let Some(Slot(slot)) = map.next_key_seed(COMMAND)? {
            match slot {
                0 => fill(&mut request_id, &mut map)?,
                1 => fill(&mut card_id, &mut map)?,
                _ => fill(&mut accounts, &mut map)?,
            }
        }
        let (Some(request_id), Some(card_id)) = (request_id, card_id) else { return Err(A::Error::custom("missing")) };
        Ok(RawCommand { request_id, card_id, accounts: accounts.unwrap_or(RawAccounts(SmallVec::new())).0 })
    }
}

impl<'de> Deserialize<'de> for RawCommand<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // deserialize_map, not deserialize_struct: a struct could also be read from an array.
        d.deserialize_map(CommandVisitor)
    }
}

struct RawAccounts<'a>(SmallVec<[RawAccount<'a>; 4]>);

struct AccountsVisitor;

impl<'de> Visitor<'de> for AccountsVisitor {
    type Value = RawAccounts<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("accounts")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawAccounts<'de>, A::Error> {
        let mut accounts = SmallVec::new();
        while let Some(account) = seq.next_element()? {
            accounts.push(account);
        }
        Ok(RawAccounts(accounts))
    }
}

impl<'de> Deserialize<'de> for RawAccounts<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(AccountsVisitor)
    }
}

struct AccountVisitor;

impl<'de> Visitor<'de> for AccountVisitor {
    type Value = RawAccount<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an account")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawAccount<'de>, A::Error> {
        let mut slots: [Option<&'de str>; 3] = [None; 3];
        while let Some(Slot(slot)) = map.next_key_seed(ACCOUNT)? {
            fill(&mut slots[slot], &mut map)?;
        }
        match slots {
            [Some(iban), Some(currency), Some(kind)] => Ok(RawAccount { iban, currency, kind }),
            _ => Err(A::Error::custom("missing")),
        }
    }
}

impl<'de> Deserialize<'de> for RawAccount<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(AccountVisitor)
    }
}
