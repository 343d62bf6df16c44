//! Which dead letters were sent again, as it stands in Kafka: committed with the records themselves, in one transaction, as
//! the metadata of a group's offset. Pure: a bitmap to text and back.
//!
//! A page covers [`PAGE`] offsets of one partition of the dead-letter topic; each page number has a group of its own.

use std::fmt::Write as _;

/// Offsets a page: its bitmap takes 2048 hex digits, well within `offset.metadata.max.bytes` (4096 by default).
pub const PAGE: i64 = 8192;

/// The page of an offset.
pub const fn page_of(offset: i64) -> i64 {
    offset / PAGE
}

/// Offsets of one page and partition that were sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page(Vec<u8>);

impl Default for Page {
    fn default() -> Self {
        Self(vec![0; PAGE as usize / 8])
    }
}

impl Page {
    /// Whether the letter at this offset was sent again.
    pub fn has(&self, offset: i64) -> bool {
        let (byte, bit) = place(offset);
        self.0[byte] & bit != 0
    }

    /// Notes that it is.
    pub fn add(&mut self, offset: i64) {
        let (byte, bit) = place(offset);
        self.0[byte] |= bit;
    }

    /// The text; trailing zeros are left out.
    pub fn text(&self) -> String {
        let used = self.0.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        self.0[..used].iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads the text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut page = Self::default();
        if !text.len().is_multiple_of(2) || text.len() / 2 > page.0.len() || !text.is_ascii() {
            return None;
        }
        for (i, byte) in page.0[..text.len() / 2].iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(page)
    }
}

fn place(offset: i64) -> (usize, u8) {
    let within = offset.rem_euclid(PAGE);
    (within as usize / 8, 1 << (within % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_survives_the_round_trip() {
        let mut page = Page::default();
        assert_eq!(page.text(), "");
        for offset in [0, 9, PAGE - 1, 3 * PAGE + 5] {
            assert!(!page.has(offset));
            page.add(offset);
            assert!(page.has(offset) && page.has(offset + PAGE));
        }
        assert!(page.text().len() <= 2048);
        assert_eq!(Page::parse(&page.text()), Some(page));
        for wrong in ["0", "zz", &"00".repeat(1025), "é"] {
            assert_eq!(Page::parse(wrong), None, "{wrong}");
        }
    }
}
