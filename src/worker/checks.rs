//! The topics as the worker needs them against those there are: what is refused, what is warned of, and what would mend it.

use crate::kafka::{ClientSettings, Fault, NewTopicSpec, TopicDescription, TopicNames, TopicSettings, TopicsClient};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Partitions of topics that are made anew, unless an operator says otherwise.
const DEFAULT_PARTITIONS: i32 = 8;
/// What the dead-letter and backfill topics take beyond the commands topic's largest record: headers come on top.
const HEADER_ROOM_BYTES: i64 = 64 * 1024;
/// Kafka's default largest record batch.
const DEFAULT_MAX_MESSAGE_BYTES: i64 = 1_048_588;

/// What was found about the topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The worker does not start.
    Refused(String),
    /// The worker starts, and says so.
    Warning(String),
}

/// A topic's role and its settings in this project.
struct Wanted<'n> {
    name: &'n str,
    settings: Vec<(&'static str, String)>,
}

fn wanted(topics: &TopicNames, window_ms: i64, commands_max: i64) -> [Wanted<'_>; 5] {
    let retention = (window_ms + DAY_MS).to_string();
    let roomy = (commands_max + HEADER_ROOM_BYTES).to_string();
    let create_time = ("message.timestamp.type", "CreateTime".to_owned());
    let policy = |policy: &str| ("cleanup.policy", policy.to_owned());
    [
        Wanted { name: &topics.commands, settings: vec![policy("delete")] },
        Wanted {
            name: &topics.backfill,
            settings: vec![
                policy("delete"),
                ("retention.ms", "-1".to_owned()),
                create_time.clone(),
                ("max.message.bytes", roomy.clone()),
            ],
        },
        Wanted {
            name: &topics.completions,
            settings: vec![
                policy("delete"),
                ("retention.ms", retention),
                ("retention.bytes", "-1".to_owned()),
                create_time.clone(),
                ("message.timestamp.after.max.ms", "60000".to_owned()),
            ],
        },
        Wanted { name: &topics.cards, settings: vec![policy("compact"), create_time] },
        Wanted { name: &topics.dead_letters, settings: vec![policy("delete"), ("max.message.bytes", roomy)] },
    ]
}

impl Wanted<'_> {
    fn spec(self, partitions: i32, replication: i32) -> NewTopicSpec {
        let mut settings: TopicSettings = self.settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        if replication >= 3 {
            // An acknowledged record is then on two disks, and one broker may be away.
            settings.insert("min.insync.replicas".to_owned(), "2".to_owned());
        }
        NewTopicSpec { name: self.name.to_owned(), partitions, replication, settings }
    }
}

/// The five topics as the worker would make them.
pub fn wanted_topics(
    topics: &TopicNames,
    window_ms: i64,
    partitions: Option<i32>,
    replication: i32,
) -> Vec<NewTopicSpec> {
    let count = partitions.unwrap_or(DEFAULT_PARTITIONS);
    wanted(topics, window_ms, DEFAULT_MAX_MESSAGE_BYTES).into_iter().map(|w| w.spec(count, replication)).collect()
}

/// The five topics as the cluster has them.
pub struct TopicPlan {
    /// What is there, in the order of [`TopicNames::all`].
    pub found: Vec<Option<TopicDescription>>,
    /// Their settings; empty for one that is missing.
    pub settings: Vec<TopicSettings>,
    /// What would have to be made.
    pub missing: Vec<NewTopicSpec>,
    /// What was found wrong.
    pub findings: Vec<Finding>,
}

/// Looks at the topics and plans what is missing.
pub async fn plan_topics(
    client: &TopicsClient,
    kafka: &ClientSettings,
    window_ms: i64,
    partitions: Option<i32>,
    replication: i32,
) -> Result<TopicPlan, Fault> {
    let names = kafka.topics.all();
    let found = client.describe(&names)?;
    let there: Vec<&str> = found.iter().flatten().map(|t| t.name.as_str()).collect();
    let mut read = client.settings(&there).await?.into_iter();
    let settings: Vec<TopicSettings> =
        found.iter().map(|t| t.as_ref().and_then(|_| read.next()).unwrap_or_default()).collect();
    let findings = check_topics(&kafka.topics, &found, &settings, window_ms, partitions);
    let count = partitions.or_else(|| found.iter().flatten().map(|t| t.partitions).max()).unwrap_or(DEFAULT_PARTITIONS);
    let missing = wanted(&kafka.topics, window_ms, max_bytes(&settings[0]))
        .into_iter()
        .zip(&found)
        .filter(|(_, found)| found.is_none())
        .map(|(wanted, _)| wanted.spec(count, replication))
        .collect();
    Ok(TopicPlan { found, settings, missing, findings })
}

