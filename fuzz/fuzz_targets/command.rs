//! The command decoder on any bytes: it never panics, an accepted command keeps the contract's bounds, and what the decoder
//! read before changes nothing. Work is bounded by the runner's limits of time and memory.

#![no_main]

use card_update_worker::domain::{Account, Command, ErrorCode};
use card_update_worker::wire::{Decoded, Decoder};
use card_update_worker_fuzz::record::{MAX_ACCOUNTS, MAX_PAYLOAD, Record, TYPES};

/// What only state can tell.
const NOT_THE_DECODERS: [ErrorCode; 3] =
    [ErrorCode::RequestIdConflict, ErrorCode::DuplicateRequest, ErrorCode::StaleCommand];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some(record) = Record::read(input) else { return };
    let mut decoder = Decoder::new(record.rules());
    let decode = |decoder: &mut Decoder| {
        let decoded = decoder.decode(record.key.as_deref(), Some(&record.value));
        check(&record, &decoded);
        format!("{decoded:?}")
    };
    let first = decode(&mut decoder);
    assert_eq!(first, decode(&mut decoder), "a decoder remembers nothing");
});

fn check(record: &Record<'_>, decoded: &Decoded<'_>) {
    match decoded {
        Decoded::Dead(_) => {}
        Decoded::Rejected { rejection, .. } => assert!(!NOT_THE_DECODERS.contains(&rejection.code)),
        Decoded::Command(command) => check_command(record, command),
    }
}

fn check_command(record: &Record<'_>, command: &Command<'_>) {
    assert!(record.value.len() <= MAX_PAYLOAD);
    assert!(command.accounts.len() <= MAX_ACCOUNTS);
    assert!(record.trust || record.key.as_deref() == Some(command.card_id.to_string().as_bytes()));
    command.accounts.iter().for_each(check_account);
}

fn check_account(account: &Account) {
    let number = account.number.as_bytes();
    assert!(TYPES.iter().any(|name| name.as_bytes() == account.kind.as_bytes()));
    assert!((1..=34).contains(&number.len()) && number.iter().all(|b| (0x20..=0x7e).contains(b)));
    if account.kind.is_iban() {
        assert!(number.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()));
        assert_eq!(mod_97(number), 1);
    }
}

/// ISO 13616: the first four characters moved to the end, letters as 10 to 35.
fn mod_97(number: &[u8]) -> u32 {
    number[4..].iter().chain(&number[..4]).fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}
