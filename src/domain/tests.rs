//! Tables of the patch, idempotency and stale rules of the contract.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const NOW: i64 = 1_735_689_661_000;

fn account(spec: &str) -> Account {
    let mut parts = spec.split(':');
    let (kind, currency, number) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    Account {
        kind: AccountType::new(kind.as_bytes()).unwrap(),
        currency: Currency::parse(currency).unwrap(),
        number: AccountNumber::stored(number.as_bytes()).unwrap(),
    }
}

fn accounts(specs: &str) -> Vec<Account> {
    specs.split_whitespace().map(account).collect()
}

fn request(n: u8) -> RequestId {
    RequestId::from_bytes([n; 16])
}

/// A card as `type:currency:number@source_offset/updated_at` words; `-` for no source offset.
fn card(specs: &str) -> Vec<StoredAccount> {
    let stored = |spec: &str| {
        let (account_spec, at) = spec.split_once('@').unwrap();
        let (offset, updated) = at.split_once('/').unwrap();
        StoredAccount {
            account: account(account_spec),
            request_id: request(1),
            updated_at_ms: updated.parse().unwrap(),
            source_offset: offset.parse().ok(),
        }
    };
    specs.split_whitespace().map(stored).collect()
}

fn shown(card: &[StoredAccount]) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let show = |s: &StoredAccount| {
        let offset = s.source_offset.map_or("-".to_owned(), |o| o.to_string());
        let (kind, currency) = (text(s.account.kind.as_bytes()), text(&s.account.currency.code()));
        format!("{kind}:{currency}:{}@{offset}/{}", text(s.account.number.as_bytes()), s.updated_at_ms)
    };
    card.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn patched(before: &str, specs: &str, origin: Origin) -> (Patched, String) {
    let accounts = accounts(specs);
    let command = Command { request_id: request(2), card_id: CardId::from_bytes([9; 16]), accounts: &accounts };
    let mut card = card(before);
    let patched = patch(&mut card, &command, &origin);
    (patched, shown(&card))
}

#[test]
fn accounts_of_a_place_are_replaced_and_stand_last_others_are_added_or_untouched() {
    let live = Origin::Live { offset: 7, timestamp_ms: 50 };
    for (before, specs, after) in [
        ("", "IBAN:USD:a", "IBAN:USD:a@7/50"),
        ("IBAN:USD:x@1/10", "IBAN:USD:a", "IBAN:USD:a@7/50"),
        ("IBAN:USD:x@1/10 IBAN:EUR:y@2/20", "IBAN:USD:a", "IBAN:EUR:y@2/20 IBAN:USD:a@7/50"),
        ("IBAN:USD:x@1/10", "IBAN:EUR:a", "IBAN:USD:x@1/10 IBAN:EUR:a@7/50"),
        ("IBAN:USD:x@1/10", "CARD:USD:a", "IBAN:USD:x@1/10 CARD:USD:a@7/50"),
        ("", "IBAN:USD:a IBAN:USD:b", "IBAN:USD:b@7/50"),
        ("", "IBAN:USD:a IBAN:EUR:b IBAN:USD:c", "IBAN:EUR:b@7/50 IBAN:USD:c@7/50"),
        // Live commands are never stale, whatever the card's times and offsets.
        ("IBAN:USD:x@99/999", "IBAN:USD:a", "IBAN:USD:a@7/50"),
    ] {
        assert_eq!(patched(before, specs, live), (Patched::Changed, after.to_owned()), "{before} + {specs}");
    }
    assert_eq!(patched("IBAN:USD:x@1/10", "", live), (Patched::Nothing, "IBAN:USD:x@1/10".to_owned()));
}

#[test]
fn a_replay_is_stale_where_the_card_has_its_position_or_a_later_one() {
    let replay = |offset| Origin::Backfill { replayed_offset: Some(offset), timestamp_ms: 50 };
    for (before, offset, expected) in [
        // Positions decide, whatever the timestamps.
        ("IBAN:USD:x@6/99", 7, (Patched::Changed, "IBAN:USD:a@7/50")),
        ("IBAN:USD:x@7/10", 7, (Patched::Stale, "IBAN:USD:x@7/10")),
        ("IBAN:USD:x@8/10", 7, (Patched::Stale, "IBAN:USD:x@8/10")),
        // Without a position on the card, times do; at the same time an account that is not from live is not newer.
        ("IBAN:USD:x@-/49", 7, (Patched::Changed, "IBAN:USD:a@7/50")),
        ("IBAN:USD:x@-/50", 7, (Patched::Changed, "IBAN:USD:a@7/50")),
        ("IBAN:USD:x@-/51", 7, (Patched::Stale, "IBAN:USD:x@-/51")),
    ] {
        let (patch, card) = patched(before, "IBAN:USD:a", replay(offset));
        assert_eq!((patch, card.as_str()), expected, "{before} replayed at {offset}");
    }
}

