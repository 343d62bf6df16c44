//! A loop's group consumer and inputs, and the port's implementation over both clients.
//!
//! The group subscribes to the commands topic only: no assignor keeps a partition of two topics with one member. The owner of
//! a partition assigns the backfill topic's by hand beside it. Rebalance callbacks only stash an event; each assignment
//! is answered at once with an empty one, since the client purges everything while it waits.

use super::ends::Ends;
use super::error::{GRANT, fault, is_denied};
use super::raw::{Consumer, Message, membership, wake_fetching};
use super::settings::{REQUEST_TIMEOUT, log_client, watched};
use super::transaction::{Standing, TransactionLog};
use super::{
    ClientFigures, ClientKind, ClientSettings, CommitError, Committed, Fault, Figures, GroupEvent, Identity, Input,
    InputOffsets, Log, LogEnds, Record, Slot,
};
use crate::wire::Outbox;
use rdkafka::bindings::rd_kafka_resp_err_t as RespErr;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the client is asked for its positions.
const POSITIONS_EVERY: Duration = Duration::from_secs(1);

/// As Kafka has it: a member's generation is never negative.
const NO_GENERATION: i32 = -1;

/// Stashes what the callbacks say.
#[derive(Clone)]
pub struct GroupContext {
    events: Arc<Mutex<Vec<GroupEvent>>>,
    /// Callbacks so far: a poll that calls none has found nothing.
    served: Arc<AtomicU64>,
    closing: Arc<AtomicBool>,
    let_go: Arc<AtomicBool>,
    figures: ClientFigures,
}

impl GroupContext {
    fn new(figures: ClientFigures) -> Self {
        let (events, served) = (Arc::default(), Arc::default());
        Self { events, served, closing: Arc::default(), let_go: Arc::default(), figures }
    }

    fn serve(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn events(&self) -> MutexGuard<'_, Vec<GroupEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, up to the first that takes partitions away: giving those up may answer the others.
    fn next_events(&self) -> Vec<GroupEvent> {
        let mut waiting = self.events();
        let goes = |event: &GroupEvent| !matches!(event, GroupEvent::Assigned(_));
        let count = waiting.iter().position(goes).map_or(waiting.len(), |first| first + 1);
        waiting.drain(..count).collect()
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.serve();
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.serve();
        tracing::debug!(%error, reason, "Kafka client");
    }
    fn stats_raw(&self, statistics: &[u8]) {
        self.serve();
        self.figures.take(statistics);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RespErr, list: &mut TopicPartitionList) {
        self.serve();
        if self.closing.load(Ordering::Acquire) {
            // While the client closes, its end waits for one answer, which stands for all: a further one may meet a consumer that has
            // ended, and librdkafka 2.12.1 never replies to that. Errors have no reader left.
            if !self.let_go.swap(true, Ordering::AcqRel) {
                let _ = consumer.unassign();
            }
            return;
        }
        let partitions: Vec<i32> = list.elements().iter().map(TopicPartitionListElem::partition).collect();
        let event = match code {
            RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => GroupEvent::Assigned(partitions),
            // The lost flag alone does not tell: each assignment clears it. A member without a generation owns nothing.
            _ if consumer.assignment_lost() || membership(consumer.client().native_ptr()).is_none() => {
                GroupEvent::Lost(partitions)
            }
            _ => GroupEvent::Revoked(partitions),
        };
        self.events().push(event);
    }
}

/// The next offsets to be read of a started partition, by input, kept by the loop itself: the client's position runs ahead.
type Next = [i64; 2];

/// One loop's connection to a real Kafka.
pub struct GroupLog {
    consumer: Consumer<GroupContext>,
    context: GroupContext,
    transactions: TransactionLog,
    settings: ClientSettings,
    started: BTreeMap<i32, Next>,
    /// The client's own positions when they were last asked for: they cross transaction markers. To be shown only.
    positions: BTreeMap<i32, Next>,
    positions_at: Instant,
    /// Faults of partitions that were met together with another's, to be told one after the other.
    faults: VecDeque<Fault>,
    holding: Holding,
    ends: Ends,
    slot: Slot,
}

/// What the loop was told that it holds and gives up.
#[derive(Default)]
struct Holding {
    /// Partitions that the group has given to this member.
    partitions: BTreeSet<i32>,
    /// As whom: the member id, empty before it was a member. A member that is none at the moment stays who it was: as another it must
    /// not commit.
    member: String,
    /// The generation in which an event was handed out that is answered when its partitions are given up, while it is not.
    asked_in: Option<i32>,
}

impl Holding {
    /// As whom alone this loop may commit now.
    fn standing(&self) -> Standing<'_> {
        let member = (!self.partitions.is_empty()).then_some(self.member.as_str());
        Standing { member, generation: self.asked_in }
    }
}

