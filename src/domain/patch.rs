//! The account patch rules: accounts with the same type and currency are replaced, others added, unnamed ones untouched.

use super::{Account, Command, Origin, RequestId};

/// An account on a card, with what created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    /// The account.
    pub account: Account,
    /// The command that created it.
    pub request_id: RequestId,
    /// That command's timestamp, milliseconds since the epoch, UTC.
    pub updated_at_ms: i64,
    /// That command's offset in the commands topic; `None` when it came from elsewhere.
    pub source_offset: Option<i64>,
}

impl StoredAccount {
    /// Whether this account is newer than a backfilled command.
    ///
    /// A replay from the commands topic compares positions, which are the order of the live run; anything else compares times.
    fn outdates(&self, replayed_offset: Option<i64>, timestamp_ms: i64) -> bool {
        match (self.source_offset, replayed_offset) {
            (Some(stored), Some(replayed)) => stored >= replayed,
            (stored, _) => {
                self.updated_at_ms > timestamp_ms || (self.updated_at_ms == timestamp_ms && stored.is_some())
            }
        }
    }
}

/// What a patch did to the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patched {
    /// At least one account was replaced or added.
    Changed,
    /// The command named no account.
    Nothing,
    /// Every account that the command names is newer on the card.
    Stale,
}

/// Applies the command to the card's accounts.
pub fn patch(card: &mut Vec<StoredAccount>, command: &Command<'_>, origin: &Origin) -> Patched {
    if command.accounts.is_empty() {
        return Patched::Nothing;
    }
    let fresh = fresh_entries(card, command, origin);
    if !fresh.iter().any(|f| *f) {
        return Patched::Stale;
    }
    for (account, _) in command.accounts.iter().zip(fresh).filter(|(_, fresh)| *fresh) {
        put(
            card,
            StoredAccount {
                account: *account,
                request_id: command.request_id,
                updated_at_ms: origin.timestamp_ms(),
                source_offset: origin.source_offset(),
            },
        );
    }
    Patched::Changed
}

fn put(card: &mut Vec<StoredAccount>, stored: StoredAccount) {
    card.retain(|existing| !existing.account.same_place(&stored.account));
    card.push(stored);
}

/// Which entries of the command may be applied, judged by the card as it was before the command: two entries for one place
/// must not make each other stale.
fn fresh_entries(card: &[StoredAccount], command: &Command<'_>, origin: &Origin) -> smallvec::SmallVec<[bool; 8]> {
    let fresh = |account: &Account| match *origin {
        Origin::Live { .. } => true,
        Origin::Backfill { replayed_offset, timestamp_ms } => card
            .iter()
            .filter(|stored| stored.account.same_place(account))
            .all(|stored| !stored.outdates(replayed_offset, timestamp_ms)),
    };
    command.accounts.iter().map(fresh).collect()
}
