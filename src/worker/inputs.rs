//! Where a restored partition's inputs go on: the committed offsets held against the logs, and what to do when they are lost.
//!
//! It must never guess: what cannot be told from the logs stops the process with the choice that an operator has.

use super::Stop;
use super::restore::{Failed, Follower, StartAt, Surroundings};
use super::rules::{OnTrimmed, Rules};
use crate::kafka::{Changelog, Input, InputOffsets, Reader, Record};
use crate::wire::{SOURCE, Source};

/// What the outputs say was answered, gathered when offsets are lost.
pub struct Answered {
    /// The names of the inputs.
    pub topics: [String; 2],
    /// The greatest source offset by input.
    pub last: [Option<i64>; 2],
    /// Committed records seen, of any output.
    pub records: u64,
}

impl Follower {
    /// Holds offsets against the inputs: below the start, records are gone; beyond the end, it is another log.
    pub(super) fn check_inputs<R: Reader>(
        &self,
        at: InputOffsets,
        around: &mut Surroundings<'_, R>,
    ) -> Result<InputOffsets, Failed> {
        Ok(InputOffsets {
            live: Some(self.check_input(Input::Live, at.live, around)?),
            backfill: Some(self.check_input(Input::Backfill, at.backfill, around)?),
        })
    }

    fn check_input<R: Reader>(
        &self,
        input: Input,
        at: Option<i64>,
        around: &mut Surroundings<'_, R>,
    ) -> Result<i64, Failed> {
        let (start, end) = around.reader.input_bounds(input, self.partition)?;
        let at = at.unwrap_or(start);
        let (topic, partition) = (topic_of(around.rules, input), self.partition);
        if at > end {
            return Err(Failed::Stop(Stop(format!(
                "{topic} partition {partition} ends at offset {end}, but offset {at} is committed: it was truncated or made anew. \
                 Find out what happened to it; to take it as new, delete the group's offsets and use `run --start-at`"
            ))));
        }
        if at >= start {
            return Ok(at);
        }
        if around.rules.on_trimmed == OnTrimmed::Fail {
            return Err(Failed::Stop(Stop(format!(
                "{topic} partition {partition}: offsets {at} to {} were deleted before they were processed (the topic now starts at \
                 {start}). Send those commands again, then set ingest.on_trimmed = \"skip\" for one start",
                start - 1
            ))));
        }
        tracing::error!(
            topic,
            partition,
            from = at,
            to = start - 1,
            "commands were deleted unprocessed; they are skipped as configured"
        );
        Ok(start)
    }

    /// No committed offset: the first start, or offsets that were lost, in which case only an operator can say how to go on.
    pub(super) fn lost_offsets<R: Reader>(
        &self,
        answered: &Answered,
        around: &mut Surroundings<'_, R>,
    ) -> Result<InputOffsets, Failed> {
        let live = self.lost_offset(Input::Live, self.committed.live, answered, around)?;
        let backfill = self.lost_offset(Input::Backfill, self.committed.backfill, answered, around)?;
        let offsets = InputOffsets { live: Some(live), backfill: Some(backfill) };
        if answered.records > 0 {
            tracing::warn!(
                partition = self.partition,
                live,
                backfill,
                "committed offsets are lost; the inputs go on here"
            );
        }
        self.check_inputs(offsets, around)
    }

    fn lost_offset<R: Reader>(
        &self,
        input: Input,
        committed: Option<i64>,
        answered: &Answered,
        around: &mut Surroundings<'_, R>,
    ) -> Result<i64, Failed> {
        if let Some(offset) = committed {
            return Ok(offset);
        }
        let (start, end) = around.reader.input_bounds(input, self.partition)?;
        let last = answered.last[input as usize];
        // Of the live input any output is evidence of an earlier run; of the backfill input only answers to it.
        let first_start = match input {
            Input::Live => answered.records == 0,
            Input::Backfill => last.is_none(),
        };
        if first_start {
            return Ok(start);
        }
        match around.start_at {
            Some(StartAt::Answered) => Ok(last.map_or(start, |last| (last + 1).max(start))),
            Some(StartAt::Earliest) => Ok(start),
            Some(StartAt::Latest) => Ok(end),
            None => {
                self.check_unchanged(around)?;
                Err(Failed::Stop(Stop(self.lost_message(input, last, (start, end), around.rules))))
            }
        }
    }

    /// Whoever was taken for dead for a while may have missed the first commit of another.
    fn check_unchanged<R: Reader>(&self, around: &mut Surroundings<'_, R>) -> Result<(), Failed> {
        let now = around.reader.committed(&[self.partition])?;
        if now.iter().all(|(_, offsets)| *offsets == self.committed) {
            return Ok(());
        }
        Err(Failed::Retry("offsets were committed while the answers were read".into()))
    }

    fn lost_message(&self, input: Input, last: Option<i64>, (start, end): (i64, i64), rules: &Rules) -> String {
        let (topic, partition) = (topic_of(rules, input), self.partition);
        let last = last.map_or("no answer found".to_owned(), |o| format!("the last answered offset found is {o}"));
        format!(
            "{topic} partition {partition} has outputs but no committed offset: it expired or was deleted. The topic holds \
             offsets {start} to {end}; {last}. Go on with `run --start-at answered` (or earliest, latest)"
        )
    }
}

fn topic_of(rules: &Rules, input: Input) -> &str {
    match input {
        Input::Live => &rules.commands_topic,
        Input::Backfill => &rules.backfill_topic,
    }
}

impl Answered {
    /// Takes an output into account.
    pub fn note(&mut self, log: Changelog, record: &Record) {
        self.records += 1;
        let source = match log {
            Changelog::Completions => source_of_completion(record),
            Changelog::DeadLetters => source_of_dead_letter(record),
            Changelog::Cards => None,
        };
        let Some((topic, offset)) =
            source.filter(|(_, partition, _)| *partition == record.partition).map(|(t, _, o)| (t, o))
        else {
            return;
        };
        for (input, name) in self.topics.iter().enumerate() {
            if *name == topic {
                self.last[input] = self.last[input].max(Some(offset));
            }
        }
    }
}

fn source_of_completion(record: &Record) -> Option<(String, i32, i64)> {
    let value = record.headers().find(|(name, _)| *name == SOURCE)?.1?;
    Source::parse(value).map(|s| (s.topic.to_owned(), s.partition, s.offset))
}

/// The worker's own headers stand after the original ones, so the last of a name is meant.
fn source_of_dead_letter(record: &Record) -> Option<(String, i32, i64)> {
    let text = |wanted: &str| {
        let value = record.headers().filter(|(name, _)| *name == wanted).last()?.1?;
        std::str::from_utf8(value).ok()
    };
    Some((text("dlq-topic")?.to_owned(), text("dlq-partition")?.parse().ok()?, text("dlq-offset")?.parse().ok()?))
}
