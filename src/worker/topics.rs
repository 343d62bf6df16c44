//! The topics as a process finds them: at its start, against what its state directory noted, and again while it runs.

use super::Stop;
use super::checks::{Finding, output_limit, plan_topics};
use super::process::{FIRST_CONTACT, ProcessOptions, stop};
use crate::config::Config;
use crate::kafka::{Fault, TopicDescription, TopicSettings, TopicsClient};
use crate::projection::{LogIdentity, StateDir, StateFacts};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What the topics look like now.
pub struct Topics {
    pub facts: StateFacts,
    pub identity: LogIdentity,
    pub batch_bytes: usize,
    /// `retention.ms` of the completions topic; negative for ever.
    pub completions_retention_ms: i64,
}

/// Asks until the cluster answers, within a limit; `None` when the end is asked for first.
pub fn look_at_topics(
    config: &Config,
    options: &ProcessOptions,
    client: &TopicsClient,
) -> Result<Option<Topics>, Stop> {
    let deadline = Instant::now() + FIRST_CONTACT;
    loop {
        let looked = if options.mock { mock_topics(config) } else { real_topics(config, client) };
        if options.shutdown.load(Ordering::Acquire) {
            return Ok(None);
        }
        match looked {
            Err(Fault::Retry(cause)) if Instant::now() < deadline => {
                tracing::warn!(cause, "waiting for Kafka");
                std::thread::park_timeout(Duration::from_secs(1));
            }
            other => return other.map(Some).map_err(stop),
        }
    }
}

fn real_topics(config: &Config, client: &TopicsClient) -> Result<Topics, Fault> {
    let cluster = client.cluster_id()?;
    let plan = plan_topics(client, &config.kafka, config.rules.window_ms, config.partitions, -1);
    let plan = block_on(plan)??;
    for finding in &plan.findings {
        match finding {
            Finding::Warning(text) => tracing::warn!("{text}"),
            Finding::Refused(text) => return Err(Fault::Fatal(text.clone())),
        }
    }
    let ids: BTreeMap<String, String> = plan.found.iter().flatten().map(|t| (t.name.clone(), t.id.clone())).collect();
    let id = |name: &str| ids.get(name).cloned().unwrap_or_default();
    let partitions = plan.found.iter().flatten().map(|t| t.partitions).next().unwrap_or(0);
    let names = &config.kafka.topics;
    Ok(Topics {
        identity: LogIdentity {
            cluster: cluster.clone(),
            cards_topic: id(&names.cards),
            completions_topic: id(&names.completions),
            partitions,
        },
        completions_retention_ms: plan.settings.get(2).map_or(-1, retention_of),
        facts: StateFacts { cluster, topics: ids, partitions },
        batch_bytes: output_limit(&plan.settings).map_or(config.kafka.batch_bytes, |limit| limit * 9 / 10),
    })
}

/// Whose logs the configured topics are, as the cluster describes them now.
pub fn log_identity(config: &Config, client: &TopicsClient) -> Result<LogIdentity, Stop> {
    real_topics(config, client).map(|topics| topics.identity).map_err(stop)
}

fn mock_topics(config: &Config) -> Result<Topics, Fault> {
    let cluster = "mock".to_owned();
    let identity = LogIdentity { cluster: cluster.clone(), ..LogIdentity::default() };
    let facts = StateFacts { cluster, ..StateFacts::default() };
    Ok(Topics { identity, facts, batch_bytes: config.kafka.batch_bytes, completions_retention_ms: -1 })
}

/// `retention.ms` of a topic now; negative for ever.
pub fn retention_ms(client: &TopicsClient, topic: &str) -> Result<i64, Fault> {
    let settings = block_on(client.settings(&[topic]))??;
    Ok(settings.first().map_or(-1, retention_of))
}

fn retention_of(settings: &TopicSettings) -> i64 {
    settings.get("retention.ms").and_then(|v| v.parse().ok()).unwrap_or(-1)
}

/// Runs what the client answers asynchronously.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|e| Fault::Fatal(e.to_string()))?.block_on(future))
}

/// Topics have ids: one that was deleted and made anew starts its offsets again, and must not be read on.
pub fn compare_facts(state: &StateDir, now: &StateFacts, options: &ProcessOptions) -> Result<(), Stop> {
    let Some(before) = state.facts() else { return Ok(()) };
    let changed: Vec<&str> = now
        .topics
        .iter()
        .filter(|(name, id)| before.topics.get(*name).is_some_and(|was| was != *id))
        .map(|(name, _)| name.as_str())
        .collect();
    if !changed.is_empty() && !options.accept_new_topics {
        return Err(Stop(made_anew(&changed)));
    }
    if changed.is_empty() && before.partitions != now.partitions && before.cluster == now.cluster {
        return Err(Stop(recounted(before.partitions, now.partitions)));
    }
    Ok(())
}

fn made_anew(changed: &[&str]) -> String {
    format!(
        "made anew since the last run: {}. Their offsets start again, and what was in them is gone. If that is meant, start once \
         with `run --accept-new-topics`: the local state of the former topics is then discarded",
        changed.join(", ")
    )
}

fn recounted(before: i32, now: i32) -> String {
    format!(
        "the topics had {before} partitions and now have {now}: cards would meet partitions that do not know them. Make new topics \
         with the new count and send the commands into them again (replay)"
    )
}

/// Compares topic ids and partition counts with those at the start; `false` when no broker answered. A topic that is missing
/// is one only when it is missing twice: a broker that has just started may not know it yet.
pub fn look_again(client: &TopicsClient, facts: &StateFacts, missing_before: &mut bool) -> Result<bool, Stop> {
    let names: Vec<&str> = facts.topics.keys().map(String::as_str).collect();
    let found = match client.describe(&names) {
        Ok(found) => found,
        Err(Fault::Retry(cause)) => {
            tracing::debug!(cause, "the topics cannot be looked at");
            return Ok(false);
        }
        Err(other) => return Err(stop(other)),
    };
    let named = |wrong: &dyn Fn(&str, &Option<TopicDescription>) -> bool| -> Vec<&str> {
        names.iter().zip(&found).filter(|(name, found)| wrong(name, found)).map(|(name, _)| *name).collect()
    };
    let changed = named(&|name, found| found.as_ref().is_some_and(|f| facts.topics.get(name) != Some(&f.id)));
    if !changed.is_empty() {
        return Err(Stop(made_anew(&changed)));
    }
    let missing = named(&|_, found| found.is_none());
    if std::mem::replace(missing_before, !missing.is_empty()) && !missing.is_empty() {
        return Err(Stop(format!("deleted while the worker runs: {}", missing.join(", "))));
    }
    match found.iter().flatten().find(|f| f.partitions != facts.partitions) {
        Some(topic) => Err(Stop(recounted(facts.partitions, topic.partitions))),
        None => Ok(true),
    }
}
