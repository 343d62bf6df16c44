//! Decoding a command record: the checks of the contract that need no state, in its order.

use super::fast::{self, RawCommand};
use super::tree::{self, Node};
use crate::domain::{
    Account, AccountNumber, AccountType, CardId, Command, Currency, DeadReason, ErrorCode, IbanReader, Path, Rejection,
    RequestId,
};

/// What the record's key must be (`ingest.key_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyPolicy {
    /// The `card_id` in lower case.
    #[default]
    Strict,
    /// Anything: the upstream is trusted to keep a card in one partition.
    Trust,
}

/// What becomes of a field that the contract does not know (`ingest.unknown_fields`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// The command is answered with `unknown_field`.
    #[default]
    Reject,
    /// It is ignored.
    Ignore,
}

/// The configuration that decoding depends on.
#[derive(Clone, Debug, Default)]
pub struct DecodeRules {
    /// What the key must be.
    pub key_policy: KeyPolicy,
    /// The allowed account types.
    pub account_types: Vec<AccountType>,
    /// What becomes of unknown fields.
    pub unknown_fields: UnknownFields,
    /// Most accounts in a command.
    pub max_accounts: usize,
    /// Largest value in bytes.
    pub max_payload: usize,
}

/// What a record turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Not answerable.
    Dead(DeadReason),
    /// Answerable with an error.
    Rejected {
        /// The command's id.
        request_id: RequestId,
        /// The card, when it was readable.
        card_id: Option<CardId>,
        /// Why.
        rejection: Rejection,
    },
    /// Valid, as far as can be told without state.
    Command(Command<'a>),
}

/// Decodes commands one after the other, reusing its memory. The default one accepts nothing.
#[derive(Debug, Default)]
pub struct Decoder {
    rules: DecodeRules,
    accounts: Vec<Account>,
    ibans: IbanReader,
}

impl Decoder {
    /// A decoder for these rules.
    pub fn new(rules: DecodeRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Decodes one record.
    pub fn decode(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Decoded<'_> {
        let value = value.unwrap_or_default();
        if value.is_empty() {
            return Decoded::Dead(DeadReason::EmptyValue);
        }
        if value.len() > self.rules.max_payload {
            return Decoded::Dead(DeadReason::PayloadTooLarge);
        }
        match fast::read(value) {
            Some(raw) => match RequestId::parse(raw.request_id) {
                Some(request_id) => self.check(key, request_id, &raw),
                None => Decoded::Dead(DeadReason::InvalidRequestId),
            },
            None => self.decode_carefully(key, value),
        }
    }

    fn decode_carefully(&mut self, key: Option<&[u8]>, value: &[u8]) -> Decoded<'_> {
        let fields = match Node::read(value) {
            None => return Decoded::Dead(DeadReason::MalformedJson),
            Some(Node::Object(fields)) => fields,
            Some(_) => return Decoded::Dead(DeadReason::NotAnObject),
        };
        let Some(request_id) = tree::once(&fields, "request_id").and_then(RequestId::parse) else {
            return Decoded::Dead(DeadReason::InvalidRequestId);
        };
        let fault = tree::first_fault(&fields, self.rules.unknown_fields);
        match (fault, tree::fields_of(&fields)) {
            (None, Some(raw)) => self.check(key, request_id, &raw),
            (Some(rejection), _) => {
                let card_id = tree::once(&fields, "card_id").and_then(CardId::parse);
                Decoded::Rejected { request_id, card_id, rejection }
            }
            // Not reached while `first_fault` finds whatever `fields_of` cannot read; refused all the same.
            (None, None) => Decoded::Rejected {
                request_id,
                card_id: None,
                rejection: Rejection { code: ErrorCode::InvalidType, path: Path::Root },
            },
        }
    }

    /// The checks after the field step: card id, key, number of accounts, each account.
    fn check(&mut self, key: Option<&[u8]>, request_id: RequestId, raw: &RawCommand<'_>) -> Decoded<'_> {
        let card_id = CardId::parse(raw.card_id);
        match self.accounts_of(key, card_id, raw) {
            Ok(card_id) => Decoded::Command(Command { request_id, card_id, accounts: &self.accounts }),
            Err((code, path)) => Decoded::Rejected { request_id, card_id, rejection: Rejection { code, path } },
        }
    }

    fn accounts_of(
        &mut self,
        key: Option<&[u8]>,
        card_id: Option<CardId>,
        raw: &RawCommand<'_>,
    ) -> Result<CardId, (ErrorCode, Path)> {
        let card_id = card_id.ok_or((ErrorCode::InvalidCardId, Path::Field("card_id")))?;
        let key_is_card = || key == Some(card_id.encode(&mut [0; 36]).as_bytes());
        if self.rules.key_policy == KeyPolicy::Strict && !key_is_card() {
            return Err((ErrorCode::KeyMismatch, Path::Field("card_id")));
        }
        if raw.accounts.len() > self.rules.max_accounts {
            return Err((ErrorCode::TooManyAccounts, Path::Field("accounts")));
        }
        self.accounts.clear();
        for (index, raw) in (0..).zip(&raw.accounts) {
            let at = |field| Path::AccountField(index, field);
            let kind = self.rules.account_types.iter().find(|t| t.as_bytes() == raw.kind.as_bytes());
            let kind = *kind.ok_or((ErrorCode::InvalidAccountType, at("type")))?;
            let currency = Currency::parse(raw.currency).ok_or((ErrorCode::InvalidCurrency, at("currency")))?;
            let number =
                AccountNumber::parse(&kind, raw.iban, &mut self.ibans).ok_or((ErrorCode::InvalidIban, at("iban")))?;
            self.accounts.push(Account { kind, currency, number });
        }
        Ok(card_id)
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
