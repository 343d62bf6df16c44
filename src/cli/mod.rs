//! The program's surface: one file per subcommand.
//!
//! Owns arguments, what is printed, and exit codes. It must never hold a rule of its own.

mod config;
mod dead_letters;
mod demo;
mod doctor;
mod progress;
mod rehearse;
mod replay;
mod replay_source;
mod run;
mod send;
mod shell;
mod state;
mod table;
mod topics;

use crate::backfill::Failed;
use crate::config::{ConfigError, Layered, load};
use crate::kafka::Fault;
use crate::worker::Stop;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit codes: done, failed, used wrongly, unhealthy or different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Used wrongly.
    Usage = 2,
    /// Unhealthy, or not as it should be.
    Differs = 3,
}

/// A line for the person, and the exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    line: String,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Usage, line: error.to_string() }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self { exit: Exit::Failed, line: stop.to_string() }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { exit: Exit::Failed, line: fault.to_string() }
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        let exit = if let Failed::Misuse(_) = failed { Exit::Usage } else { Exit::Failed };
        Self { exit, line: failed.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { exit: Exit::Failed, line: error.to_string() }
    }
}

impl Failure {
    fn usage(line: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, line: line.into() }
    }
}

/// Applies card-update commands from Kafka to a local projection; each command gets exactly one answer.
#[derive(Parser)]
#[command(version, name = "card-update-worker", max_term_width = 120)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the worker
    #[command(after_help = "Example: card-update-worker run --config worker.toml --set worker.instance_id=worker-0")]
    Run(run::RunArgs),
    /// Show the whole thing on an in-process Kafka; needs nothing
    #[command(after_help = "Example: card-update-worker demo --commands 5000")]
    Demo(demo::DemoArgs),
    /// Send commands as an upstream does
    #[command(
        after_help = "Example: card-update-worker send --card 019ab688-bef2-72c4-6a29-d0e08be76d95 --account ES7921000813610123456789:USD --wait"
    )]
    Send(send::SendArgs),
    /// Send history through the backfill topic, or only say what would become of it
    #[command(after_help = "Example: card-update-worker replay --from 2025-01-01T00:00:00Z --id january --dry-run")]
    Replay(Box<replay::ReplayArgs>),
    /// Look at dead letters, and send them again
    #[command(after_help = "Example: card-update-worker dead-letters list --reason malformed_json")]
    DeadLetters(dead_letters::DeadLettersArgs),
    /// The local projection: look into it, hold it against Kafka, drop it
    #[command(after_help = "Example: card-update-worker state card 019ab688-bef2-72c4-6a29-d0e08be76d95")]
    State(state::StateArgs),
    /// The topics that the worker needs against those there are
    #[command(after_help = "Example: card-update-worker topics apply --partitions 12 --replication-factor 3")]
    Topics(topics::TopicsArgs),
    /// The configuration: validate, print, schema
    #[command(after_help = "Example: card-update-worker config print --config worker.toml")]
    Config(config::ConfigArgs),
    /// Try what the worker needs: Kafka, topics, rights, clock, disk, memory, files
    #[command(after_help = "Example: card-update-worker doctor --config worker.toml")]
    Doctor(doctor::DoctorArgs),
    /// Print the completion script of a shell
    #[command(after_help = "Example: card-update-worker completions bash > /etc/bash_completion.d/card-update-worker")]
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    #[command(after_help = "Example: card-update-worker man | man -l -")]
    Man(shell::ManArgs),
}

/// Where the configuration comes from.
#[derive(Args, Clone)]
struct ConfigSource {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one value; wins over environment and file
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
}

impl ConfigSource {
    fn load(&self) -> Result<Layered, ConfigError> {
        // A variable that is not Unicode cannot be one of ours.
        let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        load(self.config.as_deref(), environment, &self.sets)
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person
    #[default]
    Text,
    /// For a program
    Json,
}

/// Runs the program.
pub fn main() -> ExitCode {
    end_quietly_on_a_closed_pipe();
    let program = Program::parse();
    let ended = match program.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::DeadLetters(args) => dead_letters::run(&args),
        Command::State(args) => state::run(&args),
        Command::Topics(args) => topics::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    };
    match ended {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            eprintln!("card-update-worker: {}", failure.line);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// A reader that has seen enough (`… | head`) is no defect to report.
fn end_quietly_on_a_closed_pipe() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let closed = panic.payload_as_str().is_some_and(|text| text.contains("printing to stdout: Broken pipe"));
        if closed {
            std::process::exit(Exit::Done as i32);
        }
        report(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent_and_every_command_has_an_example() {
        let command = Program::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example: card-update-worker "), "{}", sub.get_name());
        }
    }
}
