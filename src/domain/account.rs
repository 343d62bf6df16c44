//! An account as a command names it: type, currency and number, validated and normalised.

use super::{Currency, IbanReader};
use std::fmt;

/// Longest account number: an IBAN has at most 34 characters (ISO 13616), and other types share the limit.
pub const MAX_NUMBER: usize = 34;
/// Longest account type that configuration may allow.
pub const MAX_ACCOUNT_TYPE: usize = 31;

/// A short ASCII text held in place, so that accounts are copied without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Text<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    fn new(text: &[u8]) -> Option<Self> {
        // Without a branch a byte, so that many are looked at at a time.
        let unprintable = text.iter().fold(0, |bad, b| bad | u8::from(!matches!(b, 0x20..=0x7e)));
        if text.is_empty() || text.len() > N || unprintable != 0 {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        Some(Self { len: text.len() as u8, bytes })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// The type of an account (`IBAN`, or another that configuration allows): 1 to [`MAX_ACCOUNT_TYPE`] printable ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccountType(Text<MAX_ACCOUNT_TYPE>);

impl AccountType {
    /// Reads a type; `None` when it is empty, too long or not printable ASCII.
    pub fn new(text: &[u8]) -> Option<Self> {
        Text::new(text).map(Self)
    }
    /// The type's characters.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
    /// Whether numbers of this type are checked and normalised as IBANs.
    pub fn is_iban(&self) -> bool {
        self.as_bytes() == b"IBAN"
    }
}

impl fmt::Debug for AccountType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// An account number in its normal form. `Debug` prints no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccountNumber(Text<MAX_NUMBER>);

impl AccountNumber {
    /// Validates and normalises what a command gave for an account of type `kind`.
    ///
    /// An IBAN loses its spaces (U+0020 only) and becomes upper case; structure and check digits must be right.
    pub fn parse(kind: &AccountType, text: &str, ibans: &mut IbanReader) -> Option<Self> {
        if kind.is_iban() { ibans.read(text, Self::stored) } else { Self::stored(text.as_bytes()) }
    }

    /// Reads a number that was normalised before, as a card record carries it.
    pub fn stored(text: &[u8]) -> Option<Self> {
        Text::new(text).map(Self)
    }
    /// The number's characters.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for AccountNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} characters)", self.0.len)
    }
}

/// One account of a command. `(kind, currency)` is its place on a card: at most one account stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// The account's type.
    pub kind: AccountType,
    /// The account's currency.
    pub currency: Currency,
    /// The account's number, normalised.
    pub number: AccountNumber,
}

impl Account {
    /// The number as it may be shown: of an IBAN country and check digits and the last four, of others the last four; of one below
    /// nine characters nothing.
    pub fn masked_number(&self) -> String {
        let shown = String::from_utf8_lossy(self.number.as_bytes());
        let len = shown.len();
        match (self.kind.is_iban(), len) {
            (_, 0..=8) => "*".repeat(len),
            (true, _) => format!("{}************{}", &shown[..4], &shown[len - 4..]),
            (false, _) => format!("{}{}", "*".repeat(len - 4), &shown[len - 4..]),
        }
    }
    /// Whether both take the same place on a card.
    pub fn same_place(&self, other: &Self) -> bool {
        self.currency == other.currency && self.kind == other.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> AccountType {
        AccountType::new(text.as_bytes()).unwrap()
    }

    fn parse(kind: &AccountType, text: &str) -> Option<AccountNumber> {
        AccountNumber::parse(kind, text, &mut IbanReader::default())
    }

    #[test]
    fn an_iban_is_checked_and_normalised() {
        let normal = parse(&kind("IBAN"), "ES7921000813610123456789").unwrap();
        for same in ["es79 2100 0813 6101 2345 6789", "ES7921000813610123456789 ", "eS7921000813610123456789"] {
            assert_eq!(parse(&kind("IBAN"), same), Some(normal), "{same}");
        }
        for wrong in [
            "",
            " ",
            "ES7921000813610123456788",
            "ES792100081361012345678",
            "ZZ7921000813610123456789",
            "ES79\u{a0}2100 0813 6101 2345 6789",
            "ES79\t21000813610123456789",
            "ES79-2100-0813-6101-2345-6789",
            "ES7921000813610123456789000000000000000",
            "ЕS7921000813610123456789",
            "ES792100081361012345678\0",
        ] {
            assert_eq!(parse(&kind("IBAN"), wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn another_type_takes_1_to_34_printable_characters_as_they_are() {
        let card = kind("CARD");
        assert_eq!(parse(&card, "a b~").unwrap().as_bytes(), b"a b~");
        assert!(parse(&card, &"x".repeat(34)).is_some());
        for wrong in ["", "\u{7f}", "\n", "é"] {
            assert_eq!(parse(&card, wrong), None, "{wrong:?}");
        }
        assert_eq!(parse(&card, &"x".repeat(35)), None);
    }

    #[test]
    fn inv_10_a_masked_number_shows_four_characters_at_most_but_for_an_ibans_country() {
        let account = |k: &str, number: &str| Account {
            kind: kind(k),
            currency: Currency::parse("USD").unwrap(),
            number: parse(&kind(k), number).unwrap(),
        };
        for (k, number, masked) in [
            ("IBAN", "ES7921000813610123456789", "ES79************6789"),
            ("CARD", "12345678", "********"),
            ("CARD", "1", "*"),
            ("CARD", "123456789", "*****6789"),
        ] {
            assert_eq!(account(k, number).masked_number(), masked);
        }
    }

    #[test]
    fn inv_10_debug_of_an_account_shows_no_number() {
        let number = parse(&kind("IBAN"), "ES7921000813610123456789").unwrap();
        let account = Account { kind: kind("IBAN"), currency: Currency::parse("USD").unwrap(), number };
        assert!(!format!("{account:?}").contains("2100"));
    }
}
