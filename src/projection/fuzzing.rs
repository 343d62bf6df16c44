//! The door for the fuzz targets in `fuzz/`: blocks made as a round makes them. Not part of any other build.
//!
//! Reading needs no door: the targets open a [`super::Projection`] on a store of their own.

use super::block::{self, BlockId, Kind};
use super::cards::Cards;
use super::meta::Meta;
use super::requests::Requests;
use super::{LogIdentity, Positions};
use crate::domain::{CardId, Remembered, RequestId, StoredAccount};

/// The places of a small checkpoint, in the order of [`checkpoint`]: meta record, cards, requests.
const PLACES: [BlockId; 3] = [
    BlockId::META,
    BlockId { kind: Kind::Cards, generation: 0, number: 0 },
    BlockId { kind: Kind::Requests, generation: 0, number: 0 },
];

/// The log's end that each block notes.
const LOG_END: i64 = 7;

/// Key and sealed block.
pub type Stored = ([u8; 9], Vec<u8>);

/// A body under a right checksum, for the place with this number.
pub fn sealed(place: usize, body: &[u8]) -> Stored {
    let id = PLACES[place % PLACES.len()];
    let mut out = Vec::new();
    block::begin(id, LOG_END, &mut out);
    out.extend_from_slice(body);
    block::seal(&mut out);
    (id.key(), out)
}

/// Whether a block's checksum is right, whatever it holds. Guided by comparisons, the fuzzer has found one that is.
pub fn is_sealed(stored: &[u8]) -> bool {
    let mut again = stored.to_vec();
    if again.len() >= block::HEADER {
        block::seal(&mut again);
    }
    stored.len() >= block::HEADER && again == stored
}

/// The whole checkpoint of these cards and, fewer than a block holds, requests.
pub fn checkpoint(
    identity: &LogIdentity,
    cards: &[(CardId, Vec<StoredAccount>)],
    first: &[(RequestId, Remembered)],
) -> [Stored; 3] {
    let (mut table, mut requests) = (Cards::new(0), Requests::new(i64::MAX, 0));
    cards.iter().for_each(|(id, accounts)| table.put(id, accounts));
    first.iter().for_each(|(id, remembered)| requests.append(id, *remembered, LOG_END));
    let mut body = Vec::new();
    table.write_bucket(0, 0, &mut body);
    let meta = Meta {
        identity: identity.clone(),
        positions: Positions { cards: LOG_END, completions: LOG_END },
        generation: 0,
        bits: 0,
        requests: requests.mark(),
        decided_ms: 0,
    };
    let mut block = Vec::new();
    requests.write_block(PLACES[2], &mut block);
    [(PLACES[0].key(), meta.block()), sealed(1, &body), (PLACES[2].key(), block)]
}
