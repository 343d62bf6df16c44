//! Tables of what a command record is, rule by rule of the contract.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

fn rules() -> DecodeRules {
    DecodeRules {
        key_policy: KeyPolicy::Strict,
        account_types: vec![AccountType::new(b"IBAN").unwrap(), AccountType::new(b"CARD").unwrap()],
        unknown_fields: UnknownFields::Reject,
        max_accounts: 3,
        max_payload: 4096,
    }
}

/// `Ok(accounts)`, a dead-letter reason, or an error code with its path.
fn outcome(rules: DecodeRules, key: Option<&[u8]>, value: Option<&[u8]>) -> String {
    match Decoder::new(rules).decode(key, value) {
        Decoded::Dead(reason) => reason.name().to_string(),
        Decoded::Rejected { card_id, rejection, .. } => {
            let card = if card_id.is_some() { "" } else { " (no card)" };
            format!("{} {}{card}", rejection.code.name(), rejection.path)
        }
        Decoded::Command(command) => format!("ok {}", command.accounts.len()),
    }
}

fn decoded(value: impl AsRef<[u8]>) -> String {
    outcome(rules(), Some(ID.as_bytes()), Some(value.as_ref()))
}

fn with_accounts(accounts: &str) -> String {
    format!(r#"{{"request_id":"{ID}","card_id":"{ID}","accounts":{accounts}}}"#)
}

const GOOD: &str = r#"{"iban":"ES7921000813610123456789","currency":"USD","type":"IBAN"}"#;

#[test]
fn what_cannot_be_answered_has_its_reason() {
    let brackets = "[".repeat(100_000);
    let deep = |levels: usize| format!(r#"{{"request_id":"{ID}","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    for (value, reason) in [
        ("", "empty_value"),
        (" ", "malformed_json"),
        ("{", "malformed_json"),
        ("{}{}", "malformed_json"),
        ("\u{feff}{}", "malformed_json"),
        (r#"{"request_id":"\ud800"}"#, "malformed_json"),
        (r#"{"request_id":1e999}"#, "malformed_json"),
        (r#"{"x":-1e999}"#, "malformed_json"),
        (r#"{"a":01}"#, "malformed_json"),
        ("{\"a\":\"\0\"}", "malformed_json"),
        (&deep(16), "malformed_json"),
        (&format!("{}{}", "[".repeat(17), "]".repeat(17)), "malformed_json"),
        ("null", "not_an_object"),
        ("[]", "not_an_object"),
        ("7", "not_an_object"),
        (r#""x""#, "not_an_object"),
        (&format!("{}{}", "[".repeat(16), "]".repeat(16)), "not_an_object"),
        (&format!(r#"["{ID}","{ID}",[]]"#), "not_an_object"),
        ("{}", "invalid_request_id"),
        (r#"{"request_id":null}"#, "invalid_request_id"),
        (r#"{"request_id":"x"}"#, "invalid_request_id"),
        (r#"{"request_id":["019ab688-bef2-72c4-6a29-d0e08be76d95"]}"#, "invalid_request_id"),
        (&format!(r#"{{"request_id":"{ID}","request_id":"{ID}"}}"#), "invalid_request_id"),
        (&format!(r#"{{"request_id":"{ID}","request\u005fid":"{ID}"}}"#), "invalid_request_id"),
    ] {
        assert_eq!(decoded(value), reason, "{value}");
    }
    assert_eq!(decoded(brackets.as_bytes()), "payload_too_large");
    let roomy = DecodeRules { max_payload: 1 << 20, ..rules() };
    assert_eq!(outcome(roomy, None, Some(brackets.as_bytes())), "malformed_json");
    assert_eq!(outcome(rules(), None, None), "empty_value");
    assert_eq!(decoded(b"{\"request_id\":\"\xff\"}"), "malformed_json");
    assert_eq!(decoded(b"\xff"), "malformed_json");
    assert_eq!(decoded(deep(15)), "unknown_field  (no card)");
}

#[test]
fn a_faulty_field_is_answered_by_kind_then_in_document_order() {
    let fields = |rest: &str| format!(r#"{{"request_id":"{ID}"{rest}}}"#);
    let card = format!(r#","card_id":"{ID}""#);
    for (value, answer) in [
        (fields(&format!(r#"{card},"x":1"#)), "unknown_field "),
        (fields(&format!(r#"{card},"x":1,"x":2,"accounts":null"#)), "unknown_field "),
        (fields(&format!(r#"{card}{card}"#)), "duplicate_field  (no card)"),
        (fields(&format!(r#"{card},"accounts":[],"accounts":[]"#)), "duplicate_field "),
        (fields(""), "missing_field /card_id (no card)"),
        (fields(r#","card_id":7"#), "invalid_type /card_id (no card)"),
        (fields(&format!(r#"{card},"accounts":null"#)), "invalid_type /accounts"),
        (fields(&format!(r#"{card},"accounts":{{}}"#)), "invalid_type /accounts"),
        (fields(r#","card_id":"x""#), "invalid_card_id /card_id (no card)"),
        (with_accounts("[7]"), "invalid_type /accounts/0"),
        (with_accounts(&format!(r#"[{GOOD},["ES7921000813610123456789","USD","IBAN"]]"#)), "invalid_type /accounts/1"),
        (with_accounts(r#"[{"iban":null,"currency":"USD","type":"IBAN"}]"#), "invalid_type /accounts/0/iban"),
        (with_accounts(r#"[{"currency":"USD","type":"IBAN"}]"#), "missing_field /accounts/0/iban"),
        (with_accounts(r#"[{},{"iban":"x","y":1}]"#), "unknown_field /accounts/1"),
        (with_accounts(r#"[{"iban":1,"iban":2}]"#), "duplicate_field /accounts/0"),
        (with_accounts(r#"[{"iban":1},{"iban":2,"\u0069ban":3}]"#), "duplicate_field /accounts/1"),
        (with_accounts(r#"[{"type":1},{}]"#), "missing_field /accounts/0/iban"),
        (with_accounts(r#"[{"type":1,"iban":2,"currency":3}]"#), "invalid_type /accounts/0/type"),
        // What stands in the accounts comes before what stands after them.
        (fields(r#","accounts":[7],"card_id":5"#), "invalid_type /accounts/0 (no card)"),
        (fields(r#","card_id":5,"accounts":[7]"#), "invalid_type /card_id (no card)"),
        (fields(&format!(r#"{card},"accounts":[{{"x":1}}],"y":2"#)), "unknown_field /accounts/0"),
        (fields(&format!(r#"{card},"y":2,"accounts":[{{"x":1}}]"#)), "unknown_field "),
        (fields(r#","accounts":[{"iban":1,"iban":1}],"accounts":[]"#), "duplicate_field /accounts/0 (no card)"),
        (fields(r#","accounts":[{}]"#), "missing_field /card_id (no card)"),
    ] {
        assert_eq!(decoded(&value), answer, "{value}");
    }
}

#[test]
fn accounts_are_checked_in_order_after_card_key_and_number() {
    let account = |kind: &str, currency: &str, iban: &str| {
        format!(r#"{{"iban":"{iban}","currency":"{currency}","type":"{kind}"}}"#)
    };
    for (accounts, answer) in [
        ("[]".to_string(), "ok 0"),
        (format!("[{GOOD},{GOOD},{GOOD}]"), "ok 3"),
        (format!("[{GOOD},{GOOD},{GOOD},{}]", account("x", "y", "z")), "too_many_accounts /accounts"),
        (format!("[{GOOD},{}]", account("x", "y", "z")), "invalid_account_type /accounts/1/type"),
        (format!("[{}]", account("iban", "USD", "x")), "invalid_account_type /accounts/0/type"),
        (format!("[{}]", account("IBAN", "HRK", "x")), "invalid_currency /accounts/0/currency"),
        (format!("[{}]", account("IBAN", "usd", "x")), "invalid_currency /accounts/0/currency"),
        (format!("[{}]", account("IBAN", "USD", "x")), "invalid_iban /accounts/0/iban"),
        (format!("[{}]", account("IBAN", "USD", r"ES79\u00202100 0813 6101 2345 6789")), "ok 1"),
        (format!("[{}]", account("IBAN", "USD", r"ES7921000813610123456789\u0000")), "invalid_iban /accounts/0/iban"),
        (format!("[{}]", account("CARD", "USD", "x")), "ok 1"),
    ] {
        assert_eq!(decoded(with_accounts(&accounts)), answer, "{accounts}");
    }
    let mut no_accounts = with_accounts("[]").replace(r#","accounts":[]"#, "");
    assert_eq!(decoded(&no_accounts), "ok 0");
    no_accounts.push(' ');
    assert_eq!(decoded(&no_accounts), "ok 0");
}

#[test]
fn the_key_must_be_the_card_id_in_lower_case_unless_it_is_trusted() {
    let value =
        with_accounts("[]").replace(&format!(r#""card_id":"{ID}""#), &format!(r#""card_id":"{}""#, ID.to_uppercase()));
    let with_key = |key: Option<&[u8]>| outcome(rules(), key, Some(value.as_bytes()));
    assert_eq!(with_key(Some(ID.as_bytes())), "ok 0");
    for key in [None, Some(&b""[..]), Some(ID.to_uppercase().as_bytes()), Some(&b"x"[..])] {
        assert_eq!(with_key(key), "key_mismatch /card_id");
        let trusting = DecodeRules { key_policy: KeyPolicy::Trust, ..rules() };
        assert_eq!(outcome(trusting, key, Some(value.as_bytes())), "ok 0");
    }
}

#[test]
fn ignored_fields_must_still_be_valid_and_stand_once() {
    let lenient = || DecodeRules { unknown_fields: UnknownFields::Ignore, ..rules() };
    let with = |x: &str| with_accounts(&format!("[{GOOD}]")).replacen('{', &format!("{{{x},"), 1);
    for (extra, answer) in [
        (r#""x":{"y":[1,2]}"#, "ok 1"),
        (r#""x":1e999"#, "malformed_json"),
        (r#""x":"\udc00""#, "malformed_json"),
        (r#""x":1,"x":2"#, "duplicate_field "),
        (r#""card_id":1"#, "duplicate_field  (no card)"),
    ] {
        assert_eq!(outcome(lenient(), Some(ID.as_bytes()), Some(with(extra).as_bytes())), answer, "{extra}");
    }
    let in_account = with_accounts(&format!("[{}]", GOOD.replacen('{', r#"{"note":null,"#, 1)));
    assert_eq!(outcome(lenient(), Some(ID.as_bytes()), Some(in_account.as_bytes())), "ok 1");
}

proptest::proptest! {
    /// Whatever the bytes, the quick and the careful reading never contradict each other.
    #[test]
    fn both_readings_agree(value in json_like()) {
        let mut decoder = Decoder::new(rules());
        let key = Some(ID.as_bytes());
        let quick = format!("{:?}", decoder.decode(key, Some(value.as_bytes())));
        let careful = format!("{:?}", decoder.decode_carefully(key, value.as_bytes()));
        proptest::prop_assert_eq!(quick, careful);
    }
}

fn json_like() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "1",
        "1e999",
        "\"\\ud800\"",
        "\"x\"",
        "\"request_id\"",
        "\"card_id\"",
        "\"accounts\"",
        "\"iban\"",
        "\"currency\"",
        "\"type\"",
        "\"USD\"",
        "\"IBAN\"",
        "\"ES7921000813610123456789\"",
        "\"019ab688-bef2-72c4-6a29-d0e08be76d95\"",
        " ",
        "\"\\u0049BAN\"",
    ]);
    let soup = prop::collection::vec(token, 1..24).prop_map(|t| t.concat());
    let field = prop::sample::select(vec![
        format!(r#""request_id":"{ID}""#),
        format!(r#""card_id":"{ID}""#),
        format!(r#""accounts":[{GOOD}]"#),
        r#""accounts":[{"iban":"x","type":"IBAN"}]"#.to_string(),
        r#""accounts":null"#.to_string(),
        r#""x":[{}]"#.to_string(),
    ]);
    let object = prop::collection::vec(field, 0..5).prop_map(|fields| format!("{{{}}}", fields.join(",")));
    prop_oneof![soup, object]
}
