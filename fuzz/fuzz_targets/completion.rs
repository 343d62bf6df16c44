//! The decoder of completions: never a panic; what it remembers is the same when it is written and read again; and a replayed
//! body is byte for byte the first one.
//!
//! An input is the fingerprint header, the timestamp in decimal, and the body, with line feeds between them.

#![no_main]

use card_update_worker::domain::{Answer, CardId};
use card_update_worker::projection::{BlockCache, LogIdentity, NoStore, Projection, Tree};
use card_update_worker::wire::{FirstCompletion, Outbox, Source, completion, decode_first_completion, names};
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let (fingerprint, timestamp, body) = (parts.next(), parts.next(), parts.next());
    let timestamp = timestamp.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
    let headers = [(names::REQUEST_FINGERPRINT, fingerprint)];
    let Ok(Some(first)) = decode_first_completion(headers.into_iter(), body, timestamp) else { return };
    assert_eq!(rewritten(&first, false), Some(first));
    assert_eq!(rewritten(&first, true), None, "a replay is not remembered");
    folded(&first, timestamp);
});

/// What a restore reads of the completion that remembers the same.
fn rewritten(first: &FirstCompletion, replayed: bool) -> Option<FirstCompletion> {
    let answer = Answer {
        request_id: first.request_id,
        card_id: Some(CardId::from_bytes([1; 16])),
        dt: first.remembered.dt,
        result: Ok(first.remembered.fingerprint),
        replayed,
    };
    let mut out = Outbox::default();
    let source = Source { topic: "t", partition: 0, offset: 0 };
    completion(&answer, &source, None, answer.dt.at_ms, 0, &mut out);
    out.end();
    let record = out.get(0);
    let headers = record.headers().map(|(name, value)| (std::str::from_utf8(name).expect("it is ASCII"), value));
    decode_first_completion(headers, record.value, record.timestamp_ms).expect("the worker wrote it")
}

/// The dedup memory finds it within the window, whatever the time.
fn folded(first: &FirstCompletion, timestamp: i64) {
    let tree = Tree::new(0, Arc::new(NoStore(String::new())), Arc::new(BlockCache::default()));
    let mut projection = Projection::empty(tree, LogIdentity::default(), 1000);
    projection.fold_completion(Some(*first), timestamp, 1).expect("there is no disk to fail");
    let now = projection.decision_time_ms(0);
    let found = projection.request(&first.request_id, now).expect("there is no disk to fail");
    assert_eq!(found, Some(first.remembered).filter(|_| i128::from(now) - i128::from(timestamp) <= 1000));
    projection.expire();
}
