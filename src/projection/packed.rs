//! A card as one small slice of bytes: how it lies in memory and in the blocks on disk.
//!
//! Shape: card id (16), number of accounts, then each account: type (0 for `IBAN`, else its length and characters),
//! currency (2), number (length, characters), request id (16), `updated_at` and `source_offset` + 1. Integers without a
//! stated width are LEB128.

use crate::domain::{Account, AccountNumber, AccountType, CardId, Currency, RequestId, StoredAccount};

const IBAN: &[u8] = b"IBAN";

/// Packs a card into `out`, which is overwritten.
pub fn pack(card_id: &CardId, accounts: &[StoredAccount], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(card_id.as_bytes());
    push_varint(out, accounts.len() as u64);
    for stored in accounts {
        let kind = stored.account.kind.as_bytes();
        if kind == IBAN {
            out.push(0);
        } else {
            push_text(out, kind);
        }
        out.extend_from_slice(&stored.account.currency.packed().to_le_bytes());
        push_text(out, stored.account.number.as_bytes());
        out.extend_from_slice(stored.request_id.as_bytes());
        push_varint(out, stored.updated_at_ms as u64);
        push_varint(out, stored.source_offset.map_or(0, |o| o as u64 + 1));
    }
}

/// Unpacks a card's accounts into `out`, which is overwritten; `None` when the bytes are no packed card.
pub fn unpack(packed: &[u8], out: &mut Vec<StoredAccount>) -> Option<CardId> {
    out.clear();
    let mut reader = Reader(packed);
    let card_id = CardId::from_bytes(reader.array()?);
    let count = reader.varint()?;
    for _ in 0..count {
        out.push(account(&mut reader)?);
    }
    reader.0.is_empty().then_some(card_id)
}

/// The number of accounts of a packed card.
pub fn accounts(packed: &[u8]) -> u64 {
    packed.get(16..).and_then(|rest| Reader(rest).varint()).unwrap_or(0)
}

fn account(reader: &mut Reader<'_>) -> Option<StoredAccount> {
    let kind = match reader.text()? {
        [] => AccountType::new(IBAN)?,
        other => AccountType::new(other)?,
    };
    let currency = Currency::from_packed(u16::from_le_bytes(reader.array()?))?;
    let number = AccountNumber::stored(reader.text()?)?;
    let request_id = RequestId::from_bytes(reader.array()?);
    let updated_at_ms = reader.varint()? as i64;
    let source_offset = reader.varint()?.checked_sub(1).map(|o| o as i64);
    Some(StoredAccount { account: Account { kind, currency, number }, request_id, updated_at_ms, source_offset })
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// Appends an unsigned LEB128.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads from the front of a slice; every read says `None` at the end.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    fn text(&mut self) -> Option<&'a [u8]> {
        let [len] = self.array()?;
        self.take(len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(kind: &str, number: &str, updated_at_ms: i64, source_offset: Option<i64>) -> StoredAccount {
        StoredAccount {
            account: Account {
                kind: AccountType::new(kind.as_bytes()).unwrap(),
                currency: Currency::stored("USD").unwrap(),
                number: AccountNumber::stored(number.as_bytes()).unwrap(),
            },
            request_id: RequestId::from_bytes([7; 16]),
            updated_at_ms,
            source_offset,
        }
    }

    #[test]
    fn a_card_survives_packing() {
        let card = CardId::from_bytes([9; 16]);
        let accounts = vec![
            stored("IBAN", "ES7921000813610123456789", 1_735_689_661_000, Some(123_456)),
            stored("CARD", "x", 0, None),
            stored("CARD", "y", -1, Some(0)),
            stored("CARD", "z", i64::MAX, Some(i64::MAX)),
        ];
        let (mut packed, mut out) = (Vec::new(), Vec::new());
        pack(&card, &accounts, &mut packed);
        assert_eq!(unpack(&packed, &mut out), Some(card));
        assert_eq!(out, accounts);
        assert_eq!(super::accounts(&packed), 4);
        for cut in 0..packed.len() {
            assert_eq!(unpack(&packed[..cut], &mut out), None, "cut at {cut}");
        }
    }

    #[test]
    fn two_accounts_take_at_most_128_bytes() {
        let account = stored("IBAN", "ES7921000813610123456789", 1_735_689_661_000, Some(1_000_000));
        let mut packed = Vec::new();
        pack(&CardId::from_bytes([9; 16]), &[account, account], &mut packed);
        assert!(packed.len() <= 128, "{}", packed.len());
    }
}
