//! Decode, decide, stage: from a batch of records to the records of its transaction, without input or output.
//!
//! Decisions read the batch's own staged changes first, then the projection. One card record per card and batch: the last.

use super::batch::{ChangedCard, CommittedBatch, PartitionChanges, StagedBatch};
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

/// Changes whose memory is kept for a next batch: more would add up where a process has many partitions.
const KEPT_CHANGES: usize = 16;

/// Accounts for which memory is kept with them at most.
const KEPT_ACCOUNTS: usize = 32 * 1024;

/// A partition's part of the batch so far.
struct PartitionStage {
    changes: PartitionChanges,
    output_bytes: usize,
}

/// What the batch has changed so far, by where it is found: the number of its partition in the batch, and its id.
#[derive(Default)]
struct Staged {
    /// Places among the partition's changed cards.
    cards: HashMap<(usize, CardId), usize>,
    requests: HashMap<(usize, RequestId), Remembered>,
}

/// Stages batches, reusing its memory.
pub struct Stager {
    rules: Arc<Rules>,
    decoder: Decoder,
    outbox: Outbox,
    /// The records of the batch that was staged last; its client may hold them too.
    staged_records: Arc<Outbox>,
    partitions: Vec<PartitionStage>,
    /// The place of each partition in the list.
    numbers: HashMap<i32, usize>,
    /// The last partition and its place.
    last: Option<(i32, usize)>,
    staged: Staged,
    /// Changes of former batches, kept for their memory.
    kept: Vec<PartitionChanges>,
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
    /// The number of its partition in the batch.
    number: usize,
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
            staged_records: Arc::default(),
            partitions: Vec::new(),
            numbers: HashMap::new(),
            last: None,
            staged: Staged::default(),
            kept: Vec::new(),
            card: Vec::new(),
            scratch: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The records to write for the batch that was staged last.
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.staged_records
    }

    /// Takes a batch that is done with back, for its memory.
    pub(super) fn reuse(&mut self, done: CommittedBatch) {
        let room = KEPT_CHANGES.saturating_sub(self.kept.len());
        let usual = done.into_changes().into_iter().filter(|c| c.accounts.capacity() <= KEPT_ACCOUNTS);
        self.kept.extend(usual.take(room));
    }

    /// Stages as many of the records as fit one transaction: a partition whose output is full waits with all that follows
    /// of it. `refused` are those that must be answered without what the broker would not take, `most` how many are taken.
    /// `now_ms` is read once a batch.
    pub fn stage<'p>(
        &mut self,
        records: &[(Input, Record)],
        projection_of: impl Fn(i32) -> Option<&'p Projection>,
        limits: (&HashMap<Place, Omit>, usize),
        now_ms: i64,
    ) -> Result<StagedBatch, (i32, StoreError)> {
        // Memory that a client may still read is left to it.
        self.outbox = Arc::try_unwrap(std::mem::take(&mut self.staged_records)).unwrap_or_default();
        self.outbox.clear();
        self.partitions.clear();
        self.numbers.clear();
        self.last = None;
        self.staged.cards.clear();
        self.staged.requests.clear();
        self.tally = Tally::default();
        // Taken out meanwhile: a command borrows it, and deciding needs the rest of `self`.
        let mut decoder = std::mem::take(&mut self.decoder);
        let taken = self.records(&mut decoder, records, projection_of, limits, now_ms);
        self.decoder = decoder;
        taken.map(|taken| self.finish(taken.marks))
    }

    fn records<'p>(
        &mut self,
        decoder: &mut Decoder,
        records: &[(Input, Record)],
        projection_of: impl Fn(i32) -> Option<&'p Projection>,
        (refused, most): (&HashMap<Place, Omit>, usize),
        now_ms: i64,
    ) -> Result<Taken, (i32, StoreError)> {
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
            let number = self.number(record.partition, projection, now_ms);
            let stage = &self.partitions[number];
            if stage.output_bytes > MAX_PARTITION_OUTPUT_BYTES {
                continue;
            }
            let now = Dt { at_ms: stage.changes.decided_ms, offset: self.rules.utc_offset };
            let at = At { index, number, input: *input, now };
            let before = self.outbox.size();
            let omit = refused.get(&(*input, record.partition, record.offset)).copied();
            self.record(decoder, record, projection, omit, at).map_err(|e| (record.partition, e))?;
            self.advance(record, at, before);
            taken.mark(index, record.size());
        }
        Ok(taken)
    }

    /// The partition's number in this batch. Records come in runs of one partition.
    fn number(&mut self, partition: i32, projection: &Projection, now_ms: i64) -> usize {
        if let Some((last, number)) = self.last
            && last == partition
        {
            return number;
        }
        let number = self.look_up_number(partition, projection, now_ms);
        self.last = Some((partition, number));
        number
    }

    fn look_up_number(&mut self, partition: i32, projection: &Projection, now_ms: i64) -> usize {
        let fresh = self.partitions.len();
        let number = *self.numbers.entry(partition).or_insert(fresh);
        if number == fresh {
            let decided_ms = projection.decision_time_ms(now_ms);
            if decided_ms - now_ms > CLAMP_NOTICED_MS {
                self.tally.clamped += 1;
            }
            let changes = self.kept.pop().unwrap_or_default().anew(partition, decided_ms);
            self.partitions.push(PartitionStage { changes, output_bytes: 0 });
        }
        number
    }

    fn advance(&mut self, record: &Record, at: At, before: usize) {
        let stage = &mut self.partitions[at.number];
        stage.output_bytes += self.outbox.size() - before;
        let next = Some(record.offset + i64::from(!mutation::on(Mutation::CommitLastOffset)));
        match at.input {
            Input::Live => stage.changes.next.live = next,
            Input::Backfill if mutation::on(Mutation::OmitBackfillOffset) => {}
            Input::Backfill => stage.changes.next.backfill = next,
        }
    }

    fn record(
        &mut self,
        decoder: &mut Decoder,
        record: &Record,
        projection: &Projection,
        omit: Option<Omit>,
        at: At,
    ) -> Result<(), StoreError> {
        match decoder.decode(record.key(), record.value()) {
            Decoded::Dead(reason) => self.bury(record, (reason, omit.unwrap_or_default()), at),
            // Answerable, but the broker does not take the answer.
            _ if let Some(omit) = omit => self.bury(record, (DeadReason::PayloadTooLarge, omit), at),
            Decoded::Rejected { request_id, card_id, rejection } => {
                let answer = Answer { request_id, card_id, dt: at.now, result: Err(rejection), replayed: false };
                self.tally.count(at.input, CommandResult::Rejected);
                self.tally.reject(rejection.code);
                self.answer(record, &answer, at);
            }
            Decoded::Command(command) => self.command(record, &command, projection, at)?,
        }
        Ok(())
    }

    fn command(
        &mut self,
        record: &Record,
        command: &Command<'_>,
        projection: &Projection,
        at: At,
    ) -> Result<(), StoreError> {
        let fingerprint = Fingerprint::of(&command.card_id, command.accounts, &mut self.scratch);
        let staged = self.staged.requests.get(&(at.number, command.request_id));
        let remembered = match staged.filter(|_| !mutation::on(Mutation::BatchBlindRequests)) {
            Some(staged) => Some(*staged),
            None => projection.request(&command.request_id, at.now.at_ms)?,
        };
        let staged = self.staged.cards.get(&(at.number, command.card_id));
        match staged.filter(|_| !mutation::on(Mutation::BatchBlindCards)) {
            Some(place) => {
                let changes = &self.partitions[at.number].changes;
                self.card.clear();
                self.card.extend_from_slice(&changes.accounts[changes.cards[*place].accounts.clone()]);
            }
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
                let remembered = Remembered { fingerprint, dt: at.now };
                self.staged.requests.insert((at.number, command.request_id), remembered);
                self.partitions[at.number].changes.requests.push((command.request_id, remembered));
                if patched == Patched::Changed {
                    self.put_card(command.card_id, at);
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
        self.partitions[at.number].changes.answers += 1;
    }

    /// Stages the card as it was decided.
    fn put_card(&mut self, card_id: CardId, at: At) {
        let PartitionStage { changes, output_bytes, .. } = &mut self.partitions[at.number];
        let fresh = changes.cards.len();
        let place = *self.staged.cards.entry((at.number, card_id)).or_insert(fresh);
        if place == fresh {
            *output_bytes += ACCOUNT_BYTES * (self.card.len() + 1);
            changes.cards.push(ChangedCard { card_id, accounts: 0..0, input: at.index });
        }
        let changed = &mut changes.cards[place];
        changed.input = at.index;
        if changed.accounts.len() == self.card.len() {
            changes.accounts[changed.accounts.clone()].copy_from_slice(&self.card);
        } else {
            if changed.accounts.end == changes.accounts.len() {
                // The card that changed last grows where it is.
                changes.accounts.truncate(changed.accounts.start);
            }
            let start = changes.accounts.len();
            changed.accounts = start..start + self.card.len();
            changes.accounts.extend_from_slice(&self.card);
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
        let mut stages: Vec<_> = self.partitions.drain(..).collect();
        stages.sort_unstable_by_key(|stage| stage.changes.partition);
        for PartitionStage { changes, .. } in &stages {
            for card in &changes.cards {
                self.outbox.begin(OutTopic::Cards, changes.partition, changes.decided_ms, card.input);
                self.outbox.key(Some(card.card_id.encode(&mut [0; 36]).as_bytes()));
                let accounts = &changes.accounts[card.accounts.clone()];
                self.outbox.value_with(|out| encode_card(&card.card_id, accounts, out));
                self.outbox.end();
            }
        }
        self.staged_records = Arc::new(std::mem::take(&mut self.outbox));
        let changes = stages.into_iter().map(|stage| stage.changes).collect();
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
