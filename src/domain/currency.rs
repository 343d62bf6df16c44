//! ISO 4217 alphabetic codes, as the list stands today.
//!
//! `iso_currency` keeps codes that were withdrawn; the table below says which of them are not accepted.

use iso_currency::{Currency as Iso, IntoEnumIterator};
use std::fmt;
use std::sync::LazyLock;

/// Codes that `iso_currency` 0.7 knows and that are not accepted, with the day on which they left the list
/// (ISO 4217 amendments; list one as published on 2026-01-01), or why they never name money.
const NOT_ACCEPTED: [(&str, &str); 10] = [
    ("ANG", "2025-03-31, replaced by XCG"),
    ("BGN", "2026-01-01, replaced by EUR"),
    ("CUC", "2021-01-01, replaced by CUP"),
    ("HRK", "2023-01-01, replaced by EUR"),
    ("SLL", "2024-04-01, replaced by SLE"),
    ("XFO", "2006-10-01, gold franc"),
    ("XFU", "2013-11-01, UIC franc"),
    ("XTS", "reserved for testing"),
    ("XXX", "no currency"),
    ("ZWL", "2024-09-01, replaced by ZWG"),
];

/// Five bits a letter: one bit of the table says whether the code is accepted.
const CODES: usize = 1 << 15;

static ACCEPTED: LazyLock<[u64; CODES / 64]> = LazyLock::new(|| {
    let mut table = [0; CODES / 64];
    let withdrawn = |code: &str| NOT_ACCEPTED.iter().any(|(gone, _)| *gone == code);
    for code in Iso::iter().map(|c| c.code()).filter(|c| !withdrawn(c)) {
        if let Some(packed) = pack(code.as_bytes()) {
            table[packed as usize / 64] |= 1 << (packed % 64);
        }
    }
    table
});

/// A currency, packed: five bits a letter.
///
/// A stored card may carry a code that was withdrawn since; [`Currency::stored`] reads it, [`Currency::parse`] does not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(u16);

impl Currency {
    /// Reads an upper-case alphabetic code that is on the list today.
    pub fn parse(code: &str) -> Option<Self> {
        let packed = pack(code.as_bytes())?;
        let on_the_list = ACCEPTED[packed as usize / 64] >> (packed % 64) & 1 == 1;
        on_the_list.then_some(Self(packed))
    }

    /// Reads any three upper-case letters, as a card record may carry them.
    pub fn stored(code: &str) -> Option<Self> {
        pack(code.as_bytes()).map(Self)
    }

    /// The number that [`Currency::from_packed`] takes.
    pub const fn packed(self) -> u16 {
        self.0
    }

    /// The currency from its packed form; `None` when no three letters pack to it.
    pub fn from_packed(packed: u16) -> Option<Self> {
        let currency = Self(packed);
        (pack(&currency.code()) == Some(packed)).then_some(currency)
    }

    /// The three letters.
    pub const fn code(self) -> [u8; 3] {
        const fn letter(bits: u16) -> u8 {
            b'A' + (bits & 31) as u8
        }
        [letter(self.0 >> 10), letter(self.0 >> 5), letter(self.0)]
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.code()))
    }
}

fn pack(code: &[u8]) -> Option<u16> {
    let &[a, b, c] = code else { return None };
    let letters = [a, b, c];
    if !letters.iter().all(u8::is_ascii_uppercase) {
        return None;
    }
    Some(letters.iter().fold(0, |packed, l| packed << 5 | u16::from(l - b'A')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_todays() {
        for code in ["USD", "EUR", "SLE", "VED", "XCG", "ZWG", "XAU", "CHE", "XAD"] {
            assert!(Currency::parse(code).is_some(), "{code}");
        }
        for (code, _) in NOT_ACCEPTED {
            assert_eq!(Currency::parse(code), None, "{code}");
        }
        for code in ["", "US", "usd", "USDX", "ZZZ", "U\0D", "Ü1"] {
            assert_eq!(Currency::parse(code), None, "{code}");
        }
    }

    #[test]
    fn every_accepted_code_survives_packing() {
        for code in Iso::iter().map(|c| c.code()) {
            let stored = Currency::stored(code).unwrap();
            assert_eq!(stored.code(), code.as_bytes());
            assert_eq!(Currency::from_packed(stored.packed()), Some(stored));
        }
        assert_eq!(Currency::from_packed(u16::MAX), None);
    }
}
