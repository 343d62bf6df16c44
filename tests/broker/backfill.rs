//! Promise: replayed history touches only what is older, account by account; live commands are never stale.

use serde_json::{Value, json};

use crate::support::client::Record;
use crate::support::generate::Random;
use crate::support::model::Command;
use crate::support::worker::{Spec, Worker};
use crate::support::{Ctx, Site, now_ms};

/// One card, its worker, and short ways to send and look.
struct Bench {
    site: Site,
    spec: Spec,
    worker: Worker,
    random: Random,
    card: String,
}

impl Bench {
    fn new(ctx: &Ctx, name: &str, change: impl FnOnce(Spec) -> Spec) -> Bench {
        let site = Site::new(ctx, name, 1);
        let spec = change(site.spec("w"));
        let worker = spec.start();
        let mut random = Random(600);
        let card = random.uuid();
        Bench { site, spec, worker, random, card }
    }

    /// A command that sets these (currency, number) accounts.
    fn command(&mut self, accounts: &[(&str, &str)], at: i64) -> Command {
        let accounts: Vec<_> = accounts.iter().map(|(currency, number)| ("IBAN", *currency, *number)).collect();
        Command::update(0, &self.random.uuid(), &self.card, &accounts).at(at)
    }

    fn live(&mut self, command: Command) -> Command {
        let sent = self.site.send_one(command);
        self.site.wait_processed(&mut [&mut self.worker], 60);
        sent
    }

    /// Sends one backfill command and returns its completions.
    fn backfill(&mut self, command: Command) -> Vec<Record> {
        let sent = self.site.send_backfill(vec![command]).remove(0);
        self.site.wait_backfilled(&mut [&mut self.worker], 60);
        let source = format!("{}/0/{}", self.site.topics.backfill, sent.offset);
        self.site.completions().into_iter().filter(|r| r.header("source") == Some(&source)).collect()
    }

    /// A command as replayed from this position of the commands topic.
    fn replayed(&self, command: Command, offset: i64) -> Command {
        let source = format!("{}/0/{offset}", self.site.topics.commands);
        command.header("replay-source", &source)
    }

    fn accounts(&self) -> Value {
        let last = self.site.read(&self.site.topics.cards).pop().expect("a card record");
        last.json()["accounts"].clone()
    }
}

fn verdict(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|r| {
            let body = r.json();
            let code = body.pointer("/error/code").and_then(Value::as_str);
            code.or(body["status"].as_str()).expect("a status").to_string()
        })
        .collect()
}

/// By source position, account by account, whatever the timestamps say.
pub fn a_replay_is_stale_by_its_source_position(ctx: &Ctx) {
    let mut b = Bench::new(ctx, "position", |spec| spec);
    let [one, two, three] = [(); 3].map(|()| b.random.iban());
    let t = now_ms();
    let usd = b.command(&[("USD", &one)], t);
    let usd = b.live(usd);
    let eur = b.command(&[("EUR", &one)], t - 60_000);
    let eur = b.live(eur);
    assert_eq!((usd.offset, eur.offset), (0, 1));

    // The same position as the stored one is stale, though its time is later.
    let command = b.command(&[("USD", &two)], t + 5000);
    let command = b.replayed(command, 0);
    assert_eq!(verdict(&b.backfill(command)), ["stale_command"]);
    let command = b.command(&[("EUR", &two), ("USD", &two)], t + 5000);
    let command = b.replayed(command, 0);
    assert_eq!(verdict(&b.backfill(command)), ["stale_command"]);

    // Later in the log, though its time is earlier: USD is older than 1, EUR is not.
    let command = b.command(&[("USD", &two), ("EUR", &two)], t - 90_000);
    let command = b.replayed(command, 1);
    let request = request_of(&command);
    assert_eq!(verdict(&b.backfill(command)), ["ok"]);
    let stored = |n: &str, c: &str, r: &str, t: i64, o: i64| json!({ "iban": n, "currency": c, "type": "IBAN", "request_id": r, "updated_at": t, "source_offset": o });
    let wanted =
        json!([stored(&one, "EUR", &request_of(&eur), t - 60_000, 1), stored(&two, "USD", &request, t - 90_000, 1)]);
    assert_eq!(b.accounts(), wanted, "an applied account gets the replayed position");

    // An account that is not there cannot be newer.
    let command = b.command(&[("GBP", &three), ("USD", &three)], t - 99_000);
    let command = b.replayed(command, 0);
    assert_eq!(verdict(&b.backfill(command)), ["ok"]);
    let accounts = b.accounts();
    assert_eq!(accounts[2]["currency"], "GBP");
    assert_eq!(accounts[1]["iban"], two.as_str());

    // Of two entries of one request the later wins: a command is not stale against itself.
    let command = b.command(&[("CHF", &one), ("CHF", &two)], t - 99_000);
    let command = b.replayed(command, 0);
    assert_eq!(verdict(&b.backfill(command)), ["ok"]);
    assert_eq!(b.accounts()[3]["iban"], two.as_str());
    let nothing = b.command(&[], t - 99_000);
    assert_eq!(verdict(&b.backfill(nothing)), ["ok"], "an empty command is not stale");
    b.worker.stop();
    b.worker = b.spec.start();
    let command = b.command(&[("USD", &one)], t);
    let command = b.replayed(command, 1);
    assert_eq!(verdict(&b.backfill(command)), ["stale_command"], "positions survive a restart");
    b.worker.stop();
}

