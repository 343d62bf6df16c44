//! Where replayed commands come from: ranges of a topic or lines of a file, in chunks that say how far they reach.

use super::Failed;
use super::lines::{Broken, Lines, card_of, command_of};
use super::notes::Lane;
use super::outgoing::Stamp;
use super::range::{Range, Span};
use crate::domain::CardId;
use crate::kafka::{History, HistoryStep, Outgoing, Record};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// How long a chunk is filled.
const FILL: Duration = Duration::from_millis(100);
/// Bytes of keys and values after which a chunk is full: a transaction must not outlast its time-out.
const CHUNK_BYTES: usize = 8 << 20;
/// Broken lines after which a chunk is full.
const CHUNK_BROKEN: usize = 1000;
/// Records read at once, so that a chunk of large ones stays near its bound.
const READ: usize = 500;
/// How long the reading of a topic may bring nothing, not even its end.
const STALL: Duration = Duration::from_secs(60);

/// Commands that go together, and how far the source is behind them.
#[derive(Default)]
pub struct Chunk {
    /// The commands.
    pub commands: Vec<Outgoing>,
    /// What comes next, by lane.
    pub next: BTreeMap<i32, i64>,
    /// Records that are not meant: outside the times, or of other cards.
    pub passed_over: u64,
    /// Lines to be set aside.
    pub broken: Vec<Broken>,
    /// The line that ends the replay: nothing behind it was read.
    pub stopped_at: Option<Broken>,
    /// Whether there is nothing more.
    pub ended: bool,
    /// A hash over all lines of the file up to here.
    pub digest: Option<u64>,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, out: Outgoing) {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        self.bytes += len(&out.record.key) + len(&out.record.value);
        self.commands.push(out);
    }

    fn is_full(&self, most: usize) -> bool {
        self.commands.len() >= most || self.bytes >= CHUNK_BYTES || self.broken.len() >= CHUNK_BROKEN
    }
}

/// Which cards are meant; `None` for all.
pub type Cards = Option<HashSet<CardId>>;

/// A topic's ranges.
pub struct TopicSource {
    history: History,
    range: Range,
    cards: Cards,
    stamp: Stamp,
    lanes: BTreeMap<i32, Lane>,
    /// Since when reads bring nothing.
    silent_since: Option<Instant>,
}

/// A file's lines.
pub struct LineSource {
    lines: Lines,
    cards: Cards,
    stamp: Stamp,
    default_ms: Option<i64>,
    /// Whether broken lines are set aside; else the first ends the replay.
    set_aside: bool,
}

/// Either of them.
pub enum Source {
    /// A topic.
    Topic(TopicSource),
    /// A file.
    Lines(LineSource),
}

impl Source {
    /// The next chunk of up to `most` ≥ 1 commands, perhaps an empty one.
    pub fn next(&mut self, most: usize) -> Result<Chunk, Failed> {
        match self {
            Self::Topic(topic) => topic.next(most),
            Self::Lines(lines) => lines.next(most),
        }
    }

    /// Starts to read where these lanes are: those of [`Source::lanes`], or those that an earlier run has reached.
    /// `digest` is that of the lines of a file up to there.
    pub fn start(&mut self, lanes: &BTreeMap<i32, Lane>, digest: Option<u64>) -> Result<(), Failed> {
        match self {
            Self::Topic(topic) => topic.start(lanes),
            Self::Lines(lines) => lines.skip(lanes.get(&0).map_or(0, |lane| lane.next), digest),
        }
    }

    /// Lanes of a topic that cannot go on where they are, since the log now begins later: partition, where it is, where the log
    /// begins.
    pub fn overtaken(&self, lanes: &BTreeMap<i32, Lane>) -> Result<Vec<(i32, i64, i64)>, Failed> {
        let Self::Topic(topic) = self else { return Ok(Vec::new()) };
        let mut overtaken = Vec::new();
        for (partition, lane) in lanes.iter().filter(|(_, lane)| is_open(lane)) {
            let (start, _) = topic.history.bounds(*partition)?;
            if lane.next < start {
                overtaken.push((*partition, lane.next, start));
            }
        }
        Ok(overtaken)
    }

    /// Where it begins and ends.
    pub fn lanes(&self) -> BTreeMap<i32, Lane> {
        match self {
            Self::Topic(topic) => topic.lanes.clone(),
            Self::Lines(_) => BTreeMap::from([(0, Lane { from: 0, next: 0, to: None })]),
        }
    }
}

impl TopicSource {
    /// Reads these spans of a topic.
    pub fn new(history: History, range: Range, spans: &[Span], cards: Cards, stamp: Stamp) -> Self {
        let lane = |s: &Span| (s.partition, Lane { from: s.from, next: s.from, to: Some(s.to) });
        Self { history, range, cards, stamp, lanes: spans.iter().map(lane).collect(), silent_since: None }
    }

