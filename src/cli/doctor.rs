//! `doctor`: tries what the worker needs, and says in words what to mend.

use super::{ConfigSource, Exit, Failure, Output};
use crate::observe::{LogFormat, init};
use crate::worker::{Found, examine};
use clap::Args;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let config = args.source.load()?.config;
    init(LogFormat::Auto, LevelFilter::ERROR);
    let all = examine(&config);
    let name = |found| match found {
        Found::Well => "ok",
        Found::Weak => "weak",
        Found::Broken => "broken",
    };
    match args.output {
        Output::Json => {
            let row = |e: &crate::worker::Examined| json!({ "what": e.what, "found": name(e.found), "says": e.says });
            println!("{:#}", Value::Array(all.iter().map(row).collect()));
        }
        Output::Text => {
            all.iter().for_each(|e| println!("{:<7} {:<12} {}", name(e.found), e.what, e.says));
        }
    }
    let broken = all.iter().any(|e| e.found == Found::Broken);
    Ok(if broken { Exit::Differs } else { Exit::Done })
}
