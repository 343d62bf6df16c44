//! Decode, decide, stage: from a batch of records to the records of its transaction, without input or output.
//!
//! Decisions read the batch's own staged changes first, then the projection. One card record per card and batch: the last.

use super::batch::{PartitionChanges, StagedBatch};
use super::rules::{BackfillCompletions, Rules};
use super::tally::{CommandResult, Tally};
use crate::domain::{
    Answer, CardId, Command, DeadReason, Dt, Fingerprint, Origin, Patched, Remembered, RequestId, StoredAccount,
    Verdict, decide,
};
use crate::kafka::{Input, Record};
use crate::mutation::{self, Mutation};
use crate::projection::{Projection, StoreError};
use crate::wire::{
    DeadRecord, Decoded, Decoder, Omit, OutTopic, Outbox, REPLAY_SOURCE, Source, completion, dead_letter, encode_card,
    pass_through,
};
use hashbrown::HashMap;
use std::sync::Arc;

/// Most output of one partition in a transaction: a second produce request would wait for the first (measured).
pub const MAX_PARTITION_OUTPUT_BYTES: usize = 900_000;
/// Decision time held back by more than this is logged and counted.
const CLAMP_NOTICED_MS: i64 = 1000;

/// A record of the batch, by where it stood.
pub type Place = (Input, i32, i64);

/// A card as the batch has changed it so far.
struct StagedCard {
    card_id: CardId,
    accounts: Vec<StoredAccount>,
    /// The last record that changed it.
    input: usize,
}

#[derive(Default)]
struct PartitionStage {
    changes: PartitionChanges,
    cards: Vec<StagedCard>,
    card_index: HashMap<CardId, usize>,
    requests: HashMap<RequestId, Remembered>,
    now_ms: i64,
    output_bytes: usize,
}

/// Stages batches, reusing its memory.
pub struct Stager {
    rules: Arc<Rules>,
    decoder: Decoder,
    outbox: Outbox,
    partitions: HashMap<i32, PartitionStage>,
    card: Vec<StoredAccount>,
    scratch: Vec<u8>,
    tally: Tally,
}

/// Which of the waiting records a batch takes.
struct Taken {
    marks: Vec<bool>,
    count: usize,
    bytes: usize,
}

