//! `run`: the worker.

use super::{ConfigSource, Exit, Failure};
use crate::observe::init;
use crate::worker::{Outcome, ProcessOptions, StartAt, run as run_process};
use clap::{Args, ValueEnum};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Where to go on when the group's offsets are lost
#[derive(Clone, Copy, ValueEnum)]
pub enum StartAtArg {
    /// After the greatest offset that was answered
    Answered,
    /// At the start of the topics
    Earliest,
    /// At the end of the topics
    Latest,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Go on without committed offsets; never needed but after a refusal that names it
    #[arg(long)]
    start_at: Option<StartAtArg>,
    /// Take topics that were made anew as meant; never needed but after a refusal that names it
    #[arg(long)]
    accept_new_topics: bool,
}

pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let config = args.source.load()?.config;
    init(config.log_format, config.log_level);
    let shutdown = Arc::new(AtomicBool::new(false));
    listen_for_signals(shutdown.clone())?;
    let options = ProcessOptions {
        start_at: args.start_at.map(|at| match at {
            StartAtArg::Answered => StartAt::Answered,
            StartAtArg::Earliest => StartAt::Earliest,
            StartAtArg::Latest => StartAt::Latest,
        }),
        accept_new_topics: args.accept_new_topics,
        shutdown,
        ..ProcessOptions::default()
    };
    match run_process(&config, &options) {
        Ok(Outcome::Ended) => Ok(Exit::Done),
        Err(stop) => {
            // Threads that hang, or hold the client open, must not hold the end up.
            eprintln!("card-update-worker: {stop}");
            std::process::exit(Exit::Failed as i32);
        }
    }
}

/// The first SIGTERM or SIGINT ends in order, the second at once.
pub fn listen_for_signals(shutdown: Arc<AtomicBool>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut term, mut int) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                if shutdown.swap(true, Ordering::AcqRel) {
                    std::process::exit(Exit::Failed as i32);
                }
            }
        });
    })?;
    Ok(())
}
