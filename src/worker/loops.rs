//! The loops' threads: each joins the group, steps until it is told to end, and reports why it ended.

use super::Stop;
use super::instruments::{Instruments, Questions};
use super::main_loop::{Loop, LoopParts};
use super::process::{FIRST_CONTACT, now_ms, stop};
use super::queries::Question;
use super::restorer::RestoreJob;
use super::rules::Rules;
use crate::config::Config;
use crate::kafka::{ClientSettings, Ends, Fault, GroupLog, Identity, Slot};
use crate::projection::StateDir;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause between attempts to join while Kafka does not answer.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// What every loop is made from.
#[derive(Clone)]
pub struct LoopSeed {
    pub kafka: ClientSettings,
    pub identity: Identity,
    pub rules: Arc<Rules>,
    pub jobs: Sender<RestoreJob>,
    pub instruments: Instruments,
    pub ends: Ends,
    pub stop: Arc<AtomicBool>,
    pub failures: Sender<Stop>,
    /// Set when a loop has failed and is about to leave the group.
    pub leaving: Arc<AtomicBool>,
    pub end_timeout: Duration,
}

/// Starts as many loops as are configured.
pub fn start_loops(
    config: &Config,
    seed: &LoopSeed,
    questions: Questions,
    state: &StateDir,
) -> std::io::Result<Vec<JoinHandle<Result<(), Stop>>>> {
    let instance = config.instance_id.clone().unwrap_or_else(|| state.instance().to_string());
    let start = |(number, questions): (usize, Receiver<Question>)| {
        let name = format!("{}-{instance}-{number}", config.kafka.group_id);
        let group_instance_id = config.instance_id.as_ref().map(|_| name.clone());
        let seed = LoopSeed { identity: Identity { group_instance_id, transactional_id: name }, ..seed.clone() };
        std::thread::Builder::new().name(format!("loop-{number}")).spawn(move || run_loop(number, seed, questions))
    };
    questions.into_iter().enumerate().map(start).collect()
}

fn run_loop(number: usize, seed: LoopSeed, questions: Receiver<Question>) -> Result<(), Stop> {
    let failures = seed.failures.clone();
    // Told before anything is dropped: whatever a client does at its end, the process ends. The main thread listens as long as it lives.
    let leaving = seed.leaving.clone();
    let told = |stop: Stop| {
        leaving.store(true, Ordering::Release);
        let _ = failures.send(stop.clone());
        stop
    };
    let Some(the_loop) = start_loop(number, &seed, questions).map_err(told)? else { return Ok(()) };
    drive(the_loop, &seed, told)
}

/// Joins the group; `None` when the end is asked for first.
fn start_loop(number: usize, seed: &LoopSeed, questions: Receiver<Question>) -> Result<Option<Loop<GroupLog>>, Stop> {
    let slot = seed.instruments.watchdog.loop_slot(&format!("loop-{number}"));
    let Some(log) = join(seed, &slot)? else { return Ok(None) };
    let instruments = seed.instruments.clone();
    Ok(Some(Loop::new(LoopParts {
        log,
        rules: seed.rules.clone(),
        restores: seed.jobs.clone(),
        writer: instruments.writer,
        status: instruments.status,
        metrics: instruments.metrics,
        traces: instruments.traces,
        questions,
        clock: now_ms,
    })))
}

fn drive(mut the_loop: Loop<GroupLog>, seed: &LoopSeed, told: impl Fn(Stop) -> Stop) -> Result<(), Stop> {
    while !seed.stop.load(Ordering::Acquire) {
        the_loop.step().map_err(&told)?;
    }
    the_loop.end(seed.end_timeout).map_err(&told)
}

/// Joins the group, trying again while the brokers are away, within a limit; `None` when the end is asked for first.
fn join(seed: &LoopSeed, slot: &Slot) -> Result<Option<GroupLog>, Stop> {
    let deadline = Instant::now() + FIRST_CONTACT;
    let figures = &seed.instruments.figures;
    loop {
        match GroupLog::join(&seed.kafka, &seed.identity, seed.ends.clone(), slot.clone(), figures) {
            Err(Fault::Retry(_)) if seed.stop.load(Ordering::Acquire) => return Ok(None),
            Err(Fault::Retry(cause)) if Instant::now() < deadline => {
                tracing::warn!(cause, "waiting for Kafka");
                std::thread::park_timeout(JOIN_PAUSE);
            }
            other => return other.map(Some).map_err(stop),
        }
    }
}
