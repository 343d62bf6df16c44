//! Card records: the value in the compacted cards topic.

use super::json::{push_filled, push_number, push_string};
use super::scan::Scan;
use crate::domain::{Account, AccountNumber, AccountType, CardId, Currency, RequestId, StoredAccount};
use serde::Deserialize;
use std::borrow::Cow;

/// Appends the record of a card.
pub fn encode_card(card_id: &CardId, accounts: &[StoredAccount], out: &mut Vec<u8>) {
    let mut text = [0; 36];
    out.extend_from_slice(br#"{"card_id":""#);
    out.extend_from_slice(card_id.encode(&mut text).as_bytes());
    out.extend_from_slice(br#"","accounts":["#);
    for (i, stored) in accounts.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        encode_account(stored, out);
    }
    out.extend_from_slice(b"]}");
}

/// What stands between an account's number and its type, with a place for the currency.
const CURRENCY: (&[u8; 25], usize) = (br#","currency":"XXX","type":"#, 13);
/// What stands between an account's type and its time, with a place for the id.
const REQUEST: (&[u8; 66], usize) = (br#","request_id":"00000000-0000-0000-0000-000000000000","updated_at":"#, 15);

fn encode_account(stored: &StoredAccount, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"iban":"#);
    push_string(out, stored.account.number.as_bytes());
    push_filled(out, CURRENCY, &stored.account.currency.code());
    push_string(out, stored.account.kind.as_bytes());
    push_filled(out, REQUEST, stored.request_id.encode(&mut [0; 36]).as_bytes());
    push_number(out, stored.updated_at_ms);
    if let Some(offset) = stored.source_offset {
        out.extend_from_slice(br#","source_offset":"#);
        push_number(out, offset);
    }
    out.push(b'}');
}

/// A record of the cards topic that this worker cannot have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a card record: {0}")]
pub struct CardRecordError(&'static str);

#[derive(Deserialize)]
struct CardRecord<'a> {
    #[serde(borrow)]
    accounts: smallvec::SmallVec<[AccountRecord<'a>; 4]>,
}

/// Reads a card record as [`encode_card`] writes it, to the letter; `None` for anything else.
fn read(value: &[u8]) -> Option<CardRecord<'_>> {
    let mut accounts = smallvec::SmallVec::new();
    let mut scan = Scan::new(value)?;
    scan.literal(r#"{"card_id":"#)?;
    scan.string()?;
    scan.literal(r#","accounts":["#)?;
    while !scan.has("]}") {
        if !accounts.is_empty() {
            scan.literal(",")?;
        }
        accounts.push(read_account(&mut scan)?);
    }
    scan.end()?;
    Some(CardRecord { accounts })
}

fn read_account<'a>(scan: &mut Scan<'a>) -> Option<AccountRecord<'a>> {
    scan.literal(r#"{"iban":"#)?;
    let iban = Cow::Borrowed(scan.string()?);
    scan.literal(r#","currency":"#)?;
    let currency = scan.string()?;
    scan.literal(r#","type":"#)?;
    let kind = Cow::Borrowed(scan.string()?);
    scan.literal(r#","request_id":"#)?;
    let request_id = scan.string()?;
    scan.literal(r#","updated_at":"#)?;
    let updated_at = scan.number()?;
    let source_offset = if scan.has(r#","source_offset":"#) { Some(scan.number()?) } else { None };
    scan.literal("}")?;
    Some(AccountRecord { iban, currency, kind, request_id, updated_at, source_offset })
}

#[derive(Deserialize)]
struct AccountRecord<'a> {
    #[serde(borrow)]
    iban: Cow<'a, str>,
    currency: &'a str,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    request_id: &'a str,
    updated_at: i64,
    source_offset: Option<i64>,
}

/// Reads a record's accounts into `accounts` and says whose they are. A null value is a tombstone: the card is gone.
pub fn decode_card(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    accounts: &mut Vec<StoredAccount>,
) -> Result<CardId, CardRecordError> {
    accounts.clear();
    let key = key.and_then(|k| std::str::from_utf8(k).ok()).and_then(CardId::parse);
    let card_id = key.ok_or(CardRecordError("its key is not a card_id"))?;
    let Some(value) = value else { return Ok(card_id) };
    let record = match read(value) {
        Some(record) => record,
        None => serde_json::from_slice(value)
            .map_err(|_| CardRecordError("its body is not the JSON object of a card record"))?,
    };
    for raw in &record.accounts {
        accounts.push(stored(raw).ok_or(CardRecordError("one of its accounts has a value out of range"))?);
    }
    Ok(card_id)
}

fn stored(raw: &AccountRecord<'_>) -> Option<StoredAccount> {
    // The packed form has no room for another.
    if raw.source_offset.is_some_and(|offset| offset < 0) {
        return None;
    }
    Some(StoredAccount {
        account: Account {
            kind: AccountType::new(raw.kind.as_bytes())?,
            currency: Currency::stored(raw.currency)?,
            number: AccountNumber::stored(raw.iban.as_bytes())?,
        },
        request_id: RequestId::parse(raw.request_id)?,
        updated_at_ms: raw.updated_at,
        source_offset: raw.source_offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

    fn account(number: &str, source_offset: Option<i64>) -> StoredAccount {
        StoredAccount {
            account: Account {
                kind: AccountType::new(if number.contains('\\') { b"A\"B" } else { b"IBAN" }).unwrap(),
                currency: Currency::stored("HRK").unwrap(),
                number: AccountNumber::stored(number.as_bytes()).unwrap(),
            },
            request_id: RequestId::parse(ID).unwrap(),
            updated_at_ms: 1_735_689_661_000,
            source_offset,
        }
    }

    #[test]
    fn a_card_survives_the_round_trip() {
        let card_id = CardId::parse(ID).unwrap();
        for accounts in [vec![], vec![account("x\\\"y", Some(7))], vec![account("1", None), account("2", Some(0))]] {
            let mut value = Vec::new();
            encode_card(&card_id, &accounts, &mut value);
            let mut found = Vec::new();
            assert_eq!(decode_card(Some(ID.as_bytes()), Some(&value), &mut found), Ok(card_id));
            assert_eq!(found, accounts);
            // The quick reading leaves escapes to the general parser, and must agree with it about the rest.
            let general: CardRecord<'_> = serde_json::from_slice(&value).unwrap();
            let general: Vec<_> = general.accounts.iter().filter_map(stored).collect();
            assert_eq!(general, accounts);
            let quick = read(&value).map(|quick| quick.accounts.iter().filter_map(stored).collect::<Vec<_>>());
            let escapes = value.contains(&b'\\');
            assert_eq!(quick, (!escapes).then_some(accounts));
        }
    }

    #[test]
    fn what_the_quick_reading_reads_the_general_one_reads_alike() {
        let mut value = Vec::new();
        encode_card(&CardId::parse(ID).unwrap(), &[account("1", None), account("2", Some(0))], &mut value);
        let good = String::from_utf8(value).unwrap();
        for at in 0..good.len() {
            for other in ['"', '\\', ',', '\n', ' ', '0', '-', '}', ']'] {
                let mut changed = good.clone();
                changed.replace_range(at..=at, &other.to_string());
                let Some(quick) = read(changed.as_bytes()) else { continue };
                let general: CardRecord<'_> = serde_json::from_str(&changed).expect(&changed);
                let both = [&quick, &general].map(|r| r.accounts.iter().map(stored).collect::<Vec<_>>());
                assert_eq!(both[0], both[1], "{changed}");
            }
            assert!(read(&good.as_bytes()[..at]).is_none());
        }
    }

    #[test]
    fn a_tombstone_is_a_card_without_accounts_and_a_foreign_record_an_error() {
        let mut accounts = vec![account("1", None)];
        assert!(decode_card(Some(ID.as_bytes()), None, &mut accounts).is_ok());
        assert!(accounts.is_empty());
        for (key, value) in
            [(None, "{}"), (Some("x"), "{}"), (Some(ID), ""), (Some(ID), "{}"), (Some(ID), r#"{"accounts":[{}]}"#)]
        {
            assert!(decode_card(key.map(str::as_bytes), Some(value.as_bytes()), &mut accounts).is_err());
        }
    }

    #[test]
    fn an_offset_below_zero_is_out_of_range() {
        let (mut value, mut read) = (Vec::new(), Vec::new());
        encode_card(&CardId::parse(ID).unwrap(), &[account("1", Some(-1))], &mut value);
        assert!(decode_card(Some(ID.as_bytes()), Some(&value), &mut read).is_err());
    }
}