/// Without a position: by time; equal times lose against live, not against backfill.
pub fn a_backfill_from_elsewhere_is_stale_by_its_timestamp(ctx: &Ctx) {
    let mut b = Bench::new(ctx, "time", |spec| spec);
    let [one, two, three] = [(); 3].map(|()| b.random.iban());
    let t = now_ms() - 10_000;
    let command = b.command(&[("USD", &one)], t);
    b.live(command);
    for (at, wanted) in [(t - 1, "stale_command"), (t, "stale_command"), (t + 1, "ok")] {
        let command = b.command(&[("USD", &two)], at);
        assert_eq!(verdict(&b.backfill(command)), [wanted], "{} ms against live", at - t);
    }
    let accounts = b.accounts();
    assert_eq!(accounts[0]["iban"], two.as_str());
    assert_eq!(accounts[0]["updated_at"], t + 1);
    assert!(accounts[0].get("source_offset").is_none(), "it came from elsewhere: {accounts}");
    for (at, wanted) in [(t, "stale_command"), (t + 1, "ok")] {
        let command = b.command(&[("USD", &three)], at);
        assert_eq!(verdict(&b.backfill(command)), [wanted], "{} ms against backfill", at - t - 1);
    }
    assert_eq!(b.accounts()[0]["iban"], three.as_str());

    // A position helps only against a position.
    let command = b.command(&[("USD", &one)], t);
    let command = b.replayed(command, 1000);
    assert_eq!(verdict(&b.backfill(command)), ["stale_command"]);

    // Live is never stale.
    let command = b.command(&[("USD", &one)], t - 50_000);
    let live = b.live(command);
    assert_eq!(b.site.answer_to(&live).json()["status"], "ok");
    assert_eq!(b.accounts()[0]["updated_at"], t - 50_000);
    b.worker.stop();
}

/// Idempotency holds across the two inputs, and rejections and dead letters are answered as for live.
pub fn a_backfilled_command_is_answered_like_a_live_one(ctx: &Ctx) {
    let mut b = Bench::new(ctx, "alike", |spec| spec);
    let iban = b.random.iban();
    let t = now_ms();
    let command = b.command(&[("USD", &iban)], t);
    let live = b.live(command.clone());
    let again = b.backfill(command);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].header("idempotent-replayed"), Some("true"));
    assert_eq!(again[0].value, b.site.answer_to(&live).value);
    let bad = b.command(&[("USD", "ES00")], t);
    assert_eq!(verdict(&b.backfill(bad)), ["invalid_iban"]);
    let mut dead = b.command(&[], t);
    dead.value = Some(b"{".to_vec());
    assert!(b.backfill(dead).is_empty());
    let letters = b.site.read(&b.site.topics.dead_letters);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].header("dlq-topic"), Some(b.site.topics.backfill.as_str()));
    assert_eq!(letters[0].header("dlq-reason"), Some("malformed_json"));
    b.worker.stop();
}

/// `backfill.completions = "applied"`: stale and replayed ones are silent, the rest is answered.
pub fn only_applied_backfill_is_answered_where_so_configured(ctx: &Ctx) {
    let mut b = Bench::new(ctx, "applied", |spec| spec.text("backfill.completions", "applied"));
    let [one, two] = [(); 2].map(|()| b.random.iban());
    let t = now_ms();
    let first = b.command(&[("USD", &one)], t);
    b.live(first.clone());
    assert!(b.backfill(first).is_empty(), "a duplicate is silent");
    let stale = b.command(&[("USD", &two)], t - 1);
    assert!(b.backfill(stale).is_empty(), "a stale one is silent");
    let newer = b.command(&[("USD", &two)], t + 1);
    assert_eq!(verdict(&b.backfill(newer)), ["ok"]);
    let bad = b.command(&[("HRK", &two)], t + 1);
    assert_eq!(verdict(&b.backfill(bad)), ["invalid_currency"]);
    let live = b.command(&[("EUR", &one)], t);
    let live = b.live(live);
    assert_eq!(b.site.answer_to(&live).json()["status"], "ok");
    b.worker.stop();
}

fn request_of(command: &Command) -> String {
    let value: Value = serde_json::from_slice(command.value.as_deref().expect("a value")).expect("JSON");
    value["request_id"].as_str().expect("an id").to_string()
}