    fn start(&mut self, lanes: &BTreeMap<i32, Lane>) -> Result<(), Failed> {
        self.lanes.clone_from(lanes);
        for (partition, lane) in self.lanes.iter().filter(|(_, lane)| is_open(lane)) {
            self.history.start(*partition, lane.next)?;
        }
        Ok(())
    }

    fn next(&mut self, most: usize) -> Result<Chunk, Failed> {
        let mut chunk = Chunk::default();
        let until = Instant::now() + FILL;
        while !chunk.is_full(most) && self.lanes.values().any(is_open) && Instant::now() < until {
            self.read(READ.min(most - chunk.commands.len()), &mut chunk)?;
        }
        chunk.next = self.lanes.iter().map(|(p, lane)| (*p, lane.next)).collect();
        chunk.ended = !self.lanes.values().any(is_open);
        self.check_stall(&chunk)?;
        Ok(chunk)
    }

    fn read(&mut self, most: usize, chunk: &mut Chunk) -> Result<(), Failed> {
        let mut steps = Vec::new();
        let read = self.history.read(FILL / 2, most, |step| steps.push(step));
        self.silent_since = if steps.is_empty() { self.silent_since.or(Some(Instant::now())) } else { None };
        for step in steps {
            match step {
                HistoryStep::Record(record) => self.record(&record, chunk),
                HistoryStep::End(partition, offset) => self.advance(partition, offset),
            }
        }
        Ok(read?)
    }

    /// A topic that brings nothing read after read, though there must be more of it.
    fn check_stall(&mut self, chunk: &Chunk) -> Result<(), Failed> {
        if chunk.ended || self.silent_since.is_none_or(|since| since.elapsed() < STALL) {
            return Ok(());
        }
        let (partition, lane) = self.lanes.iter().find(|(_, lane)| is_open(lane)).unzip();
        Err(Failed::Stop(format!(
            "{} partition {} cannot be read on at offset {} (for {} s)",
            self.history.topic(),
            partition.copied().unwrap_or_default(),
            lane.map_or(0, |l| l.next),
            STALL.as_secs()
        )))
    }

    fn record(&mut self, record: &Record, chunk: &mut Chunk) {
        let Some(lane) = self.lanes.get(&record.partition).filter(|l| is_open(l) && record.offset >= l.next) else {
            return;
        };
        let meant = lane.to.is_none_or(|to| record.offset < to);
        if meant {
            if self.range.takes_time(record.timestamp_ms()) && of_cards(&self.cards, record.key(), record.value()) {
                chunk.push(self.stamp.from_topic(record));
            } else {
                chunk.passed_over += 1;
            }
        }
        self.advance(record.partition, record.offset + 1);
    }

    /// A lane is read up to `next`, or to its end.
    fn advance(&mut self, partition: i32, next: i64) {
        let Some(lane) = self.lanes.get_mut(&partition).filter(|l| is_open(l)) else { return };
        lane.next = lane.next.max(next).min(lane.to.unwrap_or(i64::MAX));
        if !is_open(lane) {
            self.history.stop(partition);
        }
    }
}

