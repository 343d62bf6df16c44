//! The rules of a card update, pure: facts in, a verdict out.
//!
//! Owns ids, accounts, commands, completions, the patch rules, idempotency and [`decide()`]. It must never read a clock, do
//! input or output, or import another module of the project.

mod account;
mod command;
mod currency;
mod decide;
mod dt;
mod fingerprint;
mod iban;
mod ids;
mod outcome;
mod patch;

pub use account::{Account, AccountNumber, AccountType, MAX_ACCOUNT_TYPE, MAX_NUMBER};
pub use command::{Command, Origin};
pub use currency::Currency;
pub use decide::{OnDuplicate, Remembered, Verdict, decide};
pub use dt::{Dt, UtcOffset};
pub use fingerprint::Fingerprint;
pub use iban::IbanReader;
pub use ids::{CardId, RequestId};
pub use outcome::{Answer, DeadReason, ErrorCode, Path, Rejection};
pub use patch::{Patched, StoredAccount, patch};

#[cfg(test)]
mod tests;
