//! `topics`: what the worker needs against what is there.

use super::{ConfigSource, Exit, Failure, Output};
use crate::kafka::{NewTopicSpec, TopicsClient};
use crate::worker::{Finding, TopicPlan, plan_topics, wanted_topics};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

#[derive(Args)]
pub struct TopicsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show what `apply` would do, and what is wrong
    Plan(Asked),
    /// Make the topics that are missing
    Apply(Asked),
    /// Exit code 3 when the topics are not as the worker needs them
    Verify(Asked),
    /// Print all topics in another tool's form; asks no broker
    Print {
        #[command(flatten)]
        asked: Asked,
        /// The tool
        #[arg(long, value_enum, default_value_t = Format::Cli)]
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Strimzi KafkaTopic resources
    Strimzi,
    /// kafka-topics.sh
    Cli,
}

#[derive(Args)]
struct Asked {
    #[command(flatten)]
    source: ConfigSource,
    /// Partitions of topics that are made
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of topics that are made; the broker's default if not given
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Asked {
    /// −1 stands for the broker's default.
    fn replication(&self) -> i32 {
        self.replication_factor.unwrap_or(-1)
    }
}

pub fn run(args: &TopicsArgs) -> Result<Exit, Failure> {
    match &args.action {
        Action::Plan(asked) => {
            show(&plan(asked)?, asked.output);
            Ok(Exit::Done)
        }
        Action::Apply(asked) => apply(asked),
        Action::Verify(asked) => {
            let plan = plan(asked)?;
            show(&plan, asked.output);
            let sound = plan.missing.is_empty() && plan.findings.is_empty();
            Ok(if sound { Exit::Done } else { Exit::Differs })
        }
        Action::Print { asked, format } => print(asked, *format),
    }
}

fn plan(asked: &Asked) -> Result<TopicPlan, Failure> {
    let config = asked.source.load()?.config;
    let client = TopicsClient::new(&config.kafka)?;
    let partitions = asked.partitions.or(config.partitions);
    let plan = plan_topics(&client, &config.kafka, config.rules.window_ms, partitions, asked.replication());
    Ok(block_on(plan)??)
}

fn apply(asked: &Asked) -> Result<Exit, Failure> {
    let before = plan(asked)?;
    let config = asked.source.load()?.config;
    if !before.missing.is_empty() {
        block_on(TopicsClient::new(&config.kafka)?.create(&before.missing))??;
        before.missing.iter().for_each(|t| println!("made {} with {} partitions", t.name, t.partitions));
    }
    // A topic is known to all brokers a moment after it was made.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    let after = loop {
        let after = plan(asked)?;
        if after.missing.is_empty() || std::time::Instant::now() > deadline {
            break after;
        }
    };
    show(&after, asked.output);
    let refused = after.findings.iter().any(|f| matches!(f, Finding::Refused(_)));
    Ok(if refused { Exit::Differs } else { Exit::Done })
}

fn show(plan: &TopicPlan, output: Output) {
    let text = |finding: &Finding| match finding {
        Finding::Refused(text) => ("refused", text.clone()),
        Finding::Warning(text) => ("warning", text.clone()),
    };
    if output == Output::Json {
        let missing: Vec<_> = plan
            .missing
            .iter()
            .map(|t| json!({ "name": t.name, "partitions": t.partitions, "settings": t.settings }))
            .collect();
        let findings: Vec<_> =
            plan.findings.iter().map(text).map(|(kind, text)| json!({ "kind": kind, "text": text })).collect();
        println!("{:#}", json!({ "missing": missing, "findings": findings }));
        return;
    }
    for topic in plan.found.iter().flatten() {
        println!("there    {} ({} partitions, {} replicas)", topic.name, topic.partitions, topic.replication);
    }
    for topic in &plan.missing {
        let settings: Vec<_> = topic.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
        println!("missing  {} ({} partitions; {})", topic.name, topic.partitions, settings.join(", "));
    }
    for (kind, text) in plan.findings.iter().map(text) {
        println!("{kind:<7}  {text}");
    }
}

fn print(asked: &Asked, format: Format) -> Result<Exit, Failure> {
    let config = asked.source.load()?.config;
    let partitions = asked.partitions.or(config.partitions);
    let topics = wanted_topics(&config.kafka.topics, config.rules.window_ms, partitions, asked.replication());
    for topic in &topics {
        print!(
            "{}",
            match format {
                Format::Strimzi => strimzi(topic),
                Format::Cli => cli(topic, &config.kafka.bootstrap_servers),
            }
        );
    }
    Ok(Exit::Done)
}

fn strimzi(topic: &NewTopicSpec) -> String {
    let replicas = if topic.replication > 0 { format!("  replicas: {}\n", topic.replication) } else { String::new() };
    let config: String = topic.settings.iter().map(|(k, v)| format!("    {k}: \"{v}\"\n")).collect();
    let name = topic.name.replace('_', "-").to_ascii_lowercase();
    format!(
        "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\nmetadata:\n  name: {name}\n  labels:\n    strimzi.io/cluster: my-cluster\n\
         spec:\n  topicName: {}\n  partitions: {}\n{replicas}  config:\n{config}",
        topic.name, topic.partitions
    )
}

fn cli(topic: &NewTopicSpec, bootstrap: &str) -> String {
    let replicas =
        if topic.replication > 0 { format!(" --replication-factor {}", topic.replication) } else { String::new() };
    let config: String = topic.settings.iter().map(|(k, v)| format!(" --config {k}={v}")).collect();
    format!(
        "kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {} --partitions {}{replicas}{config}\n",
        topic.name, topic.partitions
    )
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}
