//! A command record made from an input: its first byte chooses the configuration and the key, the rest is the value.
//!
//! So a seed is a readable command behind one character: `0` is the default configuration with the right key. Behind a
//! letter (`p` for the same) the rest are choices that [`grammar`] makes a command of.

use crate::grammar;
use arbitrary::Unstructured;
use card_update_worker::domain::AccountType;
use card_update_worker::wire::{DecodeRules, KeyPolicy, UnknownFields};
use std::borrow::Cow;

/// The types that the targets allow: the one with rules of its own, and another.
pub const TYPES: [&str; 2] = ["IBAN", "CARD"];
/// Small, so that inputs reach it.
pub const MAX_ACCOUNTS: usize = 3;
/// Below the longest input of a run, so that it is exceeded too.
pub const MAX_PAYLOAD: usize = 2 * 1024;

/// A record and what it is decoded by.
pub struct Record<'a> {
    pub trust: bool,
    pub ignore_unknown: bool,
    pub key: Option<Vec<u8>>,
    pub value: Cow<'a, [u8]>,
}

impl<'a> Record<'a> {
    pub fn read(input: &'a [u8]) -> Option<Self> {
        let (options, rest) = input.split_first()?;
        let value = match options & 0x40 {
            0 => Cow::Borrowed(rest),
            _ => Cow::Owned(grammar::command(&mut Unstructured::new(rest)).ok()?.into_bytes()),
        };
        let key = match options >> 2 & 3 {
            0 => named_card(&value).map(|id| id.to_lowercase().into_bytes()),
            1 => None,
            2 => named_card(&value).map(String::into_bytes),
            _ => Some(value[..value.len().min(36)].to_vec()),
        };
        Some(Self { trust: options & 1 == 1, ignore_unknown: options & 2 == 2, key, value })
    }

    pub fn rules(&self) -> DecodeRules {
        DecodeRules {
            key_policy: if self.trust { KeyPolicy::Trust } else { KeyPolicy::Strict },
            account_types: TYPES.iter().filter_map(|name| AccountType::new(name.as_bytes())).collect(),
            unknown_fields: if self.ignore_unknown { UnknownFields::Ignore } else { UnknownFields::Reject },
            max_accounts: MAX_ACCOUNTS,
            max_payload: MAX_PAYLOAD,
        }
    }
}

/// The card that the value names, if it names one: else every record would be refused for its key.
fn named_card(value: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    value.get("card_id")?.as_str().map(str::to_owned)
}