impl GroupLog {
    /// Joins the group. Returns once the producer is initialised: what a former life left open is decided then.
    pub fn join(
        settings: &ClientSettings,
        identity: &Identity,
        ends: Ends,
        slot: Slot,
        figures: &Figures,
    ) -> Result<Self, Fault> {
        let figures_of = |kind| figures.client(kind, &identity.transactional_id);
        let context = GroupContext::new(figures_of(ClientKind::Consumer));
        let config = settings.consumer(identity);
        let consumer: BaseConsumer<GroupContext> =
            config.create_with_context(context.clone()).map_err(|e| fault("the consumer cannot be made", &e))?;
        let transactions = TransactionLog::start(settings, identity, slot.clone(), figures_of(ClientKind::Producer))?;
        consumer.subscribe(&[&settings.topics.commands]).map_err(|e| fault("the group cannot be joined", &e))?;
        let consumer = Consumer::new(consumer, 2).ok_or_else(|| Fault::Fatal("no memory for the consumer".into()))?;
        let settings = settings.clone();
        Ok(Self {
            consumer,
            context,
            transactions,
            settings,
            started: BTreeMap::new(),
            positions: BTreeMap::new(),
            positions_at: Instant::now(),
            faults: VecDeque::new(),
            holding: Holding::default(),
            ends,
            slot,
        })
    }

    /// After an assignment was answered, which follows each revocation too: what is kept is read on at once, not up to a second
    /// later. Where the fetching is from a follower it is not woken.
    fn fetch_on(&self) {
        let of = |input| self.started.keys().map(move |partition| (self.topic(input), *partition));
        let kept: Vec<_> = of(Input::Live).chain(of(Input::Backfill)).collect();
        if !kept.is_empty() {
            watched(&self.slot, "ListOffsets", REQUEST_TIMEOUT, || wake_fetching(self.consumer.rk(), &kept));
        }
    }

    fn topic(&self, input: Input) -> &str {
        match input {
            Input::Live => &self.settings.topics.commands,
            Input::Backfill => &self.settings.topics.backfill,
        }
    }

    fn list(&self, partitions: &[(i32, i64, i64)]) -> Result<TopicPartitionList, Fault> {
        let mut list = TopicPartitionList::new();
        for (partition, live, backfill) in partitions {
            for (input, offset) in [(Input::Live, live), (Input::Backfill, backfill)] {
                list.add_partition_offset(self.topic(input), *partition, Offset::Offset(*offset))
                    .map_err(|e| fault("an offset cannot be used", &e))?;
            }
        }
        Ok(list)
    }

    /// Serves the client's callbacks until none is waiting.
    fn poll(&mut self) {
        loop {
            let before = self.context.served.load(Ordering::Relaxed);
            let polled = watched(&self.slot, "poll", Duration::ZERO, || self.consumer.consumer().poll(Duration::ZERO));
            match polled {
                Some(Err(error)) => match fault("the group", &error) {
                    Fault::Retry(text) => tracing::debug!(text, "Kafka client"),
                    other => self.note(other),
                },
                Some(Ok(message)) => {
                    use rdkafka::Message as _;
                    let partition = message.partition();
                    let cause = "a record came past the private queue".to_owned();
                    self.note(Fault::Restore { partition, cause });
                }
                None if self.context.served.load(Ordering::Relaxed) == before => return,
                None => {}
            }
        }
    }

