//! One partition's restore: stable offsets, true ends, the checkpoint, then the logs' tails, committed records only.
//!
//! The order is what makes it right: the committed input offsets first (they wait out a predecessor's open transaction),
//! then the ends, so that every output of the inputs before those offsets lies before those ends.

use super::inputs::Answered;
use super::leases::Held;
use super::partition::Cancel;
use super::restorer::{RestoreJob, Restored, RestoredState};
use super::rules::Rules;
use super::{Stop, time};
use crate::domain::StoredAccount;
use crate::kafka::{Changelog, Fault, InputOffsets, Reader, Record};
use crate::mutation::{self, Mutation};
use crate::projection::{LogIdentity, Positions, Projection, StoreError, Tree, Writer};
use crate::wire::{decode_card, decode_first_completion};
use crossbeam_channel::Sender;
use std::time::{Duration, Instant};

/// By how much a clock may be ahead during a restore without the memory lacking anything: the day by which the topic outlives the
/// window.
const CLOCK_AHEAD_MS: i64 = 24 * 3600 * 1000;

/// Where to go on when a partition has outputs but no committed offset (`run --start-at`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// After the greatest answered offset.
    Answered,
    /// At the log's start.
    Earliest,
    /// At the log's end.
    Latest,
}

/// A log being read.
struct LogRead {
    log: Changelog,
    next: i64,
    end: i64,
    done: bool,
}

enum Mode {
    /// Reading all outputs from their start to find what was answered.
    Scan(Answered),
    /// Folding the logs into the projection.
    Fold,
}

/// A partition's restore under way.
pub struct Follower {
    pub(super) partition: i32,
    pub(super) cancel: Cancel,
    reply: Sender<Restored>,
    /// `None` once it has been handed over.
    pub(super) held: Option<Held>,
    projection: Option<Projection>,
    from_checkpoint: bool,
    /// Why a checkpoint was discarded, to be counted.
    discarded: Option<&'static str>,
    /// The greatest log ends that the checkpoint's blocks note.
    noted: Positions,
    pub(super) committed: InputOffsets,
    start: InputOffsets,
    mode: Mode,
    /// Whether it goes on reading beyond the ends, to stay warm.
    warm: bool,
    /// Whether it was warm before it was ordered.
    took_over: bool,
    /// Where an onlooker ends, if not at the logs' ends.
    limit: Option<Positions>,
    logs: Vec<LogRead>,
    accounts: Vec<StoredAccount>,
    progress: Instant,
    /// Whether there was some since: the clock is read once a turn.
    progressed: bool,
    began: Instant,
}

/// What a follower's steps work with.
pub struct Surroundings<'r, R> {
    pub reader: &'r mut R,
    pub rules: &'r Rules,
    pub identity: &'r LogIdentity,
    pub start_at: Option<StartAt>,
    pub now_ms: i64,
}

/// Why a follower ended without a result.
pub enum Failed {
    /// The same may succeed a moment later.
    Retry(String),
    /// The local state is in doubt: discard it and begin again.
    Discard(StoreError),
    /// The process ends.
    Stop(Stop),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Retry(cause) | Fault::Restore { cause, .. } => Self::Retry(cause),
            Fault::Fenced(cause) | Fault::Fatal(cause) => Self::Stop(Stop(cause)),
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Discard(error)
    }
}

impl Follower {
    /// A follower that keeps a partition of another process warm in memory; nobody waits for it and it holds no tree.
    pub fn warm(partition: i32) -> Self {
        let job = RestoreJob { partition, cancel: Cancel::default(), reply: crossbeam_channel::bounded(1).0 };
        Self { held: None, warm: true, ..Self::make(job, None, InputOffsets::default()) }
    }

    /// A follower for whoever only looks: nobody waits for it, it holds no tree, and it ends where the logs end, or at `limit`.
    pub fn onlooker(partition: i32, limit: Option<Positions>) -> Self {
        Self { warm: false, limit, ..Self::warm(partition) }
    }

