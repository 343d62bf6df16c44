//! A replay: chunk after chunk of the source into the backfill topic, each with the note of how far the source is, in one
//! transaction.
//!
//! After a kill at any moment the same id goes on behind the last chunk that was committed: nothing is left out, nothing is
//! sent twice while the notes are kept (`offsets.retention.minutes` of the broker after the last chunk). It must never touch
//! the group's own offsets.

use super::Failed;
use super::lines::Broken;
use super::notes::{MAX_NOTE_BYTES, Progress};
use super::own::Own;
use super::pace::Pace;
use super::source::{Chunk, Source};
use super::workers::Workers;
use crate::kafka::{Note, Sender};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Commands of a transaction; live commands share the brokers with it.
const CHUNK: usize = 1000;
/// Pause while the rate or the workers allow nothing.
const PAUSE: Duration = Duration::from_millis(5);

/// How a replay goes about it.
pub struct Manner {
    /// Commands a second; 0 for no limit.
    pub rate: u64,
    /// Commands that may be sent and not yet processed.
    pub max_in_flight: u64,
    /// Where broken lines go; without, the first ends the replay.
    pub rejects: Option<Box<dyn Write>>,
    /// Set to end after the chunk under way.
    pub stop: Arc<AtomicBool>,
}

/// What a person sees meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Commands sent, those of earlier runs of this id included.
    pub sent: u64,
    /// Positions of the source that are done.
    pub done: u64,
    /// Of how many; `None` where that is not known.
    pub of: Option<u64>,
    /// Whether it waits for the workers.
    pub waiting: bool,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything is sent.
    Sent,
    /// It was told to stop; the same id goes on.
    Interrupted,
    /// A broken line ended it; everything before is sent.
    Broken(Broken),
}

/// A replay under way.
pub struct Replay {
    /// The group that its notes stand under.
    pub group: String,
    /// The backfill topic.
    pub topic: String,
    /// The producer.
    pub sender: Sender,
    /// Tells how far the workers are.
    pub workers: Workers,
    /// Where the commands come from.
    pub source: Source,
    /// How it goes about it.
    pub manner: Manner,
    /// How far it is.
    pub progress: Progress,
    /// The places of its commands.
    pub own: Own,
    /// Records that were not meant.
    pub passed_over: u64,
    /// Lines that were set aside.
    pub set_aside: u64,
}

impl Replay {
    /// Runs until everything is sent, or it is stopped; `see` is called now and then.
    pub fn run(&mut self, see: &mut dyn FnMut(Seen)) -> Result<Ended, Failed> {
        let mut pace = Pace::new(self.manner.rate, Instant::now());
        loop {
            if self.manner.stop.load(Ordering::Acquire) {
                return Ok(Ended::Interrupted);
            }
            let room = self.room()?;
            let most = pace.allows(Instant::now()).min(room).min(CHUNK);
            see(self.seen(room == 0));
            if most == 0 {
                std::thread::park_timeout(PAUSE);
                continue;
            }
            let mut chunk = self.source.next(most)?;
            pace.took(chunk.commands.len());
            // Before the chunk is noted as done: a line that is set aside twice after a kill is no harm, one that is lost is.
            self.set_aside += set_aside(&chunk.broken, &mut self.manner.rejects)?;
            self.send(&chunk)?;
            match chunk.stopped_at.take() {
                Some(broken) => return Ok(Ended::Broken(broken)),
                None if chunk.ended => return Ok(Ended::Sent),
                None => {}
            }
        }
    }

    fn seen(&self, waiting: bool) -> Seen {
        let lanes = self.progress.lanes.values();
        let of = lanes.clone().map(|lane| lane.to.map(|to| (to - lane.from) as u64)).sum();
        let done = lanes.map(|lane| (lane.next - lane.from) as u64).sum();
        Seen { sent: self.progress.sent(), done, of, waiting }
    }

    /// Sends a chunk with its notes; one that only passed records over is noted with the next.
    fn send(&mut self, chunk: &Chunk) -> Result<(), Failed> {
        for (lane, next) in &chunk.next {
            if let Some(lane) = self.progress.lanes.get_mut(lane) {
                lane.next = *next;
                lane.to = lane.to.or(chunk.ended.then_some(*next));
            }
        }
        self.progress.digest = chunk.digest.or(self.progress.digest);
        self.passed_over += chunk.passed_over;
        if chunk.commands.is_empty() && !chunk.ended {
            return Ok(());
        }
        for out in &chunk.commands {
            if let Some(sent) = self.progress.sent.get_mut(out.partition as usize) {
                *sent += 1;
            }
        }
        let notes = notes(&self.progress)?;
        let offsets = self.sender.send(&chunk.commands, &self.group, &self.topic, &notes)?;
        chunk.commands.iter().zip(offsets).for_each(|(out, offset)| self.own.add(out.partition, offset));
        Ok(())
    }

    /// How many commands may be sent now: 0 while as many as allowed wait for the workers.
    fn room(&mut self) -> Result<usize, Failed> {
        let (sent, most) = (self.own.count(), self.manner.max_in_flight);
        // While fewer were sent than may wait, nobody need be asked.
        let in_flight = if sent < most { sent } else { sent - self.workers.processed(&self.own)? };
        if in_flight >= most {
            self.workers.check_patience()?;
            return Ok(0);
        }
        self.workers.reset_patience();
        Ok((most - in_flight) as usize)
    }
}

/// Sets lines aside as they came; gives how many.
pub fn set_aside(broken: &[Broken], rejects: &mut Option<Box<dyn Write>>) -> Result<u64, Failed> {
    let Some(rejects) = rejects.as_mut().filter(|_| !broken.is_empty()) else { return Ok(0) };
    for line in broken {
        rejects.write_all(&line.bytes)?;
        rejects.write_all(b"\n")?;
        tracing::warn!(line = line.line, what = line.what, "a line is set aside");
    }
    rejects.flush()?;
    Ok(broken.len() as u64)
}

/// The notes of a replay's progress, each within what the broker takes.
pub fn notes(progress: &Progress) -> Result<Vec<Note>, Failed> {
    let note = |((partition, text), sent): ((i32, String), &u64)| {
        if text.len() > MAX_NOTE_BYTES {
            return Err(Failed::Misuse(
                "the source has too many partitions for one replay: replay some at a time (--partition)".into(),
            ));
        }
        Ok(Note { partition, number: *sent as i64, text })
    };
    (0..).zip(progress.notes()).zip(&progress.sent).map(note).collect()
}
