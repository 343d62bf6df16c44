//! What all threads of a process report to, and what operators look at it through.

use super::Stop;
use super::process::{end_at_once, no_thread};
use super::queries::{MAX_QUESTIONS, Question};
use super::status::Status;
use crate::config::Config;
use crate::kafka::{Figures, Watchdog};
use crate::observe::{Metrics, Shown, Traces, serve};
use crate::projection::Writer;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// One queue of questions a loop.
pub type Questions = Vec<Receiver<Question>>;

/// Handles of what observes; clones are the same.
#[derive(Clone)]
pub struct Instruments {
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub figures: Figures,
    pub watchdog: Watchdog,
    pub traces: Option<Arc<Traces>>,
    pub writer: Writer,
    writer_thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Instruments {
    /// Starts the watchdog, the writer, traces and HTTP; the loops answer what comes through the queues.
    pub fn start(config: &Config, status: Arc<Status>) -> Result<(Self, Questions), Stop> {
        let metrics = Arc::new(Metrics::new().map_err(|e| Stop(format!("metrics: {e}")))?);
        metrics.window(config.rules.window_ms);
        let watchdog = Watchdog::default();
        watchdog.start(end_at_once).map_err(no_thread)?;
        let (writer, writer_thread) = Writer::start().map_err(no_thread)?;
        let instruments = Self {
            metrics,
            status,
            figures: Figures::default(),
            watchdog,
            traces: start_traces(config)?,
            writer,
            writer_thread: Arc::new(Mutex::new(Some(writer_thread))),
        };
        let (ask, questions) = (0..config.threads).map(|_| bounded(MAX_QUESTIONS)).unzip();
        instruments.serve(config, ask)?;
        Ok((instruments, questions))
    }

    /// Serves HTTP where it is asked for.
    fn serve(&self, config: &Config, ask: Vec<Sender<Question>>) -> Result<(), Stop> {
        let Some(http) = &config.http else { return Ok(()) };
        let shown = Shown {
            metrics: self.metrics.clone(),
            status: self.status.clone(),
            writer: self.writer.stats.clone(),
            figures: self.figures.clone(),
            watchdog: self.watchdog.clone(),
            questions: http.read_api.then_some(ask),
            token: http.token.clone(),
            started: Instant::now(),
        };
        let listen = http.listen;
        let address = serve(listen, shown)
            .map_err(|e| Stop(format!("http.listen = {listen}: {e}; choose another address, or \"\" for none")))?;
        tracing::info!(%address, "HTTP listens");
        Ok(())
    }

    /// Whether the writer's thread has ended, which it never does by itself while somebody may write.
    pub fn writer_ended(&self) -> bool {
        let thread = self.writer_thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Gives the writer's thread to be waited for; it ends when the last handle of the writer is dropped.
    pub fn end_writer(self) -> JoinHandle<()> {
        let thread = self.writer_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(self);
        thread.unwrap_or_else(|| std::thread::spawn(|| ()))
    }
}

fn start_traces(config: &Config) -> Result<Option<Arc<Traces>>, Stop> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    let topics = [config.kafka.topics.commands.clone(), config.kafka.topics.backfill.clone()];
    Traces::start(endpoint, &config.kafka.group_id, topics).map(|t| Some(Arc::new(t))).map_err(Stop)
}
