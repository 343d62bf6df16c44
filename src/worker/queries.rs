//! What people ask of the cards and requests of a loop, answered by the loop itself between two steps: nobody else reads its
//! projection.

use super::main_loop::Loop;
use super::partition::Partition;
use crate::domain::{CardId, Dt, RequestId, StoredAccount};
use crate::kafka::{Input, Log, Record};
use crate::wire::{Decoded, Decoder};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Questions that may wait for a loop; more are refused where they are asked.
pub const MAX_QUESTIONS: usize = 32;

/// How long a step may go on answering.
const ANSWERING: Duration = Duration::from_millis(5);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// A card's accounts.
    Card(CardId),
    /// A request's outcome.
    Request(RequestId),
}

/// What a loop knows of it.
#[derive(Clone, Debug)]
pub enum Known {
    /// The card, in a partition.
    Card(i32, Vec<StoredAccount>),
    /// The request was applied.
    Applied(i32, Dt),
    /// The request was read, and is not committed.
    InProcess(i32),
    /// Nothing.
    Nothing,
    /// The disk could not be read.
    Unreadable,
}

/// A question and where its answer goes; each loop gives one.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub asked: Asked,
    /// Where the answer goes.
    pub reply: mpsc::Sender<Known>,
}

impl<L: Log> Loop<L> {
    /// Answers questions that wait, for a moment only: commands go first, however much is asked.
    pub(super) fn answer_questions(&mut self) {
        let began = Instant::now();
        while began.elapsed() < ANSWERING
            && let Ok(question) = self.parts.questions.try_recv()
        {
            let known = match question.asked {
                Asked::Card(card_id) => self.known_card(&card_id),
                Asked::Request(id) => self.known_request(&id),
            };
            // Whoever asked may have gone.
            let _ = question.reply.try_send(known);
        }
    }

    /// Where upstreams spread a card over partitions, the one of this loop that was changed last.
    fn known_card(&self, card_id: &CardId) -> Known {
        let mut best: Option<(i64, i32, Vec<StoredAccount>)> = None;
        for (partition, running) in self.partitions.iter().filter_map(|(p, s)| Some((*p, s.running()?))) {
            let mut accounts = Vec::new();
            if !running.projection.card(card_id, &mut accounts) {
                continue;
            }
            let changed = accounts.iter().map(|a| a.updated_at_ms).max().unwrap_or(i64::MIN);
            if best.as_ref().is_none_or(|(best, ..)| *best < changed) {
                best = Some((changed, partition, accounts));
            }
        }
        best.map_or(Known::Nothing, |(_, partition, accounts)| Known::Card(partition, accounts))
    }

    fn known_request(&self, id: &RequestId) -> Known {
        let now_ms = (self.parts.clock)();
        for (partition, running) in self.partitions.iter().filter_map(|(p, s)| Some((*p, s.running()?))) {
            match running.projection.request(id, now_ms) {
                Ok(Some(remembered)) => return Known::Applied(partition, remembered.dt),
                Ok(None) => {}
                Err(_) => return Known::Unreadable,
            }
        }
        self.waiting_request(id).map_or(Known::Nothing, Known::InProcess)
    }

    /// The partition in which a request waits for its commit. Only values that hold the id's text are decoded.
    fn waiting_request(&self, id: &RequestId) -> Option<i32> {
        let mut text = [0; 36];
        let text = id.encode(&mut text).as_bytes();
        let finder = memchr::memmem::Finder::new(text);
        let mut decoder = Decoder::new(self.parts.rules.decode.clone());
        let mut is_it = |record: &Record| match decoder.decode(record.key(), record.value()) {
            Decoded::Command(command) => command.request_id == *id,
            Decoded::Rejected { request_id, .. } => request_id == *id,
            Decoded::Dead(_) => false,
        };
        let holds = |(_, record): &&(Input, Record)| record.value().is_some_and(|v| finder.find(v).is_some());
        self.batch.iter().filter(holds).find(|(_, record)| is_it(record)).map(|(_, record)| record.partition)
    }

    /// Tells what waits of each running partition: what was read, and is not committed.
    pub(super) fn report_inputs(&self) {
        let mut waiting: Vec<Waiting> = Vec::new();
        for (input, record) in &self.batch {
            let place = (record.partition, *input);
            match waiting.last_mut().filter(|w| w.place == place) {
                Some(run) => run.records += 1,
                None => waiting.push(Waiting { place, records: 1, oldest_ms: record.timestamp_ms() }),
            }
        }
        let log = &self.parts.log;
        self.parts.status.update_here(|partitions| {
            for (partition, running) in self.partitions.iter().filter_map(|(p, s)| Some((*p, s.running()?))) {
                let Some(status) = partitions.get_mut(&partition) else { continue };
                let Some(read_to) = log.read_to(partition) else { continue };
                let next = [running.next.live, running.next.backfill];
                for ((input, next), read_to) in status.inputs.iter_mut().zip(next).zip(read_to) {
                    (input.next, input.read_to) = (next.unwrap_or(input.next), Some(read_to));
                    (input.waiting, input.oldest_ms) = (0, None);
                }
                status.waits_for_disk = running.projection.must_wait_for_disk();
            }
            for run in waiting {
                let Some(status) = partitions.get_mut(&run.place.0) else { continue };
                let input = &mut status.inputs[run.place.1 as usize];
                input.waiting += run.records;
                input.oldest_ms = input.oldest_ms.or(run.oldest_ms);
            }
        });
    }

    /// Whether a partition takes no commands until the disk has followed; says so when that begins.
    pub(super) fn waits_for_disk(&mut self) -> bool {
        let waits = |r: &&super::partition::Running| r.projection.must_wait_for_disk();
        let waiting = self.partitions.values().filter_map(Partition::running).any(|r| waits(&r));
        if waiting && !self.waited_for_disk {
            tracing::error!(
                "the bound on requests that are in memory only is reached: no command is taken until the state directory can be \
                 written again; free space, then restart the worker"
            );
        }
        self.waited_for_disk = waiting;
        waiting
    }
}

/// A run of records of one input that wait.
struct Waiting {
    place: (i32, Input),
    records: u64,
    oldest_ms: Option<i64>,
}
