//! From what was asked to what can be read: topics and clusters compared, ranges held against the logs, partitions chosen.

use super::Failed;
use super::lines::Lines;
use super::notes::{Baseline, Progress};
use super::outgoing::{Placing, Stamp};
use super::own::Own;
use super::range::{Bounds, Range, Span};
use super::reading::{Spans, read_spans, stable_spans};
use super::source::{Cards, LineSource, Source, TopicSource};
use super::workers::Workers;
use crate::kafka::{Changelog, ClientSettings, History, Input, Reader as _, TopicsClient, read_notes};
use crate::wire::{REPLAY_ID, partition_of};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Keys looked at, a partition, to see how the cards are placed.
const SAMPLE: usize = 20;

/// Where commands come from.
pub enum Origin {
    /// A topic, perhaps of another cluster.
    Topic {
        /// How that cluster is reached.
        settings: Box<ClientSettings>,
        /// The topic.
        topic: String,
        /// What is meant of it.
        range: Range,
    },
    /// A file.
    File {
        /// Its name, for the headers.
        name: String,
        /// Its lines.
        lines: Lines,
        /// The time of lines that have none.
        default_ms: Option<i64>,
        /// Whether broken lines are set aside.
        set_aside: bool,
    },
}

/// What was asked.
pub struct Asked {
    /// The replay's id.
    pub id: String,
    /// Where commands come from.
    pub origin: Origin,
    /// Which cards are meant.
    pub cards: Cards,
}

/// What can be read.
pub struct Prepared {
    /// The source, not started.
    pub source: Source,
    /// The ranges; empty for a file.
    pub spans: Vec<Span>,
    /// How partitions are chosen.
    pub placing: Placing,
    /// Partitions of the backfill topic.
    pub partitions: i32,
    /// A hash of what was asked.
    pub plan: String,
}

/// How many partitions the backfill topic has.
pub fn backfill_partitions(target: &ClientSettings) -> Result<i32, Failed> {
    let topic = &target.topics.backfill;
    let described = TopicsClient::new(target)?.describe(&[topic.as_str()])?.into_iter().flatten().next();
    let missing = || Failed::Misuse(format!("there is no topic {topic}; make it with `topics apply`"));
    Ok(described.ok_or_else(missing)?.partitions)
}

/// Compares what was asked with what is there.
pub fn prepare(target: &ClientSettings, workers: &mut Workers, asked: Asked) -> Result<Prepared, Failed> {
    let partitions = workers.partitions();
    let Asked { id, origin, cards } = asked;
    let mut named: Vec<String> = cards.iter().flatten().map(ToString::to_string).collect();
    named.sort_unstable();
    match origin {
        Origin::File { name, lines, default_ms, set_aside } => {
            let stamp = Stamp::of_file(&id, &name, partitions);
            // The lines themselves tell whether it is the same file.
            let plan = hash(&format!("file {named:?}"));
            let source = Source::Lines(LineSource::new(lines, default_ms, cards, stamp, set_aside));
            Ok(Prepared { source, spans: Vec::new(), placing: Placing::ByKey, partitions, plan })
        }
        Origin::Topic { settings, topic, range } => {
            let history = History::open(&settings, &topic)?.ok_or_else(|| {
                Failed::Misuse(format!("there is no topic {topic} at {}", settings.bootstrap_servers))
            })?;
            range.check(history.partitions())?;
            let mut spans = spans(&history, &range)?;
            let placing = placing(target, &settings, &history, partitions)?;
            if placing == Placing::Own {
                end_where_live_is(&mut spans, workers)?;
            }
            if spans.is_empty() {
                return Err(Failed::Misuse("the range is empty: no partition is meant".into()));
            }
            let plan = hash(&format!("topic {} {topic} {range:?} {named:?}", settings.bootstrap_servers));
            let stamp = Stamp::of_topic(&id, &topic, placing, partitions);
            let source = Source::Topic(TopicSource::new(history, range, &spans, cards, stamp));
            Ok(Prepared { source, spans, placing, partitions, plan })
        }
    }
}

