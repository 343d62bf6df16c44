//! The decoder of card records: never a panic, and what it reads is read again from what is written of it, and survives the
//! packed form that memory and blocks hold it in.
//!
//! An input is the key, a line feed, and the value; without a line feed a tombstone.

#![no_main]

use card_update_worker::domain::{CardId, StoredAccount};
use card_update_worker::projection::{BlockCache, LogIdentity, NoStore, Projection, Tree};
use card_update_worker::wire::{decode_card, encode_card};
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (key, value) = (parts.next(), parts.next());
    let mut accounts = Vec::new();
    let Ok(card_id) = decode_card(key, value, &mut accounts) else { return };
    let (mut written, mut again) = (Vec::new(), Vec::new());
    encode_card(&card_id, &accounts, &mut written);
    assert_eq!(decode_card(key, Some(&written), &mut again), Ok(card_id));
    assert_eq!(again, accounts);
    assert_eq!(folded(&card_id, &accounts), accounts);
});

/// What the projection gives back of a card.
fn folded(card_id: &CardId, accounts: &[StoredAccount]) -> Vec<StoredAccount> {
    let tree = Tree::new(0, Arc::new(NoStore(String::new())), Arc::new(BlockCache::default()));
    let mut projection = Projection::empty(tree, LogIdentity::default(), i64::MAX);
    projection.fold_card(card_id, accounts, 1);
    let mut found = Vec::new();
    assert_eq!(projection.card(card_id, &mut found), !accounts.is_empty());
    found
}
