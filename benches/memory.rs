//! What a card and a remembered request take: memory as the difference of the process's resident size, disk as that of the state
//! directory. `cargo bench --bench memory [-- CARDS]`; figures stand in `deploy/OPERATING.md`.
#![allow(clippy::unwrap_used, missing_docs)]

use card_update_worker::domain::{
    Account, AccountNumber, AccountType, CardId, Currency, Dt, Fingerprint, Remembered, RequestId, StoredAccount,
    UtcOffset,
};
use card_update_worker::projection::{
    Lease, LogIdentity, Positions, Projection, SledStore, StateDir, Step, StepBytes, Store, Tree, Writer,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const PARTITIONS: u64 = 8;
/// Puts between two rounds: what `checkpoint.max_tail_records` allows.
const EVERY: u64 = 500_000;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let count: u64 = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    match arguments.iter().find_map(|a| ["cards", "requests"].into_iter().find(|k| k == a)) {
        Some("cards") => measure("card", count, |projection, i| {
            projection.put_card(&CardId::parse(&id(i)).unwrap(), &accounts(i));
        }),
        Some(_) => measure("request", count, |projection, i| {
            projection.put_request(&RequestId::parse(&id(i)).unwrap(), remembered(i));
        }),
        // Each in a process of its own: what one leaves behind must not hide what the other takes.
        None => ["cards", "requests"].iter().for_each(|kind| {
            let program = std::env::current_exe().unwrap();
            let status = std::process::Command::new(program).args([kind, count.to_string().as_str()]).status();
            assert!(status.unwrap().success());
        }),
    }
}

fn measure(what: &str, count: u64, put: impl Fn(&mut Projection, u64)) {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&folder.path().join("sled")).unwrap());
    let (writer, thread) = Writer::start().unwrap();
    let mut partitions: Vec<Projection> = (0..PARTITIONS)
        .map(|p| {
            let tree = Tree::new(p as i32, store.clone(), Arc::default());
            Projection::empty(tree, LogIdentity::default(), i64::MAX / 2)
        })
        .collect();
    let (memory, disk) = (resident(), StateDir::usage(folder.path()).unwrap().0);
    for i in 0..count {
        put(&mut partitions[(i % PARTITIONS) as usize], i);
        if i % EVERY == EVERY - 1 {
            write_all(&mut partitions, &writer);
        }
    }
    write_all(&mut partitions, &writer);
    let own = |s: card_update_worker::projection::ProjectionStats| s.cards_bytes + s.requests_bytes;
    report(what, "resident memory", count, resident().saturating_sub(memory));
    report(what, "memory by its own account", count, partitions.iter().map(|p| own(p.stats())).sum());
    report(what, "disk", count, StateDir::usage(folder.path()).unwrap().0 - disk);
    drop((partitions, writer));
    thread.join().unwrap();
    drop(store);
    open_again(what, count, folder.path());
}

/// How long a start takes to have all of it in memory again: sled's own part, then ours.
fn open_again(what: &str, count: u64, folder: &Path) {
    let began = Instant::now();
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&folder.join("sled")).unwrap());
    let sled = began.elapsed();
    let opened: Vec<Projection> = (0..PARTITIONS)
        .map(|p| {
            let tree = Tree::new(p as i32, store.clone(), Arc::default());
            let opened = Projection::open(tree, LogIdentity::default(), i64::MAX / 2).unwrap();
            assert!(opened.from_checkpoint);
            opened.projection
        })
        .collect();
    let ours = began.elapsed() - sled;
    let held: usize = opened.iter().map(|p| p.stats().cards + p.stats().requests).sum();
    assert_eq!(held as u64, count);
    println!(
        "{what:<8} opened: sled in {:.2} s, then {:.2} M a second, one partition after the other",
        sled.as_secs_f64(),
        count as f64 / ours.as_secs_f64() / 1e6
    );
}

/// A round of each partition, to its end.
fn write_all(partitions: &mut [Projection], writer: &Writer) {
    for projection in partitions {
        projection.begin_round(Positions::default());
        let lease = Lease::default();
        while projection.checkpoint_step(writer, &lease, &mut StepBytes::default()) != Step::Done {
            assert!(projection.last_failure().is_none());
            std::thread::yield_now();
        }
    }
}

fn report(what: &str, of: &str, count: u64, bytes: u64) {
    println!(
        "{what:<8} {of:<26} {:>6.1} B each, {:>7.1} MiB in all",
        bytes as f64 / count as f64,
        bytes as f64 / 1_048_576.0
    );
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A well-spread id for each number.
fn id(i: u64) -> String {
    let spread =
        |salt: u64| (i ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let (a, b) = (spread(0x51), spread(0xA3));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

fn accounts(i: u64) -> [StoredAccount; 2] {
    let kind = AccountType::new(b"IBAN").unwrap();
    ["USD", "EUR"].map(|currency| StoredAccount {
        account: Account {
            kind,
            currency: Currency::parse(currency).unwrap(),
            number: AccountNumber::stored(b"ES7921000813610123456789").unwrap(),
        },
        request_id: RequestId::parse(&id(i + 7)).unwrap(),
        updated_at_ms: 1_700_000_000_000 + i as i64,
        source_offset: Some(i as i64),
    })
}

fn remembered(i: u64) -> Remembered {
    let dt = Dt { at_ms: 1_700_000_000_000 + i as i64, offset: UtcOffset::parse(b"+00:00").unwrap() };
    Remembered { fingerprint: Fingerprint(u128::from(i) << 64 | u128::from(i)), dt }
}