impl Taken {
    fn new(records: usize) -> Self {
        Self { marks: vec![false; records], count: 0, bytes: 0 }
    }
    fn mark(&mut self, index: usize, bytes: usize) {
        self.marks[index] = true;
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Where a command stands and when it is decided.
#[derive(Clone, Copy)]
struct At {
    index: usize,
    input: Input,
    now: Dt,
}

impl Stager {
    /// A stager for these rules.
    pub fn new(rules: Arc<Rules>) -> Self {
        let decoder = Decoder::new(rules.decode.clone());
        Self {
            rules,
            decoder,
            outbox: Outbox::default(),
            partitions: HashMap::new(),
            card: Vec::new(),
            scratch: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The records to write for the batch that was staged last.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Stages as many of the records as fit one transaction: a partition whose output is full waits with all that follows
    /// of it. `refused` are those that must be answered without what the broker would not take, `most` how many are taken.
    /// `now_ms` is read once a batch.
    pub fn stage<'p>(
        &mut self,
        records: &[(Input, Record)],
        projection_of: impl Fn(i32) -> Option<&'p Projection>,
        (refused, most): (&HashMap<Place, Omit>, usize),
        now_ms: i64,
    ) -> Result<StagedBatch, (i32, StoreError)> {
        self.outbox.clear();
        self.partitions.clear();
        self.tally = Tally::default();
        let mut taken = Taken::new(records.len());
        for (index, (input, record)) in records.iter().enumerate() {
            if taken.count >= most || taken.bytes >= self.rules.batch_max_bytes {
                break;
            }
            // A record of a partition that is not this loop's is never decided (INV-6).
            let Some(projection) = projection_of(record.partition) else {
                taken.mark(index, 0);
                continue;
            };
            let stage = self.partition(record.partition, projection, now_ms);
            if stage.output_bytes > MAX_PARTITION_OUTPUT_BYTES {
                continue;
            }
            let now = Dt { at_ms: stage.now_ms, offset: self.rules.utc_offset };
            let at = At { index, input: *input, now };
            let before = self.outbox.size();
            let omit = refused.get(&(*input, record.partition, record.offset)).copied();
            self.record(record, projection, omit, at).map_err(|e| (record.partition, e))?;
            self.advance(record, *input, before);
            taken.mark(index, record.size());
        }
        Ok(self.finish(taken.marks))
    }

    fn partition(&mut self, partition: i32, projection: &Projection, now_ms: i64) -> &mut PartitionStage {
        let tally = &mut self.tally;
        self.partitions.entry(partition).or_insert_with(|| {
            let decided_ms = projection.decision_time_ms(now_ms);
            if decided_ms - now_ms > CLAMP_NOTICED_MS {
                tally.clamped += 1;
            }
            let changes = PartitionChanges { partition, decided_ms, ..PartitionChanges::default() };
            PartitionStage { changes, now_ms: decided_ms, ..PartitionStage::default() }
        })
    }

    fn advance(&mut self, record: &Record, input: Input, before: usize) {
        let bytes = self.outbox.size() - before;
        let Some(stage) = self.partitions.get_mut(&record.partition) else { return };
        stage.output_bytes += bytes;
        let next = Some(record.offset + i64::from(!mutation::on(Mutation::CommitLastOffset)));
        match input {
            Input::Live => stage.changes.next.live = next,
            Input::Backfill if mutation::on(Mutation::OmitBackfillOffset) => {}
            Input::Backfill => stage.changes.next.backfill = next,
        }
    }

    fn record(
        &mut self,
        record: &Record,
        projection: &Projection,
        omit: Option<Omit>,
        at: At,
    ) -> Result<(), StoreError> {
        // Taken out while it decodes: the command borrows it, and deciding needs the rest of `self`.
        let mut decoder = std::mem::take(&mut self.decoder);
        let decided = match decoder.decode(record.key(), record.value()) {
            Decoded::Dead(reason) => {
                self.bury(record, (reason, omit.unwrap_or_default()), at);
                Ok(())
            }
            // Answerable, but the broker does not take the answer.
            _ if let Some(omit) = omit => {
                self.bury(record, (DeadReason::PayloadTooLarge, omit), at);
                Ok(())
            }
            Decoded::Rejected { request_id, card_id, rejection } => {
                let answer = Answer { request_id, card_id, dt: at.now, result: Err(rejection), replayed: false };
                self.tally.count(at.input, CommandResult::Rejected);
                self.tally.reject(rejection.code);
                self.answer(record, &answer, at);
                Ok(())
            }
            Decoded::Command(command) => self.command(record, &command, projection, at),
        };
        self.decoder = decoder;
        decided
    }

    fn command(
        &mut self,
        record: &Record,
        command: &Command<'_>,
        projection: &Projection,
        at: At,
    ) -> Result<(), StoreError> {
        let fingerprint = Fingerprint::of(&command.card_id, command.accounts, &mut self.scratch);
        let Some(stage) = self.partitions.get(&record.partition) else { return Ok(()) };
        let staged = stage.requests.get(&command.request_id);
        let remembered = match staged.filter(|_| !mutation::on(Mutation::BatchBlindRequests)) {
            Some(staged) => Some(*staged),
            None => projection.request(&command.request_id, at.now.at_ms)?,
        };
        let staged = stage.card_index.get(&command.card_id);
        match staged.filter(|_| !mutation::on(Mutation::BatchBlindCards)) {
            Some(index) => self.card.clone_from(&stage.cards[*index].accounts),
            None => drop(projection.card(&command.card_id, &mut self.card)),
        }
        let origin = self.origin(record, at);
        let on_duplicate = self.rules.on_duplicate;
        let verdict = decide(command, fingerprint, &origin, remembered, on_duplicate, at.now, &mut self.card);
        self.verdict(record, command, fingerprint, verdict, at);
        Ok(())
    }

    fn verdict(&mut self, record: &Record, command: &Command<'_>, fingerprint: Fingerprint, verdict: Verdict, at: At) {
        let only_applied =
            at.input == Input::Backfill && self.rules.backfill_completions == BackfillCompletions::Applied;
        match verdict {
            Verdict::Applied(answer, patched) => {
                self.tally.count(at.input, CommandResult::Applied);
                if let Some(stage) = self.partitions.get_mut(&record.partition) {
                    let remembered = Remembered { fingerprint, dt: at.now };
                    stage.requests.insert(command.request_id, remembered);
                    stage.changes.requests.push((command.request_id, remembered));
                    if patched == Patched::Changed {
                        stage.put_card(&command.card_id, &self.card, at.index);
                    }
                }
                self.answer(record, &answer, at);
            }
            Verdict::Replayed(_) if only_applied => self.tally.count(at.input, CommandResult::Suppressed),
            Verdict::Replayed(answer) => {
                self.tally.count(at.input, CommandResult::Replayed);
                self.answer(record, &answer, at);
            }
            Verdict::Suppressed => self.tally.count(at.input, CommandResult::Suppressed),
            Verdict::Rejected(answer, rejection) => {
                let result = CommandResult::of(rejection.code);
                if only_applied && result == CommandResult::Stale {
                    self.tally.count(at.input, CommandResult::Suppressed);
                    return;
                }
                self.tally.count(at.input, result);
                self.tally.reject(rejection.code);
                self.answer(record, &answer, at);
            }
        }
    }

    fn origin(&self, record: &Record, at: At) -> Origin {
        let timestamp_ms = record.timestamp_ms().unwrap_or(at.now.at_ms);
        match at.input {
            Input::Backfill if mutation::on(Mutation::NoStaleCheck) => {
                Origin::Live { offset: record.offset, timestamp_ms }
            }
            Input::Live => Origin::Live { offset: record.offset, timestamp_ms },
            Input::Backfill => Origin::Backfill { replayed_offset: self.replayed_offset(record), timestamp_ms },
        }
    }

    /// The place in the commands topic that a replay carries; positions of another log are not comparable.
    fn replayed_offset(&self, record: &Record) -> Option<i64> {
        let header = record.headers().find(|(name, _)| *name == REPLAY_SOURCE)?.1?;
        let source = Source::parse(header)?;
        let ours = source.topic == self.rules.commands_topic && source.partition == record.partition;
        ours.then_some(source.offset)
    }

    fn answer(&mut self, record: &Record, answer: &Answer, at: At) {
        let source = source(&self.rules, record, at.input);
        completion(answer, &source, record.key(), at.now.at_ms, at.index, &mut self.outbox);
        pass_through(record.headers(), &mut self.outbox);
        self.outbox.end();
        if let Some(stage) = self.partitions.get_mut(&record.partition) {
            stage.changes.answers += 1;
        }
    }

    fn bury(&mut self, record: &Record, (reason, omit): (DeadReason, Omit), at: At) {
        self.tally.count(at.input, CommandResult::DeadLetter);
        self.tally.bury(reason);
        let source = source(&self.rules, record, at.input);
        let dead = DeadRecord { source, timestamp_ms: record.timestamp_ms(), key: record.key(), value: record.value() };
        dead_letter(&dead, record.headers(), (reason, omit), at.now.at_ms, at.index, &mut self.outbox);
    }

    /// Adds the card records and hands the changes over.
    fn finish(&mut self, taken: Vec<bool>) -> StagedBatch {
        let mut changes = Vec::with_capacity(self.partitions.len());
        let mut stages: Vec<_> = self.partitions.drain().collect();
        // The order of a hash table is another one at each run.
        stages.sort_unstable_by_key(|(partition, _)| *partition);
        for (partition, mut stage) in stages {
            for card in stage.cards {
                self.outbox.begin(OutTopic::Cards, partition, stage.now_ms, card.input);
                self.outbox.key(Some(card.card_id.encode(&mut [0; 36]).as_bytes()));
                self.outbox.value_with(|out| encode_card(&card.card_id, &card.accounts, out));
                self.outbox.end();
                stage.changes.cards.push((card.card_id, card.accounts));
            }
            changes.push(stage.changes);
        }
        StagedBatch { changes, tally: std::mem::take(&mut self.tally), taken }
    }
}

fn source<'s>(rules: &'s Rules, record: &Record, input: Input) -> Source<'s> {
    let topic = match input {
        Input::Live => &rules.commands_topic,
        Input::Backfill => &rules.backfill_topic,
    };
    Source { topic, partition: record.partition, offset: record.offset }
}

/// Bytes of an account in a card record, roughly; enough to keep a partition's output in bounds.
const ACCOUNT_BYTES: usize = 150;

impl PartitionStage {
    fn put_card(&mut self, card_id: &CardId, accounts: &[StoredAccount], input: usize) {
        let fresh = self.cards.len();
        let index = *self.card_index.entry(*card_id).or_insert(fresh);
        if index == fresh {
            self.cards.push(StagedCard { card_id: *card_id, accounts: accounts.to_vec(), input });
            self.output_bytes += ACCOUNT_BYTES * (accounts.len() + 1);
        } else {
            let card = &mut self.cards[index];
            card.accounts.clear();
            card.accounts.extend_from_slice(accounts);
            card.input = input;
        }
    }
}
