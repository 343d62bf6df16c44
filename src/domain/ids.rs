//! Request and card ids: UUIDs of any variant and version, read only in the hyphenated form of 36 characters.

use std::fmt;
use uuid::Uuid;

/// Length of the hyphenated form.
const HYPHENATED: usize = 36;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Reads the hyphenated form; upper case is accepted. `None` for anything else.
            pub fn parse(text: &str) -> Option<Self> {
                // uuid also reads the simple, braced and URN forms; each has another length.
                if text.len() != HYPHENATED {
                    return None;
                }
                Uuid::try_parse(text).ok().map(Self)
            }
            /// The id from its 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
            /// Writes the lower-case hyphenated form into `buffer`.
            pub fn encode<'b>(&self, buffer: &'b mut [u8; HYPHENATED]) -> &'b str {
                self.0.hyphenated().encode_lower(buffer)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.encode(&mut [0; HYPHENATED]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// The idempotency key of a command (`request_id`).
    RequestId
);
id!(
    /// The card that a command updates (`card_id`).
    CardId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_read_in_any_case() {
        let example = "019ab688-bef2-72c4-6a29-d0e08be76d95";
        assert_eq!(RequestId::parse(example).unwrap().to_string(), example);
        assert_eq!(RequestId::parse(&example.to_uppercase()).unwrap().to_string(), example);
        for wrong in [
            "",
            "019ab688bef272c46a29d0e08be76d95",
            "{019ab688-bef2-72c4-6a29-d0e08be76d95}",
            "urn:uuid:019ab688-bef2-72c4-6a29-d0e08be76d95",
            "019ab688-bef2-72c4-6a29-d0e08be76d9",
            "019ab688-bef2-72c4-6a29-d0e08be76d9g",
            "019ab688bef2--72c4-6a29-d0e08be76d95",
            "019ab688-bef2-72c4-6a29-d0e08be76d95 ",
        ] {
            assert_eq!(RequestId::parse(wrong), None, "{wrong}");
        }
    }
}
