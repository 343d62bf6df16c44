//! The 128-bit fingerprint of a command's meaning: equal for two commands that ask for the same, however they are written.

use super::{Account, CardId};
use std::fmt;
use xxhash_rust::xxh3::xxh3_128;

/// What stands before the hex digits in the header: the version of the recipe.
const VERSION: &str = "1-";
const UNIT_SEPARATOR: u8 = 0x1f;
const RECORD_SEPARATOR: u8 = 0x1e;

/// XXH3-128 over the card id's 16 bytes and, for each account in order, type, `0x1f`, currency, `0x1f`, number, `0x1e`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// Length of the header's text.
    pub const TEXT: usize = VERSION.len() + 32;

    /// Hashes what the command means; `scratch` is overwritten.
    pub fn of(card_id: &CardId, accounts: &[Account], scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        scratch.extend_from_slice(card_id.as_bytes());
        for account in accounts {
            scratch.extend_from_slice(account.kind.as_bytes());
            scratch.push(UNIT_SEPARATOR);
            scratch.extend_from_slice(&account.currency.code());
            scratch.push(UNIT_SEPARATOR);
            scratch.extend_from_slice(account.number.as_bytes());
            scratch.push(RECORD_SEPARATOR);
        }
        Self(xxh3_128(scratch))
    }

    /// The header's text: `1-` and 32 lower-case hex digits.
    pub fn text(self) -> [u8; Self::TEXT] {
        let mut text = [0; Self::TEXT];
        text[..VERSION.len()].copy_from_slice(VERSION.as_bytes());
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
        for (pair, byte) in text[VERSION.len()..].chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
        }
        text
    }

    /// Reads the header's text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(VERSION.as_bytes()).filter(|d| d.len() == 32)?;
        digits
            .iter()
            .try_fold(0u128, |value, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(value << 4 | u128::from(digit))
            })
            .map(Self)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountNumber, AccountType, Currency, IbanReader};

    #[test]
    fn the_recipe_is_the_contracts() {
        let card = CardId::parse("019ab688-bef2-72c4-6a29-d0e08be76d95").unwrap();
        let kind = AccountType::new(b"IBAN").unwrap();
        let account = Account {
            kind,
            currency: Currency::parse("USD").unwrap(),
            number: AccountNumber::parse(&kind, "ES7921000813610123456789", &mut IbanReader::default()).unwrap(),
        };
        let mut bytes = card.as_bytes().to_vec();
        bytes.extend_from_slice(b"IBAN\x1fUSD\x1fES7921000813610123456789\x1e");
        let fingerprint = Fingerprint::of(&card, &[account], &mut Vec::new());
        assert_eq!(fingerprint.0, xxh3_128(&bytes));
        assert_eq!(Fingerprint::parse(&fingerprint.text()), Some(fingerprint));
        assert_eq!(fingerprint.text().len(), 34);
    }

    #[test]
    fn only_the_exact_text_is_read() {
        for wrong in ["", "1-", "2-00000000000000000000000000000000", "1-0000000000000000000000000000000G"] {
            assert_eq!(Fingerprint::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