#[test]
fn a_command_from_elsewhere_is_stale_where_the_card_is_later_or_as_late_and_from_live() {
    let file = Origin::Backfill { replayed_offset: None, timestamp_ms: 50 };
    for (before, expected) in [
        ("IBAN:USD:x@1/49", (Patched::Changed, "IBAN:USD:a@-/50")),
        ("IBAN:USD:x@1/50", (Patched::Stale, "IBAN:USD:x@1/50")),
        ("IBAN:USD:x@-/50", (Patched::Changed, "IBAN:USD:a@-/50")),
        ("IBAN:USD:x@-/51", (Patched::Stale, "IBAN:USD:x@-/51")),
    ] {
        let (patch, card) = patched(before, "IBAN:USD:a", file);
        assert_eq!((patch, card.as_str()), expected, "{before}");
    }
}

#[test]
fn staleness_is_judged_account_by_account_by_the_card_before_the_command() {
    let replay = Origin::Backfill { replayed_offset: Some(7), timestamp_ms: 50 };
    assert_eq!(
        patched("IBAN:USD:x@9/10", "IBAN:USD:a IBAN:EUR:b", replay),
        (Patched::Changed, "IBAN:USD:x@9/10 IBAN:EUR:b@7/50".to_owned())
    );
    assert_eq!(patched("", "IBAN:USD:a IBAN:USD:b", replay), (Patched::Changed, "IBAN:USD:b@7/50".to_owned()));
}

fn decided(remembered: Option<u128>, on_duplicate: OnDuplicate, specs: &str, origin: Origin) -> (String, String) {
    let accounts = accounts(specs);
    let command = Command { request_id: request(2), card_id: CardId::from_bytes([9; 16]), accounts: &accounts };
    let dt = |at_ms| Dt { at_ms, offset: UtcOffset::default() };
    let remembered = remembered.map(|f| Remembered { fingerprint: Fingerprint(f), dt: dt(1000) });
    let mut state = card("IBAN:USD:x@8/10");
    let verdict = decide(&command, Fingerprint(1), &origin, remembered, on_duplicate, dt(NOW), &mut state);
    let text = match verdict {
        Verdict::Applied(answer, patched) => format!("applied {patched:?} {}", answer.dt.at_ms),
        Verdict::Replayed(answer) => format!("replayed {} {}", answer.dt.at_ms, answer.replayed),
        Verdict::Suppressed => "suppressed".to_owned(),
        Verdict::Rejected(answer, rejection) => format!("{} {}", rejection.code.name(), answer.dt.at_ms),
    };
    (text, shown(&state))
}

#[test]
fn a_repeated_request_gets_what_the_table_says_and_changes_nothing() {
    use OnDuplicate::{Error, Replay, Suppress};
    let live = Origin::Live { offset: 9, timestamp_ms: 50 };
    let before = "IBAN:USD:x@8/10";
    for (remembered, mode, answer) in [
        (Some(1), Replay, "replayed 1000 true".to_owned()),
        (Some(1), Suppress, "suppressed".to_owned()),
        (Some(1), Error, format!("duplicate_request {NOW}")),
        (Some(2), Replay, format!("request_id_conflict {NOW}")),
        (Some(2), Suppress, format!("request_id_conflict {NOW}")),
        (Some(2), Error, format!("request_id_conflict {NOW}")),
    ] {
        assert_eq!(
            decided(remembered, mode, "IBAN:USD:a", live),
            (answer, before.to_owned()),
            "{remembered:?} {mode:?}"
        );
    }
    let (applied, after) = decided(None, Replay, "IBAN:USD:a", live);
    assert_eq!((applied, after.as_str()), (format!("applied Changed {NOW}"), "IBAN:USD:a@9/50"));
    assert_eq!(decided(None, Replay, "", live), (format!("applied Nothing {NOW}"), before.to_owned()));
}

#[test]
fn a_stale_backfill_is_an_error_but_an_empty_one_succeeds() {
    let replay = Origin::Backfill { replayed_offset: Some(8), timestamp_ms: 50 };
    let before = "IBAN:USD:x@8/10".to_owned();
    assert_eq!(
        decided(None, OnDuplicate::Replay, "IBAN:USD:a", replay),
        (format!("stale_command {NOW}"), before.clone())
    );
    assert_eq!(decided(None, OnDuplicate::Replay, "", replay), (format!("applied Nothing {NOW}"), before));
}