/// Holds topics against what the worker needs. `partitions` is `topics.partitions` where that is set.
pub fn check_topics(
    topics: &TopicNames,
    found: &[Option<TopicDescription>],
    settings: &[TopicSettings],
    window_ms: i64,
    partitions: Option<i32>,
) -> Vec<Finding> {
    let mut findings = missing(topics, found);
    if findings.is_empty() {
        findings.extend(unequal(found, partitions));
    }
    let commands_max = settings.first().map_or(DEFAULT_MAX_MESSAGE_BYTES, max_bytes);
    for (wanted, (found, settings)) in wanted(topics, window_ms, commands_max).iter().zip(found.iter().zip(settings)) {
        let Some(found) = found else { continue };
        if settings.is_empty() {
            continue;
        }
        findings.extend(durability(found, settings));
        for (setting, value) in &wanted.settings {
            let is = settings.get(*setting).map_or("", String::as_str);
            let is_completions = wanted.name == topics.completions;
            findings.extend(setting_finding(wanted.name, setting, value, is, is_completions.then_some(window_ms)));
        }
    }
    findings
}

fn missing(topics: &TopicNames, found: &[Option<TopicDescription>]) -> Vec<Finding> {
    let names: Vec<&str> = topics.all().into_iter().zip(found).filter(|(_, f)| f.is_none()).map(|(n, _)| n).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![Finding::Refused(format!(
        "missing topics: {}. Make them with `card-update-worker topics apply`, or see `topics print`",
        names.join(", ")
    ))]
}

fn unequal(found: &[Option<TopicDescription>], wanted: Option<i32>) -> Option<Finding> {
    let counts: Vec<String> = found.iter().flatten().map(|t| format!("{} has {}", t.name, t.partitions)).collect();
    let first = found.iter().flatten().next()?.partitions;
    let want = wanted.unwrap_or(first);
    if found.iter().flatten().all(|t| t.partitions == want) {
        return None;
    }
    let asked = wanted.map_or(String::new(), |n| format!(" (topics.partitions = {n})"));
    Some(Finding::Refused(format!(
        "the topics must have the same number of partitions{asked}, but {}. A count cannot grow in place: make new topics and \
         send the commands into them again (replay)",
        counts.join(", ")
    )))
}

fn durability(found: &TopicDescription, settings: &TopicSettings) -> Vec<Finding> {
    let name = &found.name;
    let mut findings = Vec::new();
    if found.replication == 1 {
        findings.push(Finding::Warning(format!(
            "{name} has replication factor 1: the loss of one disk loses committed records; use 3"
        )));
    }
    let in_sync: i32 = settings.get("min.insync.replicas").and_then(|v| v.parse().ok()).unwrap_or(1);
    if found.replication > 1 && in_sync < 2 {
        findings.push(Finding::Warning(format!(
            "{name} has min.insync.replicas = {in_sync}: an acknowledged record may be on one disk only; set it to 2"
        )));
    }
    if settings.get("unclean.leader.election.enable").is_some_and(|v| v == "true") {
        findings.push(Finding::Warning(format!(
            "{name} allows unclean leader election, which loses committed records; set unclean.leader.election.enable to false"
        )));
    }
    findings
}

/// `window_ms` is given for the completions topic, whose settings the dedup memory rests on.
fn setting_finding(topic: &str, setting: &str, wanted: &str, is: &str, window_ms: Option<i64>) -> Option<Finding> {
    if is == wanted {
        return None;
    }
    let number = |text: &str| text.parse::<i64>().ok();
    let mend = format!("set {setting}={wanted} on {topic}");
    match (setting, window_ms) {
        ("cleanup.policy", None) if wanted == "compact" => Some(Finding::Refused(format!(
            "{topic} has cleanup.policy={is}, but must be compact only: deletion would lose cards; {mend}"
        ))),
        ("cleanup.policy", _) if is.contains("compact") => Some(Finding::Refused(format!(
            "{topic} has cleanup.policy={is}: compaction deletes records that nobody has read; {mend}"
        ))),
        ("message.timestamp.type", Some(_)) => Some(Finding::Refused(format!(
            "{topic} has message.timestamp.type={is}: the dedup memory needs the worker's own times; {mend}"
        ))),
        ("retention.ms", Some(window_ms)) => {
            let retention = number(is)?;
            if retention < 0 || retention >= number(wanted)? {
                None
            } else if retention < window_ms {
                Some(Finding::Refused(format!(
                    "{topic} has retention.ms={is}, below dedup.window ({window_ms} ms): a restored worker would not know requests \
                     that it must remember; {mend}"
                )))
            } else {
                Some(Finding::Warning(format!(
                    "{topic} has retention.ms={is}, less than dedup.window and a day; {mend}"
                )))
            }
        }
        ("max.message.bytes", _) => {
            let enough = number(is)? >= number(wanted)?;
            (!enough).then(|| {
                Finding::Warning(format!(
                    "{topic} takes records of {is} bytes, which a large command with its headers may exceed (its dead letter then goes \
                     without the value, its replay stops); {mend}"
                ))
            })
        }
        _ => Some(Finding::Warning(format!("{topic} has {setting}={is}; {mend}"))),
    }
}

