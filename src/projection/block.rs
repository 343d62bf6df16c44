//! The frame of whatever lies in sled: kind, identity and a checksum, verified at every read.
//!
//! Shape: checksum (8, XXH3-64 of all that follows), format (1), kind (1), generation (4), number (4), the end of the log
//! known when it was written (8), body. All little-endian. A block that was cut, flipped or put under another key is
//! never decoded.

use super::packed::Reader;
use xxhash_rust::xxh3::xxh3_64;

/// The format of blocks, meta records and packed cards, and the number of requests in a full block. Another one is discarded and
/// restored.
pub const FORMAT: u8 = 3;
/// Size of the frame before the body.
pub const HEADER: usize = 8 + 1 + 1 + 4 + 4 + 8;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Meta = 0,
    Cards = 1,
    Requests = 2,
}

/// What a block is: part of its key and of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId {
    pub kind: Kind,
    pub generation: u32,
    pub number: u32,
}

impl BlockId {
    /// The one record that says what the others are.
    pub const META: Self = Self { kind: Kind::Meta, generation: 0, number: 0 };

    /// The key; blocks of a kind and generation are adjacent and in order.
    pub fn key(&self) -> [u8; 9] {
        let mut key = [self.kind as u8; 9];
        key[1..5].copy_from_slice(&self.generation.to_be_bytes());
        key[5..].copy_from_slice(&self.number.to_be_bytes());
        key
    }
}

/// Starts a block in `out`, which is overwritten; the body is appended, then [`seal`] is called.
pub fn begin(id: BlockId, log_end: i64, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[FORMAT, id.kind as u8]);
    out.extend_from_slice(&id.generation.to_le_bytes());
    out.extend_from_slice(&id.number.to_le_bytes());
    out.extend_from_slice(&log_end.to_le_bytes());
}

/// Ends a block: its checksum.
pub fn seal(out: &mut [u8]) {
    let checksum = xxh3_64(&out[8..]);
    out[..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Verifies a block; gives the log's end that it notes, and its body.
pub fn open(id: BlockId, block: &[u8]) -> Option<(i64, &[u8])> {
    if block.len() < HEADER {
        return None;
    }
    let mut reader = Reader(block);
    let checksum = u64::from_le_bytes(reader.array()?);
    if xxh3_64(reader.0) != checksum || reader.array()? != [FORMAT, id.kind as u8] {
        return None;
    }
    let found = (u32::from_le_bytes(reader.array()?), u32::from_le_bytes(reader.array()?));
    let log_end = i64::from_le_bytes(reader.array()?);
    (found == (id.generation, id.number)).then_some((log_end, reader.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_was_cut_flipped_or_moved_is_refused() {
        let id = BlockId { kind: Kind::Cards, generation: 3, number: 9 };
        let mut block = Vec::new();
        begin(id, 77, &mut block);
        block.extend_from_slice(b"body");
        seal(&mut block);
        assert_eq!(open(id, &block), Some((77, &b"body"[..])));
        for len in 0..block.len() {
            assert_eq!(open(id, &block[..len]), None);
        }
        for bit in 0..block.len() * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(id, &flipped), None, "bit {bit}");
        }
        assert_eq!(open(BlockId { number: 8, ..id }, &block), None);
        assert_eq!(open(BlockId { kind: Kind::Requests, ..id }, &block), None);
    }
}
