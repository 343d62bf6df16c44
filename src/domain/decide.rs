//! The decision: what becomes of a valid command, given what is remembered and what stands on the card.

use super::{Answer, Command, Dt, ErrorCode, Fingerprint, Origin, Patched, Path, Rejection, StoredAccount, patch};

/// What a repeated command gets (`dedup.on_duplicate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The first completion again, marked.
    Replay,
    /// Nothing.
    Suppress,
    /// The error `duplicate_request`.
    Error,
}

/// The outcome that is remembered of a request: an `ok` completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// What the command meant.
    pub fingerprint: Fingerprint,
    /// The first completion's time; its milliseconds are the decision time from which the window counts.
    pub dt: Dt,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New: `ok`. Whether the card changed; when not, no card record is written.
    Applied(Answer, Patched),
    /// Repeated: the first completion again.
    Replayed(Answer),
    /// Repeated, under `suppress`: no answer, counted.
    Suppressed,
    /// Answered with an error; nothing changes and nothing is remembered.
    Rejected(Answer, Rejection),
}

/// Decides one command. `card` is the card's state and, where the verdict is [`Verdict::Applied`], becomes the new one.
pub fn decide(
    command: &Command<'_>,
    fingerprint: Fingerprint,
    origin: &Origin,
    remembered: Option<Remembered>,
    on_duplicate: OnDuplicate,
    now: Dt,
    card: &mut Vec<StoredAccount>,
) -> Verdict {
    let ok = |dt, replayed| Answer {
        request_id: command.request_id,
        card_id: Some(command.card_id),
        dt,
        result: Ok(fingerprint),
        replayed,
    };
    let reject = |code, path| {
        let rejection = Rejection { code, path };
        Verdict::Rejected(Answer { result: Err(rejection), ..ok(now, false) }, rejection)
    };
    match remembered {
        Some(first) if first.fingerprint != fingerprint => {
            reject(ErrorCode::RequestIdConflict, Path::Field("request_id"))
        }
        Some(first) => match on_duplicate {
            OnDuplicate::Replay => Verdict::Replayed(ok(first.dt, true)),
            OnDuplicate::Suppress => Verdict::Suppressed,
            OnDuplicate::Error => reject(ErrorCode::DuplicateRequest, Path::Field("request_id")),
        },
        None => match patch(card, command, origin) {
            Patched::Stale => reject(ErrorCode::StaleCommand, Path::Field("accounts")),
            patched => Verdict::Applied(ok(now, false), patched),
        },
    }
}