fn max_bytes(settings: &TopicSettings) -> i64 {
    settings.get("max.message.bytes").and_then(|v| v.parse().ok()).unwrap_or(DEFAULT_MAX_MESSAGE_BYTES)
}

/// The largest record batch that all output topics take.
pub fn output_limit(settings: &[TopicSettings]) -> Option<usize> {
    settings
        .get(2..)
        .and_then(|outputs| outputs.iter().map(max_bytes).min())
        .and_then(|bytes| usize::try_from(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> TopicNames {
        let name = |n: &str| n.to_owned();
        TopicNames {
            commands: name("in"),
            backfill: name("back"),
            completions: name("out"),
            cards: name("cards"),
            dead_letters: name("dead"),
        }
    }

    const WINDOW_MS: i64 = 7 * DAY_MS;

    /// Topics as `topics apply` makes them, with three replicas.
    fn good() -> (Vec<Option<TopicDescription>>, Vec<TopicSettings>) {
        let topics = names();
        let wanted = wanted(&topics, WINDOW_MS, DEFAULT_MAX_MESSAGE_BYTES);
        let found = |w: &Wanted<'_>| {
            Some(TopicDescription { name: w.name.into(), id: "1".into(), partitions: 8, replication: 3 })
        };
        let settings = |w: &Wanted<'_>| {
            let own = w.settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
            own.chain([("min.insync.replicas".to_owned(), "2".to_owned())]).collect()
        };
        (wanted.iter().map(found).collect(), wanted.iter().map(settings).collect())
    }

    fn findings(change: impl FnOnce(&mut Vec<Option<TopicDescription>>, &mut Vec<TopicSettings>)) -> Vec<Finding> {
        let (mut found, mut settings) = good();
        change(&mut found, &mut settings);
        check_topics(&names(), &found, &settings, WINDOW_MS, None)
    }

    fn one(finding: &[Finding], refused: bool, says: &str) {
        assert_eq!(finding.len(), 1, "{finding:?}");
        let (is_refused, text) = match &finding[0] {
            Finding::Refused(text) => (true, text),
            Finding::Warning(text) => (false, text),
        };
        assert!(is_refused == refused && text.contains(says), "{finding:?}");
    }

    #[test]
    fn topics_as_apply_makes_them_pass() {
        assert_eq!(findings(|_, _| ()), []);
    }

    #[test]
    fn what_breaks_a_guarantee_is_refused() {
        one(&findings(|f, _| f[3] = None), true, "topics apply");
        one(&findings(|f, _| f[1].as_mut().unwrap().partitions = 4), true, "back has 4");
        let set =
            |i: usize, k: &'static str, v: &'static str| findings(move |_, s| drop(s[i].insert(k.into(), v.into())));
        one(&set(3, "cleanup.policy", "compact,delete"), true, "compact only");
        one(&set(0, "cleanup.policy", "compact"), true, "nobody has read");
        one(&set(2, "cleanup.policy", "compact,delete"), true, "nobody has read");
        one(&set(2, "retention.ms", "1000"), true, "below dedup.window");
        one(&set(2, "message.timestamp.type", "LogAppendTime"), true, "own times");
        let (found, settings) = good();
        one(&check_topics(&names(), &found, &settings, WINDOW_MS, Some(4)), true, "topics.partitions = 4");
    }

    #[test]
    fn what_weakens_one_is_warned_of() {
        let set =
            |i: usize, k: &'static str, v: &'static str| findings(move |_, s| drop(s[i].insert(k.into(), v.into())));
        one(&set(2, "retention.ms", "604800000"), false, "and a day");
        assert_eq!(set(2, "retention.ms", "-1"), []);
        one(&set(2, "retention.bytes", "1"), false, "retention.bytes");
        one(&set(1, "retention.ms", "1"), false, "retention.ms=-1");
        one(&set(4, "max.message.bytes", "1048588"), false, "without the value");
        one(&set(0, "unclean.leader.election.enable", "true"), false, "unclean");
        one(&set(0, "min.insync.replicas", "1"), false, "min.insync.replicas");
        one(&findings(|f, _| f[0].as_mut().unwrap().replication = 1), false, "replication factor 1");
    }
}
