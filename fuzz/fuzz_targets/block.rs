//! The blocks that lie in sled, through the door that a start takes: opening a projection on a store.
//!
//! Bytes under a right checksum may hold anything and never panic; bytes without one are refused; and a checkpoint of which
//! one bit was flipped, or a block cut, is refused as well, never read as other cards or requests.
//!
//! An input is one byte for the block it is about, two for the place of the damage, and the bytes.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use card_update_worker::domain::{
    Account, AccountNumber, AccountType, CardId, Currency, Dt, Fingerprint, Remembered, RequestId, StoredAccount,
    UtcOffset,
};
use card_update_worker::projection::fuzzing::{self, Stored};
use card_update_worker::projection::{BlockCache, LogIdentity, Projection, Store, StoreError, Tree};
use std::collections::BTreeMap;
use std::sync::Arc;

type Cards = BTreeMap<CardId, Vec<StoredAccount>>;
type Requests = BTreeMap<RequestId, Remembered>;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, place_high, place_low, bytes @ ..] = input else { return };
    let (which, place) = (usize::from(*which) % 3, usize::from(u16::from_be_bytes([*place_high, *place_low])));
    let Ok((cards, requests)) = content(&mut Unstructured::new(bytes)) else { return };
    let good = checkpoint(&cards, &requests);
    assert_eq!(opened(&good), Some((cards, requests)));
    let refused = |block: Vec<u8>| opened(&with(&good, which, block)).is_none();
    assert!(refused(flipped(&good[which].1, place)));
    assert!(refused(cut(&good[which].1, place)));
    assert!(refused(bytes.to_vec()) || fuzzing::is_sealed(bytes));
    let _ = opened(&with(&good, which, fuzzing::sealed(which, bytes).1));
});

fn flipped(block: &[u8], place: usize) -> Vec<u8> {
    let mut block = block.to_vec();
    let bit = place % (block.len() * 8);
    block[bit / 8] ^= 1 << (bit % 8);
    block
}

fn cut(block: &[u8], place: usize) -> Vec<u8> {
    block[..place % block.len()].to_vec()
}

fn with(blocks: &[Stored; 3], which: usize, block: Vec<u8>) -> [Stored; 3] {
    let mut blocks = blocks.clone();
    blocks[which].1 = block;
    blocks
}

fn checkpoint(cards: &Cards, requests: &Requests) -> [Stored; 3] {
    let cards: Vec<_> = cards.iter().map(|(id, accounts)| (*id, accounts.clone())).collect();
    let requests: Vec<_> = requests.iter().map(|(id, remembered)| (*id, *remembered)).collect();
    fuzzing::checkpoint(&LogIdentity::default(), &cards, &requests)
}

/// Everything that a start reads of these blocks; `None` when it refuses them.
fn opened(blocks: &[Stored; 3]) -> Option<(Cards, Requests)> {
    let store = Arc::new(Blocks(blocks.clone()));
    let tree = Tree::new(0, store, Arc::new(BlockCache::default()));
    let projection = Projection::open(tree, LogIdentity::default(), i64::MAX).ok()?.projection;
    let (mut cards, mut requests) = (Cards::new(), Requests::new());
    projection.for_each_card(|id, accounts| _ = cards.insert(*id, accounts.to_vec()));
    projection.for_each_request(0, |id, remembered| _ = requests.insert(*id, remembered)).ok()?;
    for id in requests.keys() {
        assert!(projection.request(id, 0).is_ok_and(|found| found.is_some()));
    }
    projection.stats();
    Some((cards, requests))
}

/// A store that holds three blocks.
struct Blocks([Stored; 3]);

impl Store for Blocks {
    fn get(&self, _: i32, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.iter().find(|(stored, _)| stored == key).map(|(_, block)| block.clone()))
    }
    fn put(&self, _: i32, _: &[u8], _: &[u8]) -> std::result::Result<(), StoreError> {
        Ok(())
    }
    fn remove(&self, _: i32, _: &[u8]) -> std::result::Result<(), StoreError> {
        Ok(())
    }
    fn drop_partition(&self, _: i32) -> std::result::Result<(), StoreError> {
        Ok(())
    }
    fn partitions(&self) -> Vec<i32> {
        vec![0]
    }
    fn flush(&self) -> std::result::Result<(), StoreError> {
        Ok(())
    }
}

fn content(input: &mut Unstructured<'_>) -> Result<(Cards, Requests)> {
    let (mut cards, mut requests) = (Cards::new(), Requests::new());
    for _ in 0..input.int_in_range(0..=3)? {
        let count = input.int_in_range(1..=4)?;
        let accounts = (0..count).map(|_| account(input)).collect::<Result<_>>()?;
        cards.insert(CardId::from_bytes(input.arbitrary()?), accounts);
    }
    // A store without requests has no block of them, which this target damages.
    for _ in 0..input.int_in_range(1..=5)? {
        requests.insert(RequestId::from_bytes(input.arbitrary()?), remembered(input)?);
    }
    Ok((cards, requests))
}

fn account(input: &mut Unstructured<'_>) -> Result<StoredAccount> {
    let kind = if input.arbitrary()? { "IBAN".to_owned() } else { text(input, 31)? };
    let letters: String = (0..3).map(|_| input.int_in_range(b'A'..=b'Z').map(char::from)).collect::<Result<_>>()?;
    Ok(StoredAccount {
        account: Account {
            kind: AccountType::new(kind.as_bytes()).expect("it is printable and short"),
            currency: Currency::stored(&letters).expect("they are three letters"),
            number: AccountNumber::stored(text(input, 34)?.as_bytes()).expect("it is printable and short"),
        },
        request_id: RequestId::from_bytes(input.arbitrary()?),
        updated_at_ms: input.arbitrary()?,
        source_offset: Option::<u32>::arbitrary(input)?.map(i64::from),
    })
}

/// 1 to `most` printable characters.
fn text(input: &mut Unstructured<'_>, most: usize) -> Result<String> {
    let len = input.int_in_range(1..=most)?;
    (0..len).map(|_| input.int_in_range(b' '..=b'~').map(char::from)).collect()
}

fn remembered(input: &mut Unstructured<'_>) -> Result<Remembered> {
    let offset = UtcOffset::from_minutes(input.int_in_range(-1439..=1439)?).expect("it is less than a day");
    let dt = Dt { at_ms: input.int_in_range(0..=i64::MAX)?, offset };
    Ok(Remembered { fingerprint: Fingerprint(input.arbitrary()?), dt })
}