fn hash(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

fn spans(history: &History, range: &Range) -> Result<Vec<Span>, Failed> {
    let mut spans = Vec::new();
    for partition in (0..history.partitions()).filter(|p| range.has(*p)) {
        let (start, end) = history.bounds(partition)?;
        let at_time = match range.from_ms() {
            Some(from) => history.offset_at(partition, from)?,
            None => None,
        };
        spans.push(range.span(partition, Bounds { start, end, at_time })?);
    }
    Ok(spans)
}

/// A replay must not overtake live commands: what a partition has not processed yet, and is replayed, would be answered first, and
/// the live commands before it would then overwrite it.
fn end_where_live_is(spans: &mut [Span], workers: &mut Workers) -> Result<(), Failed> {
    let live = workers.live()?;
    for span in spans {
        let processed = live.get(&span.partition).copied().flatten().unwrap_or(span.from);
        span.to = span.to.min(processed).max(span.from);
    }
    Ok(())
}

/// Positions are comparable only within one log: the same cluster, the same topic by its id, the same partition.
fn placing(
    target: &ClientSettings,
    from: &ClientSettings,
    history: &History,
    partitions: i32,
) -> Result<Placing, Failed> {
    if history.partitions() != partitions {
        return Ok(Placing::ByKey);
    }
    let (ours, theirs) = (TopicsClient::new(target)?, TopicsClient::new(from)?);
    let commands = target.topics.commands.as_str();
    let id = |client: &TopicsClient, topic: &str| -> Result<Option<String>, Failed> {
        Ok(client.describe(&[topic])?.into_iter().flatten().next().map(|t| t.id))
    };
    let same = history.topic() == commands
        && ours.cluster_id()? == theirs.cluster_id()?
        && id(&ours, commands)?.is_some_and(|own| id(&theirs, commands).is_ok_and(|their| their == Some(own)));
    Ok(if same { Placing::Own } else { Placing::Same })
}

/// A card of the worker's own cards topic that is not where Java clients would put its key: the partition that it is in, and
/// the other one. Commands placed by key would then meet partitions that do not know their cards.
pub fn disagreeing_key(target: &ClientSettings) -> Result<Option<(i32, i32)>, Failed> {
    let Some(mut cards) = History::open(target, &target.topics.cards)? else { return Ok(None) };
    let partitions = cards.partitions();
    let spans = stable_spans(&cards, &(0..partitions).map(|p| (p, 0)).collect())?;
    let (mut seen, mut found) = (BTreeMap::new(), None);
    read_spans(&mut cards, &spans, |record| {
        let wanted = record.key().map_or(record.partition, |key| partition_of(key, partitions));
        if wanted != record.partition {
            found = Some((record.partition, wanted));
        }
        let seen: &mut usize = seen.entry(record.partition).or_default();
        *seen += 1;
        *seen < SAMPLE && found.is_none()
    })?;
    Ok(found)
}

/// What is known of a replay that begins: no command sent, and where the outputs end now.
pub fn begin(prepared: &Prepared, workers: &mut Workers) -> Result<Progress, Failed> {
    let mut progress = Progress { plan: prepared.plan.clone(), lanes: prepared.source.lanes(), ..Progress::default() };
    let reader = workers.reader();
    for partition in 0..prepared.partitions {
        progress.baselines.push(Baseline {
            backfill: reader.input_bounds(Input::Backfill, partition)?.1,
            completions: reader.bounds(Changelog::Completions, partition)?.1,
            dead_letters: reader.bounds(Changelog::DeadLetters, partition)?.1,
        });
        progress.sent.push(0);
    }
    Ok(progress)
}

/// What the notes say of an earlier run of this id, if there was one. To be asked once the earlier run is fenced: then no
/// transaction of it is open.
pub fn resume(target: &ClientSettings, group: &str, prepared: &Prepared) -> Result<Option<Progress>, Failed> {
    let notes = read_notes(target, group, &target.topics.backfill, prepared.partitions)?;
    let read =
        Progress::read(&notes).map_err(|why| Failed::Stop(format!("the notes under the group {group}: {why}")))?;
    match read {
        Some(progress) if progress.plan != prepared.plan => Err(Failed::Misuse(
            "this id belongs to a replay of another source, range or list of cards: repeat those, or begin with another id".into(),
        )),
        other => Ok(other),
    }
}

/// Finds the places of the commands that earlier runs of an id have sent, as far as they were not trimmed since.
pub fn find_own(
    target: &ClientSettings,
    workers: &mut Workers,
    (id, progress): (&str, &Progress),
    own: &mut Own,
) -> Result<(), Failed> {
    let topic = &target.topics.backfill;
    let mut backfill =
        History::open(target, topic)?.ok_or_else(|| Failed::Misuse(format!("there is no topic {topic}")))?;
    let mut spans = Spans::new();
    for (partition, baseline) in (0..).zip(&progress.baselines) {
        let (start, end) = workers.reader().input_bounds(Input::Backfill, partition)?;
        spans.insert(partition, (baseline.backfill.max(start), end));
    }
    read_spans(&mut backfill, &spans, |record| {
        let is_own = |(name, value): (&str, Option<&[u8]>)| name == REPLAY_ID && value == Some(id.as_bytes());
        if record.headers().any(is_own) {
            own.add(record.partition, record.offset);
        }
        true
    })
}
