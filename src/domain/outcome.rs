//! What a command is answered: success, an error of a closed set, or the dead-letter topic.

use super::{CardId, Dt, Fingerprint, RequestId};
use std::fmt;

/// A closed set of names as they stand on the wire and in metric labels.
macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal, $message:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in the order of the checks.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// A sentence for a person; it never carries a value of the payload.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

closed_set! {
    /// The code of a completion with `status` = `error`.
    ErrorCode {
        /// A field that the contract does not know.
        UnknownField = "unknown_field", "the object has a field that is not known";
        /// A field that stands twice in one object.
        DuplicateField = "duplicate_field", "the object has a field twice";
        /// A required field is absent.
        MissingField = "missing_field", "a required field is missing";
        /// A field of the wrong JSON type.
        InvalidType = "invalid_type", "the value has the wrong JSON type";
        /// `card_id` is not a UUID.
        InvalidCardId = "invalid_card_id", "card_id is not a UUID in the hyphenated form";
        /// The record's key is not the `card_id`.
        KeyMismatch = "key_mismatch", "the record key is not the card_id in lower case";
        /// More accounts than `ingest.max_accounts`.
        TooManyAccounts = "too_many_accounts", "the command names too many accounts";
        /// An account type outside `ingest.account_types`.
        InvalidAccountType = "invalid_account_type", "the account type is not one of the allowed ones";
        /// Not an ISO 4217 code of today.
        InvalidCurrency = "invalid_currency", "the currency is not a current ISO 4217 alphabetic code";
        /// Not a valid account number of its type.
        InvalidIban = "invalid_iban", "the account number is not valid for its type";
        /// The id was used before for another command.
        RequestIdConflict = "request_id_conflict", "the request_id was used before for another command";
        /// The id was used before for the same command, under `on_duplicate = "error"`.
        DuplicateRequest = "duplicate_request", "the command was answered before";
        /// Backfill: everything that the command names is newer on the card.
        StaleCommand = "stale_command", "the card holds newer accounts than the command's";
    }
}

closed_set! {
    /// Why a record went to the dead-letter topic instead of being answered.
    DeadReason {
        /// A null value or zero bytes.
        EmptyValue = "empty_value", "the record has no value";
        /// Larger than `ingest.max_payload`, or than the brokers take for its answer.
        PayloadTooLarge = "payload_too_large", "the record is larger than allowed";
        /// Not one JSON value in UTF-8 of bounded nesting.
        MalformedJson = "malformed_json", "the value is not one well-formed JSON value";
        /// A JSON value, but no object.
        NotAnObject = "not_an_object", "the value is not a JSON object";
        /// `request_id` absent, twice, or not a UUID.
        InvalidRequestId = "invalid_request_id", "request_id is absent, twice, or not a UUID in the hyphenated form";
    }
}

/// A JSON pointer (RFC 6901) into a command. Only fields of the contract and indices occur, so it carries no payload value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The whole command.
    Root,
    /// `/FIELD`.
    Field(&'static str),
    /// `/accounts/INDEX`.
    Account(u32),
    /// `/accounts/INDEX/FIELD`.
    AccountField(u32, &'static str),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(field) => write!(f, "/{field}"),
            Self::Account(index) => write!(f, "/accounts/{index}"),
            Self::AccountField(index, field) => write!(f, "/accounts/{index}/{field}"),
        }
    }
}

/// Why a command was answered with an error, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The code.
    pub code: ErrorCode,
    /// Where in the command.
    pub path: Path,
}

/// A completion: the one answer to an answerable command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The command's id.
    pub request_id: RequestId,
    /// The command's card, when it was readable.
    pub card_id: Option<CardId>,
    /// When it was decided.
    pub dt: Dt,
    /// Success with the command's fingerprint, or the error.
    pub result: Result<Fingerprint, Rejection>,
    /// Whether it repeats an earlier one (header `idempotent-replayed`).
    pub replayed: bool,
}
