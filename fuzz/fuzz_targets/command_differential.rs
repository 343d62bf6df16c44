//! The command decoder against the contract: the same verdict, code, path and content for every record.

#![no_main]

use card_update_worker::domain::{Account, Currency};
use card_update_worker::wire::{Decoded, Decoder};
use card_update_worker_fuzz::contract::{self, Verdict};
use card_update_worker_fuzz::currencies;
use card_update_worker_fuzz::record::Record;

libfuzzer_sys::fuzz_target!(init: currencies_agree(), |input: &[u8]| {
    let Some(record) = Record::read(input).filter(|record| contract::is_comparable(&record.value)) else { return };
    let mut decoder = Decoder::new(record.rules());
    let decoded = decoder.decode(record.key.as_deref(), Some(&record.value));
    assert_eq!(in_words(&decoded), contract::verdict(&record));
});

fn currencies_agree() {
    for code in currencies::all_codes() {
        assert_eq!(Currency::parse(&code).is_some(), currencies::is_current(&code), "{code}");
    }
}

fn in_words(decoded: &Decoded<'_>) -> Verdict {
    match decoded {
        Decoded::Dead(reason) => Verdict::Dead(reason.name()),
        Decoded::Rejected { request_id, card_id, rejection } => Verdict::Rejected {
            request_id: request_id.to_string(),
            card_id: card_id.map(|id| id.to_string()),
            code: rejection.code.name(),
            path: rejection.path.to_string(),
        },
        Decoded::Command(command) => Verdict::Accepted {
            request_id: command.request_id.to_string(),
            card_id: command.card_id.to_string(),
            accounts: command.accounts.iter().map(account).collect(),
        },
    }
}

fn account(account: &Account) -> [String; 3] {
    [account.kind.as_bytes(), &account.currency.code(), account.number.as_bytes()]
        .map(|text| String::from_utf8_lossy(text).into_owned())
}