    fn note(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push_back(fault);
        }
    }

    /// Takes what is being revoked for lost: the client may have answered it, and joined the next generation.
    fn take_for_lost(&self) {
        for event in self.context.events().iter_mut() {
            if let GroupEvent::Revoked(partitions) = event {
                *event = GroupEvent::Lost(std::mem::take(partitions));
            }
        }
    }

    /// Whether partitions are going of which the loop has not been told.
    fn gives_up_unknowingly(&self) -> bool {
        self.context.events().iter().any(|event| !matches!(event, GroupEvent::Assigned(_)))
    }

    fn look_at_positions(&mut self) {
        if self.positions_at.elapsed() < POSITIONS_EVERY {
            return;
        }
        self.positions_at = Instant::now();
        self.positions.clear();
        let Ok(list) = self.consumer.consumer().position() else { return };
        for element in list.elements() {
            let Offset::Offset(offset) = element.offset() else { continue };
            let input = if element.topic() == self.settings.topics.commands { 0 } else { 1 };
            self.positions.entry(element.partition()).or_default()[input] = offset;
        }
    }

    /// A message that is no record: the client's position is off after it, so the reading goes on where this loop knows.
    fn after_error(&self, input: Input, message: &Message) -> Option<Fault> {
        let partition = message.partition();
        let code = message.error()?;
        let next = self.started.get(&partition)?[input as usize];
        match code {
            Code::AutoOffsetReset
            | Code::OffsetOutOfRange
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition => {
                let topic = self.topic(input);
                Some(Fault::Restore {
                    partition,
                    cause: format!("{topic} partition {partition} at offset {next}: {code}"),
                })
            }
            _ if is_denied(code) => Some(Fault::Fatal(format!(
                "{} partition {partition} cannot be read: {code}; grant Read on it; {GRANT}",
                self.topic(input)
            ))),
            _ => {
                tracing::warn!(partition, %code, "a partition's records cannot be fetched for now");
                let position = Offset::Offset(next);
                let sought = self.consumer.consumer().seek(self.topic(input), partition, position, Duration::ZERO);
                sought.err().map(|e| Fault::Restore { partition, cause: e.to_string() })
            }
        }
    }
}

impl Log for GroupLog {
    fn events(&mut self) -> Result<Vec<GroupEvent>, Fault> {
        self.transactions.serve();
        self.look_at_positions();
        self.poll();
        if let Some(fault) = self.faults.pop_front() {
            return Err(fault);
        }
        if let Some((code, reason)) = self.consumer.consumer().client().fatal_error() {
            return Err(match code {
                Code::FencedInstanceId => Fault::Fenced(super::error::fenced_instance(&reason)),
                _ => Fault::Fatal(format!("the consumer: {reason}")),
            });
        }
        let events = self.context.next_events();
        for event in &events {
            let (GroupEvent::Assigned(partitions) | GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions)) =
                event;
            let now = membership(self.consumer.rk());
            let GroupEvent::Assigned(_) = event else {
                self.holding.partitions.retain(|p| !partitions.contains(p));
                self.holding.asked_in = Some(now.as_ref().map_or(NO_GENERATION, |m| m.generation));
                continue;
            };
            if let Some(now) = now {
                self.holding.standing().is_who_it_was(&now.member).map_err(Fault::Fatal)?;
                self.holding.member.clone_from(&now.member);
            }
            self.holding.partitions.extend(partitions);
            let none = TopicPartitionList::new();
            let answered = watched(&self.slot, "incremental_assign", REQUEST_TIMEOUT, || {
                self.consumer.consumer().incremental_assign(&none)
            });
            answered.map_err(|e| Fault::Fatal(format!("an assignment cannot be answered: {e}")))?;
            self.fetch_on();
        }
        Ok(events)
    }

    fn start(&mut self, partition: i32, live: i64, backfill: i64) -> Result<(), Fault> {
        let list = self.list(&[(partition, live, backfill)])?;
        for input in [Input::Live, Input::Backfill] {
            self.consumer.forward(self.topic(input), partition, input as usize);
        }
        self.started.insert(partition, [live, backfill]);
        self.positions.remove(&partition);
        let consumer = self.consumer.consumer();
        watched(&self.slot, "incremental_assign", REQUEST_TIMEOUT, || consumer.incremental_assign(&list))
            .map_err(|e| Fault::Fatal(format!("partition {partition} cannot be started: {e}")))
    }

    fn stop(&mut self, partitions: &[i32]) -> Result<(), Fault> {
        let started: Vec<_> =
            partitions.iter().filter_map(|p| self.started.remove(p).map(|next| (*p, next[0], next[1]))).collect();
        let list = self.list(&started)?;
        let consumer = self.consumer.consumer();
        watched(&self.slot, "incremental_unassign", REQUEST_TIMEOUT, || consumer.incremental_unassign(&list))
            .map_err(|e| Fault::Fatal(format!("partitions {partitions:?} cannot be given up: {e}")))?;
        self.holding.asked_in = None;
        // The client takes this for the answer to whatever it asks, also to what nobody has been told yet: the group may go on
        // without those partitions, and what is committed for them in its next generation would overwrite the new owner's offsets.
        self.poll();
        self.take_for_lost();
        Ok(())
    }

    fn fetch(
        &mut self,
        input: Input,
        most: usize,
        wait: Duration,
        into: &mut Vec<(Input, Record)>,
    ) -> Result<(), Fault> {
        let mut errors = Vec::new();
        let started = &mut self.started;
        let wait_ms = wait.as_millis() as i32;
        let guard = self.slot.enter("consume_batch_queue", wait);
        self.consumer.take(input as usize, wait_ms, most, |message| {
            // A record that was still queued when its partition was given up is not this loop's any more.
            let Some(next) = started.get_mut(&message.partition()) else { return };
            if message.error().is_some() {
                errors.push(message);
            } else if message.offset() >= next[input as usize] {
                next[input as usize] = message.offset() + 1;
                into.push((input, Record::new(message)));
            }
        });
        drop(guard);
        // Each partition gets its own answer: one that is left out would go on from the client's wrong position.
        let faults: Vec<Fault> = errors.iter().filter_map(|message| self.after_error(input, message)).collect();
        self.faults.extend(faults);
        self.faults.pop_front().map_or(Ok(()), Err)
    }

    fn read_to(&self, partition: i32) -> Option<[i64; 2]> {
        let next = self.started.get(&partition)?;
        let position = self.positions.get(&partition).unwrap_or(next);
        Some([next[0].max(position[0]), next[1].max(position[1])])
    }

    fn transact(&mut self, outbox: &Arc<Outbox>, offsets: &[(i32, InputOffsets)]) -> Result<Committed, CommitError> {
        if self.gives_up_unknowingly() {
            return Err(CommitError::NotOwner("partitions are going that the loop has not been told of".into()));
        }
        let mut list = TopicPartitionList::new();
        for (partition, next) in offsets {
            for (input, offset) in [(Input::Live, next.live), (Input::Backfill, next.backfill)] {
                let Some(offset) = offset else { continue };
                list.add_partition_offset(self.topic(input), *partition, Offset::Offset(offset))
                    .map_err(|e| CommitError::Fatal(e.to_string()))?;
            }
        }
        let standing = self.holding.standing();
        self.transactions.transact(outbox, &list, &self.consumer, &standing)
    }

    fn reset_producer(&mut self) -> Result<(), Fault> {
        self.transactions.reset()
    }

    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        let consumer = self.consumer.consumer();
        committed(consumer, &self.settings, &self.slot, partitions)
    }

    fn request_ends(&mut self, partition: i32) {
        self.ends.request(partition);
    }

    fn ends(&mut self) -> Vec<(i32, Option<LogEnds>)> {
        self.ends.answers()
    }
}

