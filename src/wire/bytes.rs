//! Looks at eight bytes at a time. The texts of this project are short: for them a call of a general search costs more than the
//! search.

const EACH: u64 = 0x0101_0101_0101_0101;
const TOP: u64 = 0x8080_8080_8080_8080;

/// The top bit of each byte that is `byte`; above the first one there may be others set in error.
const fn equal(word: u64, byte: u8) -> u64 {
    let zero = word ^ (EACH * byte as u64);
    zero.wrapping_sub(EACH) & !zero & TOP
}

/// The top bit of each byte below `limit`, which is at most 128; above the first one there may be others set in error.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(EACH * limit as u64) & !word & TOP
}

/// Splits a text in words of eight bytes and a rest.
fn words(text: &[u8]) -> (impl Iterator<Item = u64>, &[u8]) {
    let (words, rest) = text.as_chunks::<8>();
    (words.iter().map(|word| u64::from_le_bytes(*word)), rest)
}

/// Where `byte` stands first.
pub fn position(text: &[u8], byte: u8) -> Option<usize> {
    let (words, rest) = words(text);
    for (number, word) in words.enumerate() {
        let found = equal(word, byte);
        if found != 0 {
            return Some(8 * number + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|other| *other == byte).map(|at| text.len() - rest.len() + at)
}

/// Whether no byte is a backslash or a control character.
pub fn are_plain(text: &[u8]) -> bool {
    let (mut words, rest) = words(text);
    words.all(|word| equal(word, b'\\') | below(word, 0x20) == 0) && rest.iter().all(|b| *b >= 0x20 && *b != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_say_what_looking_at_each_byte_says(text in proptest::collection::vec(any::<u8>(), 0..40), byte: u8) {
            prop_assert_eq!(position(&text, byte), text.iter().position(|b| *b == byte));
            prop_assert_eq!(are_plain(&text), !text.iter().any(|b| *b < 0x20 || *b == b'\\'));
        }

        #[test]
        fn the_neighbours_of_what_is_looked_for_are_told_from_it(
            text in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b'!'), Just(b'#'), Just(0xa2), Just(0x1f), Just(0x20), Just(b'['), Just(b'\\')], 0..24)
        ) {
            prop_assert_eq!(position(&text, b'"'), text.iter().position(|b| *b == b'"'));
            prop_assert_eq!(are_plain(&text), !text.iter().any(|b| *b < 0x20 || *b == b'\\'));
        }
    }
}