impl LineSource {
    /// Reads lines; `set_aside` says that broken ones do not end the replay.
    pub fn new(lines: Lines, default_ms: Option<i64>, cards: Cards, stamp: Stamp, set_aside: bool) -> Self {
        Self { lines, cards, stamp, default_ms, set_aside }
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, Failed> {
        let line = self.lines.next_line();
        line.map_err(|e| Failed::Stop(format!("{}, behind line {}: {e}", self.stamp.origin(), self.lines.read)))
    }

    /// Passes over the lines that an earlier run has done, which must be the same.
    fn skip(&mut self, lines: i64, digest: Option<u64>) -> Result<(), Failed> {
        let other =
            || Failed::Misuse("the input is not the one that this replay began with: its first lines differ".into());
        while self.lines.read < lines {
            self.next_line()?.ok_or_else(other)?;
        }
        if lines > 0 && digest != Some(self.lines.digest()) { Err(other()) } else { Ok(()) }
    }

    fn next(&mut self, most: usize) -> Result<Chunk, Failed> {
        let mut chunk = Chunk::default();
        let until = Instant::now() + FILL;
        while !chunk.is_full(most) && Instant::now() < until {
            let before = (self.lines.read, self.lines.digest());
            let Some(line) = self.next_line()? else {
                chunk.ended = true;
                break;
            };
            if !self.line(line, &mut chunk) {
                chunk.next.insert(0, before.0);
                chunk.digest = Some(before.1);
                return Ok(chunk);
            }
        }
        chunk.next.insert(0, self.lines.read);
        chunk.digest = Some(self.lines.digest());
        Ok(chunk)
    }

    /// Takes a line; `false` when it ends the replay.
    fn line(&self, line: Vec<u8>, chunk: &mut Chunk) -> bool {
        if line.trim_ascii().is_empty() {
            return true;
        }
        match command_of(&line, self.lines.read, self.default_ms, &self.stamp) {
            Ok(out) if of_cards(&self.cards, out.record.key.as_deref(), out.record.value.as_deref()) => {
                chunk.push(out);
            }
            Ok(_) => chunk.passed_over += 1,
            Err(what) => {
                let broken = Broken { line: self.lines.read, what, bytes: line };
                if !self.set_aside {
                    chunk.stopped_at = Some(broken);
                    return false;
                }
                chunk.broken.push(broken);
            }
        }
        true
    }
}

fn is_open(lane: &Lane) -> bool {
    lane.to.is_none_or(|to| lane.next < to)
}

/// Whether a record is one of the cards that are meant: its key says so, or its value (a trusted upstream's keys are its own).
fn of_cards(cards: &Cards, key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
    let Some(cards) = cards else { return true };
    let key = key.and_then(|k| std::str::from_utf8(k).ok()).and_then(CardId::parse);
    key.is_some_and(|card| cards.contains(&card)) || card_of(value).is_some_and(|card| cards.contains(&card))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

    fn source(text: &str, set_aside: bool) -> Source {
        let lines = Lines::new(Cursor::new(text.as_bytes().to_vec())).unwrap();
        let stamp = Stamp::of_file("r", "f", 1);
        Source::Lines(LineSource::new(lines, Some(1), None, stamp, set_aside))
    }

    fn file() -> String {
        let good = format!("{{\"card_id\":\"{ID}\"}}");
        format!("{good}\n\nbroken\n{good}\n{good}\n")
    }

    #[test]
    fn a_broken_line_ends_the_replay_before_it_or_is_set_aside() {
        let chunk = source(&file(), false).next(10).unwrap();
        assert_eq!((chunk.commands.len(), chunk.next[&0], chunk.ended), (1, 2, false));
        assert_eq!(chunk.stopped_at.unwrap().line, 3);
        let chunk = source(&file(), true).next(10).unwrap();
        assert_eq!((chunk.commands.len(), chunk.broken.len(), chunk.next[&0], chunk.ended), (3, 1, 5, true));
        assert_eq!((chunk.broken[0].line, chunk.broken[0].bytes.as_slice()), (3, &b"broken"[..]));
    }

    #[test]
    fn a_file_is_gone_on_with_behind_the_lines_that_were_sent_and_never_another_file() {
        let first = source(&file(), true).next(1).unwrap();
        assert_eq!((first.commands.len(), first.next[&0]), (1, 1));
        let lanes = |next| BTreeMap::from([(0, Lane { from: 0, next, to: None })]);
        let mut again = source(&file(), true);
        again.start(&lanes(1), first.digest).unwrap();
        assert_eq!(again.next(10).unwrap().commands.len(), 2);
        let behind = file().replacen("card_id", "card_ID", 1);
        assert!(source(&behind, true).start(&lanes(1), first.digest).is_err(), "another first line");
        assert!(source(&file(), true).start(&lanes(9), first.digest).is_err(), "fewer lines");
    }

    #[test]
    fn a_chunk_ends_by_bytes_and_by_broken_lines_too() {
        let large = format!("{{\"card_id\":\"{ID}\",\"x\":\"{}\"}}\n", "y".repeat(1 << 20));
        let chunk = source(&large.repeat(20), true).next(100).unwrap();
        assert!(chunk.commands.len() <= 8 && !chunk.ended, "{}", chunk.commands.len());
        let chunk = source(&"broken\n".repeat(3000), true).next(100).unwrap();
        assert_eq!((chunk.broken.len(), chunk.ended), (CHUNK_BROKEN, false));
    }

    #[test]
    fn cards_are_told_by_key_or_value() {
        let cards = Some(HashSet::from([CardId::parse(ID).unwrap()]));
        let value = format!("{{\"card_id\":\"{}\"}}", ID.to_uppercase());
        assert!(of_cards(&cards, Some(ID.as_bytes()), None));
        assert!(of_cards(&cards, None, Some(value.as_bytes())));
        let customer = "5b3f8f4e-0c6e-4f0b-9c3c-0d6f5f0a0001";
        assert!(of_cards(&cards, Some(customer.as_bytes()), Some(value.as_bytes())), "another key that is a UUID");
        assert!(!of_cards(&cards, Some(b"x"), Some(b"{}")));
        assert!(of_cards(&None, None, None));
    }
}