impl Drop for GroupLog {
    fn drop(&mut self) {
        // A loop that ends by a failure may leave an event unanswered, and the client's end would wait for its answer. What is still
        // queued is answered by that end itself. Errors have no reader left.
        if self.holding.asked_in.is_some() || !self.context.events().is_empty() {
            let (consumer, none) = (self.consumer.consumer(), TopicPartitionList::new());
            let _ = consumer.incremental_assign(&none);
            let _ = consumer.incremental_unassign(&none);
        }
        self.context.closing.store(true, Ordering::Release);
    }
}

/// The committed offsets of partitions' inputs, as the consumer's isolation level shows them.
pub fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    settings: &ClientSettings,
    slot: &Slot,
    partitions: &[i32],
) -> Result<Vec<(i32, InputOffsets)>, Fault> {
    let topics = &settings.topics;
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(&topics.commands, *partition);
        asked.add_partition(&topics.backfill, *partition);
    }
    let found = watched(slot, "committed", REQUEST_TIMEOUT, || consumer.committed_offsets(asked, REQUEST_TIMEOUT))
        .map_err(|e| fault("the committed offsets cannot be read", &e))?;
    let mut offsets: BTreeMap<i32, InputOffsets> = partitions.iter().map(|p| (*p, InputOffsets::default())).collect();
    for element in found.elements() {
        // Each element has an error of its own, besides the call's.
        element.error().map_err(|e| fault("a committed offset cannot be read", &e))?;
        let Offset::Offset(offset) = element.offset() else { continue };
        let Some(entry) = offsets.get_mut(&element.partition()) else { continue };
        if element.topic() == topics.commands { entry.live = Some(offset) } else { entry.backfill = Some(offset) }
    }
    Ok(offsets.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::super::{MockKafka, TopicNames, Watchdog};
    use super::*;
    use rdkafka::producer::{BaseProducer, BaseRecord};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn cluster() -> (MockKafka, ClientSettings) {
        let [commands, backfill, completions, cards, dead_letters] =
            ["in", "back", "out", "cards", "dead"].map(String::from);
        let topics = TopicNames { commands, backfill, completions, cards, dead_letters };
        let kafka = MockKafka::start(&topics, 4).unwrap();
        let bootstrap_servers = kafka.bootstrap_servers();
        let (group_id, client) = ("g".to_owned(), BTreeMap::new());
        (kafka, ClientSettings { bootstrap_servers, group_id, client, topics, batch_bytes: 1_000_000 })
    }

    fn member(settings: &ClientSettings, name: &str) -> GroupLog {
        let identity = Identity { group_instance_id: Some(name.to_owned()), transactional_id: name.to_owned() };
        let slot = Watchdog::default().slot(name);
        let ends = Ends::start(settings, slot.clone()).unwrap();
        GroupLog::join(settings, &identity, ends, slot, &Figures::default()).unwrap()
    }

    fn until(log: &mut GroupLog, mut wanted: impl FnMut(&GroupEvent) -> bool) -> GroupEvent {
        let (deadline, mut others) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            for event in log.events().unwrap() {
                if wanted(&event) {
                    return event;
                }
                others.push(event);
            }
            assert!(Instant::now() < deadline, "no such event within {PATIENCE:?}, only {others:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// A consumer does not leave its thread: it is made, used and dropped in `life`. What is returned waits for the end of that.
    fn in_time(life: impl FnOnce() + Send + 'static) -> impl FnOnce() {
        let (ended, end) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            life();
            ended.send(()).unwrap();
        });
        move || end.recv_timeout(2 * PATIENCE).expect("it has failed, or its end hangs")
    }

    #[test]
    fn a_consumer_that_ends_is_answered_once() {
        let (_kafka, settings) = cluster();
        let end = in_time(move || {
            let context = GroupContext::new(Figures::default().client(ClientKind::Consumer, "only"));
            context.closing.store(true, Ordering::Release);
            let identity = Identity { group_instance_id: None, transactional_id: "only".into() };
            let consumer: BaseConsumer<GroupContext> =
                settings.consumer(&identity).create_with_context(context.clone()).unwrap();
            let rebalance = || {
                let revoked = RespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS;
                context.rebalance(&consumer, revoked, &mut TopicPartitionList::new());
            };
            let mut owned = TopicPartitionList::new();
            owned.add_partition(&settings.topics.commands, 0);
            consumer.assign(&owned).unwrap();
            rebalance();
            assert_eq!(consumer.assignment().unwrap().count(), 0, "the client waits for it");
            consumer.assign(&owned).unwrap();
            rebalance();
            assert_eq!(consumer.assignment().unwrap().count(), 1, "the client may be gone meanwhile");
        });
        end();
    }

    /// Two members, of which the first is asked to give partitions up, and has not been told.
    fn revoked(settings: &ClientSettings) -> (GroupLog, GroupLog) {
        let mut first = member(settings, "first");
        until(&mut first, |event| *event == GroupEvent::Assigned(vec![0, 1, 2, 3]));
        let mut second = member(settings, "second");
        let deadline = Instant::now() + PATIENCE;
        // The same assignment takes partitions from the first.
        while !second.events().unwrap().contains(&GroupEvent::Assigned(Vec::new())) {
            first.poll();
            if first.gives_up_unknowingly() {
                break;
            }
            // A member that leaves a rebalance before that unanswered would be let go. While one waits no other follows.
            if !first.context.events().is_empty() {
                first.events().unwrap();
            }
            assert!(Instant::now() < deadline, "nothing was revoked");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        (first, second)
    }

    /// How long the next record of a partition takes that a member keeps, after it was asked to give others up and did.
    fn read_on_after_an_answer() -> Duration {
        let (_kafka, settings) = cluster();
        let upstream: BaseProducer = settings.upstream().create().unwrap();
        let mut first = member(&settings, "first");
        until(&mut first, |event| *event == GroupEvent::Assigned(vec![0, 1, 2, 3]));
        (0..4).for_each(|partition| first.start(partition, 0, 0).unwrap());
        let mut second = member(&settings, "second");
        let event = until(&mut first, |event| {
            second.events().unwrap();
            matches!(event, GroupEvent::Revoked(_))
        });
        let GroupEvent::Revoked(going) = event else { unreachable!() };
        let kept = *first.started.keys().find(|p| !going.contains(p)).unwrap();
        // Longer than a request of before the event waits at the broker: there is nothing to be fetched any more.
        std::thread::park_timeout(Duration::from_millis(100));
        first.stop(&going).unwrap();
        let record = BaseRecord::<str, str>::to(&settings.topics.commands).partition(kept);
        upstream.send(record).map_err(|(error, _)| error).unwrap();
        let (answered, mut records) = (Instant::now(), Vec::<(Input, Record)>::new());
        while !records.iter().any(|(_, record)| record.partition == kept) {
            assert!(answered.elapsed() < PATIENCE, "nothing is read any more");
            first.events().unwrap();
            first.fetch(Input::Live, 100, Duration::from_millis(5), &mut records).unwrap();
        }
        answered.elapsed()
    }

    #[test]
    fn what_is_kept_is_read_on_at_once_after_an_answer_to_the_group() {
        let members: Vec<_> = (0..6).map(|_| std::thread::spawn(read_on_after_an_answer)).collect();
        let waited: Vec<_> = members.into_iter().map(|member| member.join().unwrap()).collect();
        // Unwoken, the client takes up to a second, and half of one in the mean. Some may be late for another reason.
        let late = waited.iter().filter(|waited| **waited > Duration::from_millis(200)).count();
        assert!(late <= 2, "{waited:?}");
    }

    #[test]
    fn the_end_waits_for_no_answer_to_what_is_still_queued() {
        let (_kafka, settings) = cluster();
        in_time(move || drop(revoked(&settings)))();
    }

    #[test]
    fn inv_8_nothing_is_committed_for_partitions_whose_revocation_was_answered_by_the_way() {
        let (_kafka, settings) = cluster();
        let end = in_time(move || {
            let (mut first, _second) = revoked(&settings);
            let deadline = Instant::now() + PATIENCE;
            // As for a partition that is restored anew.
            first.stop(&[]).unwrap();
            while first.context.events().is_empty() {
                assert!(Instant::now() < deadline, "nothing was revoked");
                first.stop(&[]).unwrap();
            }
            let offsets = InputOffsets { live: Some(1), backfill: None };
            let refused = first.transact(&Arc::default(), &[(0, offsets)]).unwrap_err();
            assert_eq!(
                refused,
                CommitError::NotOwner("partitions are going that the loop has not been told of".into())
            );
            // Not as revoked: no last commit may be made for them.
            assert!(matches!(first.events().unwrap()[..], [GroupEvent::Lost(_), ..]));
        });
        end();
    }

    #[test]
    fn inv_8_a_member_that_was_let_go_while_it_rebalanced_ends() {
        let (kafka, settings) = cluster();
        let (asked, when_asked) = crossbeam_channel::bounded(1);
        let (forgotten, when_forgotten) = crossbeam_channel::bounded(1);
        let end = in_time(move || {
            let (mut first, second) = revoked(&settings);
            drop(second);
            let going = until(&mut first, |event| matches!(event, GroupEvent::Revoked(_)));
            let GroupEvent::Revoked(going) = going else { unreachable!() };
            asked.send(()).unwrap();
            when_forgotten.recv().unwrap();
            let deadline = Instant::now() + PATIENCE;
            while membership(first.consumer.rk()).is_some() {
                assert!(Instant::now() < deadline, "the member is not forgotten");
                std::thread::park_timeout(Duration::from_millis(5));
            }
            first.stop(&going).unwrap();
            let refused = loop {
                assert!(Instant::now() < deadline, "it goes on");
                if let Err(refused) = first.events() {
                    break refused;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            };
            assert!(matches!(&refused, Fault::Fatal(text) if text.contains("took it in anew")), "{refused}");
        });
        when_asked.recv().unwrap();
        kafka.forget_member();
        forgotten.send(()).unwrap();
        end();
    }

    #[test]
    fn the_end_waits_for_no_answer_that_a_failed_loop_owes() {
        let (kafka, settings) = cluster();
        let (joined, when_joined) = crossbeam_channel::bounded(1);
        let end = in_time(move || {
            let mut only = member(&settings, "only");
            until(&mut only, |event| matches!(event, GroupEvent::Assigned(_)));
            joined.send(()).unwrap();
            // Whoever takes this event and fails before it gives the partitions up leaves the group without an answer.
            until(&mut only, |event| matches!(event, GroupEvent::Lost(_)));
            drop(only);
        });
        when_joined.recv().unwrap();
        kafka.forget_member();
        end();
    }
}
