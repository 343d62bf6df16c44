//! The quick reading of a command: borrowed strings, exactly the contract's fields, each once, each of its type.
//!
//! It says yes or no, never why: whatever it refuses is read again by [`super::tree`], which finds the fault (or finds none,
//! where a string merely has escapes). It must accept nothing that the careful reading refuses.
//!
//! Written by hand: a general parser took 4,800 instructions for a command of two accounts where this takes a quarter of
//! that (callgrind). A fuzz target holds both readings against each other.

use super::bytes;
use smallvec::SmallVec;

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
    pub accounts: Accounts<'a>,
}

type Accounts<'a> = SmallVec<[RawAccount<'a>; 4]>;

/// Reads a command of the usual shape; `None` for anything else.
pub fn read(value: &[u8]) -> Option<RawCommand<'_>> {
    let mut scan = Scan { text: std::str::from_utf8(value).ok()?, at: 0, plain: bytes::are_plain(value) };
    let command = scan.command()?;
    scan.space();
    (scan.at == value.len()).then_some(command)
}

/// Reads from the front of a text; every step says no at what it does not know.
struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// Whether all of it is plain, and so its strings need not be looked at.
    plain: bool,
}

/// Fills an empty slot; a field that stands twice is refused.
fn fill<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

impl<'a> Scan<'a> {
    fn command(&mut self) -> Option<RawCommand<'a>> {
        let (mut request_id, mut card_id, mut accounts) = (None, None, None);
        self.object(|scan, name| match name {
            "request_id" => fill(&mut request_id, scan.string()?),
            "card_id" => fill(&mut card_id, scan.string()?),
            "accounts" => fill(&mut accounts, scan.accounts()?),
            _ => None,
        })?;
        Some(RawCommand { request_id: request_id?, card_id: card_id?, accounts: accounts.unwrap_or_default() })
    }

    fn accounts(&mut self) -> Option<Accounts<'a>> {
        let mut accounts = Accounts::new();
        self.take(b'[').then_some(())?;
        if self.take(b']') {
            return Some(accounts);
        }
        loop {
            accounts.push(self.account()?);
            if self.take(b']') {
                return Some(accounts);
            }
            self.take(b',').then_some(())?;
        }
    }

    fn account(&mut self) -> Option<RawAccount<'a>> {
        let (mut iban, mut currency, mut kind) = (None, None, None);
        self.object(|scan, name| match name {
            "iban" => fill(&mut iban, scan.string()?),
            "currency" => fill(&mut currency, scan.string()?),
            "type" => fill(&mut kind, scan.string()?),
            _ => None,
        })?;
        Some(RawAccount { iban: iban?, currency: currency?, kind: kind? })
    }

    /// Reads an object; `field` reads the value of each name.
    fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{').then_some(())?;
        if self.take(b'}') {
            return Some(());
        }
        loop {
            let name = self.string()?;
            self.take(b':').then_some(())?;
            field(self, name)?;
            if self.take(b'}') {
                return Some(());
            }
            self.take(b',').then_some(())?;
        }
    }

    /// Reads a string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"').then_some(())?;
        let start = self.at;
        let len = bytes::position(self.text.as_bytes().get(start..)?, b'"')?;
        self.at += len + 1;
        let string = self.text.get(start..start + len)?;
        (self.plain || bytes::are_plain(string.as_bytes())).then_some(string)
    }

    /// Takes `byte` if it is what comes after white space.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }
}