    /// Begins with what a tree holds; gives why it was discarded, if it was.
    pub fn begin_from<R: Reader>(
        &mut self,
        tree: Tree,
        around: &mut Surroundings<'_, R>,
    ) -> Result<Option<&'static str>, Failed> {
        self.open(tree, around);
        self.begin_fold(around)?;
        Ok(self.discarded.take())
    }

    /// What an onlooker has read, and up to where.
    pub fn into_projection(mut self) -> Option<(Projection, Positions)> {
        let ends = self.ends();
        let mut projection = self.projection.take()?;
        projection.fold_ends(ends);
        Some((projection, ends))
    }

    fn ends(&self) -> Positions {
        let position = |log| self.logs.iter().find(|r| r.log == log).map_or(0, |r| r.next.max(r.end));
        Positions { cards: position(Changelog::Cards), completions: position(Changelog::Completions) }
    }

    /// Begins in memory with nothing.
    pub fn begin_warm<R: Reader>(&mut self, tree: Tree, around: &mut Surroundings<'_, R>) -> Result<(), Failed> {
        let identity = around.identity.clone();
        self.projection = Some(Projection::empty(tree, identity, around.rules.window_ms));
        self.begin_fold(around)
    }

    /// A warm follower becomes the restore of a job: only the tail is left to read.
    pub fn take_over<R: Reader>(
        &mut self,
        (held, committed): (Held, InputOffsets),
        tree: Tree,
        around: &mut Surroundings<'_, R>,
    ) -> Result<(), Failed> {
        (self.held, self.committed, self.warm) = (Some(held), committed, false);
        (self.began, self.progress, self.took_over) = (time::now(), time::now(), true);
        if committed.live.is_none() || committed.backfill.is_none() {
            return Err(Failed::Retry(
                "the committed offsets are lost; the warm state does not tell what was answered".into(),
            ));
        }
        self.start = self.check_inputs(committed, around)?;
        if let Some(projection) = &mut self.projection {
            projection.move_to(tree);
        }
        for read in &mut self.logs {
            let (_, end) = around.reader.bounds(read.log, self.partition)?;
            if read.next > end {
                return Err(Failed::Retry("a log ends before what was read of it".into()));
            }
            (read.end, read.done) = (end, read.next >= end);
        }
        Ok(())
    }

    /// The order that a warm follower now works for.
    pub fn serve(&mut self, job: RestoreJob) {
        (self.cancel, self.reply) = (job.cancel, job.reply);
    }

    /// Lets full blocks of requests go to disk while the log is folded, so that few are in memory only.
    pub fn spill(&mut self, writer: &Writer) {
        if let (Some(projection), Some(held)) = (&mut self.projection, &self.held) {
            projection.expire();
            projection.spill_step(writer, held.lease());
        }
    }

    /// The thread stood still for so long: that is no stall.
    pub fn was_blocked(&mut self, so_long: Duration) {
        self.progress = (self.progress + so_long).min(time::now());
    }

    /// Forgets what has expired while it is warm.
    pub fn expire(&mut self) {
        if let Some(projection) = &mut self.projection {
            projection.expire_in_memory();
        }
    }

    /// A follower that holds the tree and knows the partition's stable offsets.
    pub fn new(job: RestoreJob, held: Held, committed: InputOffsets) -> Self {
        Self::make(job, Some(held), committed)
    }

    fn make(job: RestoreJob, held: Option<Held>, committed: InputOffsets) -> Self {
        Self {
            partition: job.partition,
            cancel: job.cancel,
            reply: job.reply,
            held,
            projection: None,
            from_checkpoint: false,
            discarded: None,
            noted: Positions::default(),
            committed,
            start: InputOffsets::default(),
            mode: Mode::Fold,
            warm: false,
            took_over: false,
            limit: None,
            logs: Vec::new(),
            accounts: Vec::new(),
            progress: time::now(),
            progressed: false,
            began: time::now(),
        }
    }

    /// The job again, to be tried anew.
    pub fn into_job(self) -> RestoreJob {
        RestoreJob { partition: self.partition, cancel: self.cancel, reply: self.reply }
    }

    /// Begins: where the inputs go on, or what must be found out for that; then the state.
    pub fn begin<R: Reader>(&mut self, tree: Tree, around: &mut Surroundings<'_, R>) -> Result<(), Failed> {
        self.open(tree, around);
        let complete = self.committed.live.is_some() && self.committed.backfill.is_some();
        if complete {
            self.start = self.check_inputs(self.committed, around)?;
            return self.begin_fold(around);
        }
        let logs = [Changelog::Completions, Changelog::DeadLetters, Changelog::Cards];
        for log in logs {
            let (start, end) = around.reader.bounds(log, self.partition)?;
            self.read(log, start, end, around.reader)?;
        }
        let topics = [around.rules.commands_topic.clone(), around.rules.backfill_topic.clone()];
        self.mode = Mode::Scan(Answered { topics, last: [None; 2], records: 0 });
        Ok(())
    }

    fn open<R>(&mut self, tree: Tree, around: &Surroundings<'_, R>) {
        let (identity, window_ms) = (around.identity.clone(), around.rules.window_ms);
        match Projection::open(tree.clone(), identity.clone(), window_ms) {
            Ok(opened) => {
                self.from_checkpoint = opened.from_checkpoint;
                self.noted = opened.noted_ends;
                self.projection = Some(opened.projection);
            }
            Err(error) => {
                tracing::warn!(partition = self.partition, %error, "the local state is discarded and restored from Kafka");
                self.discarded = Some("damaged");
                self.projection = Some(Projection::empty(tree, identity, window_ms));
            }
        }
    }

    /// Folding begins: each log from the checkpoint (or where it starts to matter) to its true end.
    fn begin_fold<R: Reader>(&mut self, around: &mut Surroundings<'_, R>) -> Result<(), Failed> {
        self.mode = Mode::Fold;
        self.logs.clear();
        let cards = around.reader.bounds(Changelog::Cards, self.partition)?;
        let completions = around.reader.bounds(Changelog::Completions, self.partition)?;
        self.doubt(cards, completions, around);
        let Some(projection) = &self.projection else { return Ok(()) };
        let at = projection.positions();
        let missed = i64::from(mutation::on(Mutation::RestoreFromNextRecord));
        let cards_from = if self.from_checkpoint { at.cards + missed } else { cards.0 };
        let mut completions_from = at.completions.max(completions.0);
        // A checkpoint's tail is read whole: it is short, and no clock decides what it lacks.
        if !self.from_checkpoint && completions_from < completions.1 {
            let oldest_ms = around.now_ms - around.rules.window_ms - CLOCK_AHEAD_MS;
            let window = around.reader.offset_at(Changelog::Completions, self.partition, oldest_ms)?;
            completions_from = completions_from.max(window.unwrap_or(completions.1));
        }
        let ends = self.limit.unwrap_or(Positions { cards: cards.1, completions: completions.1 });
        let ends = self.mistaken_ends(ends, around);
        self.read(Changelog::Cards, cards_from, ends.cards, around.reader)?;
        self.read(Changelog::Completions, completions_from, ends.completions, around.reader)
    }

    /// Where a restore ends, with a deliberate bug: elsewhere.
    fn mistaken_ends<R: Reader>(&self, ends: Positions, around: &mut Surroundings<'_, R>) -> Positions {
        if !mutation::on(Mutation::EndFromReadCommitted) {
            return ends;
        }
        let mut stable = |log| around.reader.last_stable_offset(log, self.partition).unwrap_or(0);
        Positions { cards: stable(Changelog::Cards), completions: stable(Changelog::Completions) }
    }

    /// A checkpoint beyond a log's end, or before the cards log's start, belongs to another log.
    fn doubt<R>(&mut self, cards: (i64, i64), completions: (i64, i64), around: &Surroundings<'_, R>) {
        let Some(projection) = &self.projection else { return };
        let (at, noted) = (projection.positions(), self.noted);
        let beyond = noted.cards.max(at.cards) > cards.1 || noted.completions.max(at.completions) > completions.1;
        let trimmed = self.from_checkpoint && at.cards < cards.0;
        if (!beyond && !trimmed) || mutation::on(Mutation::IgnoreLogsEnd) {
            return;
        }
        let (reason, why) = match beyond {
            true => ("ahead_of_log", "it is ahead of the logs"),
            false => ("trimmed", "the cards log was trimmed behind it"),
        };
        self.discarded = Some(reason);
        tracing::warn!(partition = self.partition, why, "the local state is discarded and restored from Kafka");
        let (tree, identity) = (projection.tree().clone(), around.identity.clone());
        self.projection = Some(Projection::empty(tree, identity, around.rules.window_ms));
        self.from_checkpoint = false;
    }

    fn read(&mut self, log: Changelog, from: i64, end: i64, reader: &mut impl Reader) -> Result<(), Failed> {
        let done = !self.warm && from >= end;
        if !done {
            reader.start(log, self.partition, from)?;
        }
        self.logs.push(LogRead { log, next: from, end, done });
        Ok(())
    }

    /// Takes a record of one of the logs.
    pub fn record(&mut self, log: Changelog, record: &Record) -> Result<(), Failed> {
        let next = record.offset + 1;
        let Some(read) = self.logs.iter_mut().find(|r| r.log == log && !r.done && r.next <= record.offset) else {
            return Ok(());
        };
        let beyond = self.limit.is_some() && record.offset >= read.end;
        read.next = next;
        read.done = !self.warm && next >= read.end;
        self.progressed = true;
        if beyond {
            return Ok(());
        }
        match &mut self.mode {
            Mode::Scan(answered) => answered.note(log, record),
            Mode::Fold => self.fold(log, record, next)?,
        }
        Ok(())
    }

    fn fold(&mut self, log: Changelog, record: &Record, next: i64) -> Result<(), Failed> {
        let Some(projection) = &mut self.projection else { return Ok(()) };
        let foreign = |what: String| {
            let (partition, offset) = (record.partition, record.offset);
            Failed::Stop(Stop(format!(
                "the {log:?} topic, partition {partition}, offset {offset}: {what}. Only the worker may write there; \
                 remove the writer, then restore the topic or start with new topics"
            )))
        };
        match log {
            Changelog::Cards => {
                let card_id = decode_card(record.key(), record.value(), &mut self.accounts);
                let card_id = card_id.map_err(|e| foreign(e.to_string()))?;
                projection.fold_card(&card_id, &self.accounts, next);
            }
            Changelog::Completions => {
                let at_ms = record.timestamp_ms().unwrap_or(0);
                let first = decode_first_completion(record.headers(), record.value(), at_ms);
                projection.fold_completion(first.map_err(|e| foreign(e.to_string()))?, at_ms, next)?;
            }
            Changelog::DeadLetters => {}
        }
        Ok(())
    }

    /// Takes the end of one of the logs: done where it is not before the true end.
    pub fn end(&mut self, log: Changelog, offset: i64) {
        let Some(read) = self.logs.iter_mut().find(|r| r.log == log && !r.done) else { return };
        if offset > read.next {
            read.next = offset;
            self.progressed = true;
        }
        read.done = !self.warm && offset >= read.end;
    }

    /// Why its checkpoint was discarded, if it was and nobody has asked yet.
    pub fn take_discarded(&mut self) -> Option<&'static str> {
        self.discarded.take()
    }

    /// Where the inputs will go on, as far as that is known.
    pub const fn start(&self) -> InputOffsets {
        self.start
    }

    /// Up to where the cards and completions logs were read.
    pub fn read_to(&self) -> [i64; 2] {
        [Changelog::Cards, Changelog::Completions]
            .map(|log| self.logs.iter().find(|r| r.log == log).map_or(0, |r| r.next))
    }

    /// Records that are left to read, roughly.
    pub fn remaining(&self) -> u64 {
        self.logs.iter().filter(|r| !r.done).map(|r| (r.end - r.next).max(0) as u64).sum()
    }

    /// Goes on when all logs are read: from the scan to the fold, from the fold to the end.
    pub fn advance<R: Reader>(&mut self, around: &mut Surroundings<'_, R>) -> Result<bool, Failed> {
        self.check_stall(around)?;
        let passed_over = |r: &LogRead| mutation::on(Mutation::RestoreCardsOnly) && r.log == Changelog::Completions;
        if self.logs.iter().any(|r| !r.done && !passed_over(r)) {
            return Ok(false);
        }
        self.stop_reading(around.reader);
        match std::mem::replace(&mut self.mode, Mode::Fold) {
            Mode::Fold => Ok(true),
            Mode::Scan(answered) => {
                self.start = self.lost_offsets(&answered, around)?;
                self.begin_fold(around)?;
                Ok(false)
            }
        }
    }

    /// Ends the reading of all logs.
    pub fn stop_reading(&self, reader: &mut impl Reader) {
        self.logs.iter().for_each(|r| reader.stop(r.log, self.partition));
    }

    fn check_stall<R: Reader>(&mut self, around: &mut Surroundings<'_, R>) -> Result<(), Failed> {
        if std::mem::take(&mut self.progressed) {
            self.progress = time::now();
        }
        let timeout = around.rules.restore_stall_timeout;
        if time::since(self.progress) <= timeout {
            return Ok(());
        }
        let Some(read) = self.logs.iter().find(|r| !r.done) else { return Ok(()) };
        let stable = around.reader.last_stable_offset(read.log, self.partition);
        let (partition, log, end) = (self.partition, read.log, read.end);
        Err(Failed::Stop(Stop(format!(
            "the restore of partition {partition} has made no progress for {} s: the {log:?} topic can be read to offset {} \
             (its last stable offset is {}) of {end}. A transaction may hang: find it with `kafka-transactions.sh find-hanging`",
            timeout.as_secs(),
            read.next,
            stable.map_or("unknown".to_owned(), |o| o.to_string()),
        ))))
    }

    /// The result, once [`Follower::advance`] has said that all is read.
    pub fn finish(mut self) {
        let ends = self.ends();
        let (Some(mut projection), Some(held)) = (self.projection.take(), self.held.take()) else { return };
        projection.fold_ends(ends);
        let state = RestoredState {
            round_due: !self.from_checkpoint,
            projection,
            held,
            live: self.start.live.unwrap_or(0),
            backfill: self.start.backfill.unwrap_or(0),
            committed: self.committed,
        };
        let from = match (self.took_over, self.from_checkpoint) {
            (true, _) => "standby",
            (_, true) => "checkpoint",
            _ => "Kafka alone",
        };
        tracing::info!(
            partition = self.partition,
            from,
            cards = state.projection.stats().cards,
            requests = state.projection.stats().requests,
            seconds = time::since(self.began).as_secs_f32(),
            "partition restored"
        );
        // A loop that has ended drops the state, and with it the lease.
        let _ = self.reply.send(Restored { partition: self.partition, cancel: self.cancel, result: Ok(state) });
    }

    /// Where the state came from; the label `result` of the metric.
    pub const fn kind(&self) -> &'static str {
        if self.from_checkpoint { "checkpoint" } else { "full" }
    }

    /// Tells the loop that the process must end.
    pub fn fail(self, stop: Stop) {
        let _ = self.reply.send(Restored { partition: self.partition, cancel: self.cancel, result: Err(stop) });
    }
}
