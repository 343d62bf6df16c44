//! Promise: what a repeated `request_id` gets, in each mode, and for how long it is remembered.

use crate::support::compare::Check;
use crate::support::generate::Random;
use crate::support::model::{Command, OnDuplicate};
use crate::support::{Ctx, Site, now_ms, wait_until};

/// The first answer again, byte for byte.
pub fn a_duplicate_is_answered_with_the_first_answer(ctx: &Ctx) {
    duplicates(ctx, "replay", OnDuplicate::Replay);
}

/// Nothing, but counted as processed.
pub fn a_duplicate_is_silent_under_suppress(ctx: &Ctx) {
    duplicates(ctx, "suppress", OnDuplicate::Suppress);
}

/// An error of its own.
pub fn a_duplicate_is_an_error_under_error(ctx: &Ctx) {
    duplicates(ctx, "error", OnDuplicate::Error);
}

/// In one batch, over two batches, over a restart; in other spellings and with other member orders.
fn duplicates(ctx: &Ctx, setting: &str, mode: OnDuplicate) {
    let site = Site::new(ctx, &format!("dup-{setting}"), 1);
    let mut random = Random(2);
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    let command = Command::update(0, &request, &card, &[("IBAN", "USD", &iban)]);
    let mut spelled = command.clone();
    let value = format!(
        "{{\"accounts\":[{{\"type\":\"IBAN\",\"iban\":\"{} {}\",\"currency\":\"\\u0055SD\"}}],\"card_id\":\"{}\",\"request_id\":\"{}\"}}",
        iban[..6].to_lowercase(),
        &iban[6..],
        card.to_uppercase(),
        request.to_uppercase()
    );
    spelled.value = Some(value.into_bytes());
    let spec = site.spec("w").text("dedup.on_duplicate", setting);

    let mut log = site.send(vec![command.clone(), command.clone(), spelled.clone()]);
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    log.extend(site.send(vec![command.clone(), spelled.clone()]));
    site.wait_processed(&mut [&mut worker], 30);
    worker.stop();
    log.extend(site.send(vec![spelled, command]));
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).on_duplicate(mode).state(&spec.state_dir).run();
}

/// Another meaning under a known id: an error, and the first outcome stays.
pub fn a_reused_id_with_other_content_conflicts_and_changes_nothing(ctx: &Ctx) {
    let site = Site::new(ctx, "conflict", 1);
    let mut random = Random(3);
    let (request, card, other_card) = (random.uuid(), random.uuid(), random.uuid());
    let (one, two) = (random.iban(), random.iban());
    let first = Command::update(0, &request, &card, &[("IBAN", "USD", &one), ("IBAN", "EUR", &two)]);
    let other_iban = Command::update(0, &request, &card, &[("IBAN", "USD", &two)]);
    let other_order = Command::update(0, &request, &card, &[("IBAN", "EUR", &two), ("IBAN", "USD", &one)]);
    let nothing = Command::update(0, &request, &card, &[]);
    let elsewhere = Command::update(0, &request, &other_card, &[("IBAN", "USD", &one), ("IBAN", "EUR", &two)]);
    let spec = site.spec("w");
    let mut log = site.send(vec![first.clone(), other_iban.clone(), first.clone()]);
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    log.extend(site.send(vec![other_order, nothing, elsewhere, other_iban, first]));
    site.wait_processed(&mut [&mut worker], 30);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// A rejected command is not remembered; its id may be used by a corrected one.
pub fn a_rejected_command_may_be_corrected_under_its_id(ctx: &Ctx) {
    let site = Site::new(ctx, "corrected", 1);
    let mut random = Random(4);
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    let good = Command::update(0, &request, &card, &[("IBAN", "USD", &iban)]);
    let mut bad = Command::update(0, &request, &card, &[("IBAN", "HRK", &iban)]);
    bad.meaning = crate::support::model::Meaning::Reject {
        request_id: request,
        card_id: Some(card),
        code: "invalid_currency",
        path: "/accounts/0/currency",
    };
    let log = site.send(vec![bad.clone(), bad.clone(), good.clone(), bad, good]);
    let spec = site.spec("w");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// The window is measured on decision time, also over a restart, and a replay does not extend it.
pub fn an_id_is_new_again_when_the_window_is_over_also_after_a_restart(ctx: &Ctx) {
    const WINDOW_MS: i64 = 4000;
    let site = Site::new(ctx, "window", 1);
    let mut random = Random(5);
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    let command = Command::update(0, &request, &card, &[("IBAN", "USD", &iban)]);
    let spec = site.spec("w").text("dedup.window", "4s");
    let mut worker = spec.start();
    let first = site.send_one(command.clone());
    // The command's own time says nothing about the window.
    let again = site.send_one(command.clone().at(now_ms() + 30_000));
    site.wait_processed(&mut [&mut worker], 60);
    let (first, again) = (site.answer_to(&first), site.answer_to(&again));
    let decided = first.timestamp.expect("a time");
    if again.timestamp.expect("a time") - decided < WINDOW_MS {
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.value, first.value);
    }
    worker.stop();
    wait_until("the window is over", 30, || now_ms() > decided + WINDOW_MS + 200);
    let mut worker = spec.start();
    let late = site.send_one(command.clone());
    site.wait_processed(&mut [&mut worker], 60);
    let late = site.answer_to(&late);
    assert_eq!(late.header("idempotent-replayed"), None, "the id is new again");
    assert_eq!(late.json()["status"], "ok");
    let decided = late.timestamp.expect("a time");
    wait_until("the window is over again", 30, || now_ms() > decided + WINDOW_MS + 200);
    let later = site.send_one(command);
    site.wait_processed(&mut [&mut worker], 30);
    assert_eq!(site.answer_to(&later).header("idempotent-replayed"), None, "also without a restart");
    worker.stop();
}

/// Within the window the memory survives a restart from the topic alone.
pub fn the_memory_survives_the_loss_of_the_state_directory(ctx: &Ctx) {
    let site = Site::new(ctx, "memory", 1);
    let mut random = Random(6);
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    let command = Command::update(0, &request, &card, &[("IBAN", "USD", &iban)]);
    let spec = site.spec("w").text("dedup.window", "1h");
    let mut log = vec![site.send_one(command.clone())];
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    std::fs::remove_dir_all(&spec.state_dir).expect("a state directory");
    log.push(site.send_one(command));
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}
