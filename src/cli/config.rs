//! `config`: validate, print the effective values with their origins, print the schema.

use super::table::table;
use super::{ConfigSource, Exit, Failure, Output};
use crate::config::{Raw, misuse};
use clap::{Args, Subcommand};
use serde_json::json;

#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Validate; exit code 3 when it is not valid
    Check(Shown),
    /// Print every value and where it came from; secrets are redacted
    Print(Shown),
    /// Print the JSON Schema of the file
    Schema,
}

#[derive(Args)]
struct Shown {
    #[command(flatten)]
    source: ConfigSource,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &ConfigArgs) -> Result<Exit, Failure> {
    match &args.action {
        Action::Check(shown) => check(shown),
        Action::Print(shown) => print(shown),
        Action::Schema => {
            println!("{:#}", schemars::schema_for!(Raw).to_value());
            Ok(Exit::Done)
        }
    }
}

fn check(shown: &Shown) -> Result<Exit, Failure> {
    if let Some(error) = misuse(shown.source.config.as_deref(), &shown.source.sets) {
        return Err(error.into());
    }
    let outcome = shown.source.load();
    let (valid, problem) = match &outcome {
        Ok(_) => (true, None),
        Err(error) => (false, Some(error.to_string())),
    };
    match (shown.output, &problem) {
        (Output::Json, _) => println!("{}", json!({ "valid": valid, "problem": problem })),
        (Output::Text, None) => println!("the configuration is valid"),
        (Output::Text, Some(problem)) => println!("{problem}"),
    }
    Ok(if valid { Exit::Done } else { Exit::Differs })
}

fn print(shown: &Shown) -> Result<Exit, Failure> {
    let layered = shown.source.load()?;
    match shown.output {
        Output::Json => {
            let values: serde_json::Map<String, serde_json::Value> = layered
                .values
                .iter()
                .map(|(key, value)| (key.clone(), json!({ "value": value.shown, "origin": value.origin.to_string() })))
                .collect();
            println!("{:#}", serde_json::Value::Object(values));
        }
        Output::Text => {
            let rows: Vec<_> = layered
                .values
                .iter()
                .map(|(key, value)| vec![key.clone(), value.shown.to_string(), value.origin.to_string()])
                .collect();
            print!("{}", table(&["key", "value", "from"], &rows));
        }
    }
    Ok(Exit::Done)
}
