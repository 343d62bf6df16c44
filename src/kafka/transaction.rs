//! One loop's transactional producer: begin, produce, send offsets, commit; and what each failure demands.
//!
//! Offsets are sent before the flush, so that their round trips overlap delivery. Every transaction carries offsets:
//! without, the client would contact no coordinator and nothing would fence it.

use super::error::{GRANT, fault, is_denied, is_fencing, is_group_error};
use super::group::GroupContext;
use super::raw::{CallError, Consumer, Transactions, membership};
use super::settings::{log_client, watched};
use super::{ClientFigures, ClientSettings, CommitError, Committed, Fault, Identity, Slot};
use crate::wire::{OutTopic, Outbox};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const SEND_OFFSETS_TIMEOUT: Duration = Duration::from_secs(15);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
const ABORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Slices in which records are flushed, with the reports of refused ones drained in between: the client would wait for them in vain.
const SLICE: Duration = Duration::from_millis(100);
const INIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to serve reports, microseconds each.
const DRAIN: Duration = Duration::from_millis(2);
/// How long a full send queue may stay full.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// Collects the records that the broker refused.
#[derive(Clone)]
struct Reports {
    refused: Arc<Mutex<Vec<(usize, Code)>>>,
    /// The topic of the last record that this worker may not write.
    denied: Arc<Mutex<String>>,
    figures: ClientFigures,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
    fn stats_raw(&self, statistics: &[u8]) {
        self.figures.take(statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;
    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            if is_denied(code) {
                message.topic().clone_into(&mut self.denied.lock().unwrap_or_else(PoisonError::into_inner));
            }
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).push((index, code));
        }
    }
}

/// As whom alone a loop may commit. The broker asks for the group's present generation only, not for the partitions' owner.
pub struct Standing<'m> {
    /// The member id with which it holds partitions, while it holds any.
    pub member: Option<&'m str>,
    /// The generation in which it was asked to give partitions up; their last commit belongs into it. librdkafka may join the next
    /// one meanwhile, where the topic has got more partitions.
    pub generation: Option<i32>,
}

impl Standing<'_> {
    /// The client does not tell a member that was let go while it rebalanced that all it held is lost: a static one is taken in anew
    /// without a word, and what it commits then may overwrite another owner's offsets.
    pub fn is_who_it_was(&self, now: &str) -> Result<(), String> {
        if self.member.is_none_or(|member| member == now) {
            return Ok(());
        }
        let text = "the group let this member go while it was rebalancing, and took it in anew: its partitions may have had another \
                    owner since; started again the worker goes on";
        Err(text.into())
    }

    fn check(&self, member: &str, generation: i32) -> Result<(), CommitError> {
        self.is_who_it_was(member).map_err(CommitError::Fatal)?;
        if self.generation.is_none_or(|asked_in| asked_in == generation) {
            return Ok(());
        }
        Err(CommitError::NotOwner("the group has gone on without waiting for what is being given up".into()))
    }
}

/// The producer and what is needed to make it anew.
pub struct TransactionLog {
    settings: ClientSettings,
    identity: Identity,
    reports: Reports,
    producer: Option<Transactions<Reports>>,
    slot: Slot,
}

impl TransactionLog {
    /// Makes the producer; a former one's open transaction is decided when this returns.
    pub fn start(
        settings: &ClientSettings,
        identity: &Identity,
        slot: Slot,
        figures: ClientFigures,
    ) -> Result<Self, Fault> {
        let (settings, identity) = (settings.clone(), identity.clone());
        let reports = Reports { refused: Arc::default(), denied: Arc::default(), figures };
        let mut log = Self { settings, identity, reports, producer: None, slot };
        log.reset()?;
        Ok(log)
    }

    /// Makes a new producer under the same identity, which fences and decides the former one's transaction.
    pub fn reset(&mut self) -> Result<(), Fault> {
        // Purged and destroyed first: two producers of one identity in one process would fence each other.
        let former = self.producer.take();
        watched(&self.slot, "destroy", INIT_TIMEOUT, || drop(former));
        self.reports.refused = Arc::default();
        self.reports.figures.made_anew();
        let config = self.settings.producer(&self.identity);
        let producer: BaseProducer<Reports> =
            config.create_with_context(self.reports.clone()).map_err(|e| fault("the producer cannot be made", &e))?;
        watched(&self.slot, "init_transactions", INIT_TIMEOUT, || producer.init_transactions(INIT_TIMEOUT))
            .map_err(|e| fault("transactions cannot be initialised", &e))?;
        let topics = &self.settings.topics;
        let names = OutTopic::ALL.map(|topic| match topic {
            OutTopic::Completions => topics.completions.as_str(),
            OutTopic::Cards => topics.cards.as_str(),
            OutTopic::DeadLetters => topics.dead_letters.as_str(),
        });
        let producer = Transactions::new(producer, &names);
        self.producer = Some(producer.ok_or_else(|| Fault::Fatal("no memory for the producer".into()))?);
        Ok(())
    }

    /// Serves the client's events between transactions: without, they would pile up while nothing is to be committed.
    pub fn serve(&self) {
        if let Some(producer) = &self.producer {
            producer.producer().poll(Duration::ZERO);
        }
    }

    /// One transaction.
    pub fn transact(
        &mut self,
        outbox: &Arc<Outbox>,
        offsets: &TopicPartitionList,
        consumer: &Consumer<GroupContext>,
        standing: &Standing<'_>,
    ) -> Result<Committed, CommitError> {
        let Some(producer) = &self.producer else {
            return Err(CommitError::OutcomeUnknown("there is no producer".into()));
        };
        // Errors of the connection come as events too, and would pile up.
        producer.producer().poll(Duration::ZERO);
        self.drained();
        watched(&self.slot, "begin_transaction", COMMIT_TIMEOUT, || producer.producer().begin_transaction())
            .map_err(|e| CommitError::OutcomeUnknown(e.to_string()))?;
        let began = Instant::now();
        let produced = self.produce(producer, outbox).map(|()| began.elapsed());
        let staged = produced.and_then(|produced| {
            self.offsets(producer, offsets, consumer, standing)?;
            self.commit(producer).map(|()| produced)
        });
        match staged {
            Ok(produced) => Ok(Committed::proven(produced)),
            Err(failed) => Err(self.failed(producer, failed)),
        }
    }

    fn produce(&self, producer: &Transactions<Reports>, outbox: &Arc<Outbox>) -> Result<(), Step> {
        let deadline = Instant::now() + QUEUE_TIMEOUT;
        for index in 0..outbox.len() {
            while let Err(error) = producer.produce(outbox, index) {
                if error.code == Code::MessageSizeTooLarge {
                    return Err(Step::Refused(index));
                }
                if error.code != Code::QueueFull || Instant::now() > deadline {
                    return Err(Step::Before(error));
                }
                producer.producer().poll(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn offsets(
        &self,
        producer: &Transactions<Reports>,
        offsets: &TopicPartitionList,
        consumer: &Consumer<GroupContext>,
        standing: &Standing<'_>,
    ) -> Result<(), Step> {
        let deadline = Instant::now() + SEND_OFFSETS_TIMEOUT;
        loop {
            // Anew for each try: the member may be let go and taken in anew between two.
            let Some(now) = membership(consumer.rk()).filter(|_| !consumer.lost()) else {
                return Err(Step::GivenUp(CommitError::NotOwner("it is no member".into())));
            };
            standing.check(&now.member, now.generation).map_err(Step::GivenUp)?;
            let sent = watched(&self.slot, "send_offsets_to_transaction", SEND_OFFSETS_TIMEOUT, || {
                producer.send_offsets(offsets, &now, SEND_OFFSETS_TIMEOUT.as_millis() as i32)
            });
            match sent {
                Err(error) if error.retriable && Instant::now() < deadline => {}
                other => return other.map_err(Step::Before),
            }
        }
    }

    /// Flushes, then commits in one call. That call must never be gone on with after its time-out, though the client's documentation
    /// offers it: where its main thread is late by as much (librdkafka 2.12.1, `rd_kafka_txn_op_begin_commit`), it takes the answer
    /// of an earlier try for this one's, or ends the process over a commit that is answered between two tries.
    fn commit(&self, producer: &Transactions<Reports>) -> Result<(), Step> {
        self.flush(producer)?;
        let timeout = COMMIT_TIMEOUT.as_millis() as i32;
        watched(&self.slot, "commit_transaction", COMMIT_TIMEOUT, || producer.commit(timeout)).map_err(Step::Commit)
    }

    fn flush(&self, producer: &Transactions<Reports>) -> Result<(), Step> {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        while !watched(&self.slot, "flush", SLICE, || producer.flush(SLICE.as_millis() as i32)) {
            if Instant::now() > deadline {
                let text = format!("records were not delivered within {} s", FLUSH_TIMEOUT.as_secs());
                return Err(Step::GivenUp(CommitError::Aborted(text)));
            }
            drain(producer);
        }
        Ok(())
    }

    /// What a failure demands; where the transaction can still be aborted, it is when this returns.
    fn failed(&self, producer: &Transactions<Reports>, failed: Step) -> CommitError {
        let (error, at_commit) = match failed {
            Step::GivenUp(error) => return self.abort(producer, || error),
            Step::Refused(index) => return self.abort(producer, || CommitError::Refused(vec![index])),
            Step::Before(error) => (error, false),
            Step::Commit(error) => (error, true),
        };
        let text = format!("{} ({})", error.message, error.code);
        if is_fencing(error.code) {
            return CommitError::ProducerFenced(text);
        }
        // A commit that is neither abortable nor done may have reached the coordinator: this client cannot tell (KIP-890).
        if error.fatal || (at_commit && !error.abortable) {
            return CommitError::OutcomeUnknown(text);
        }
        let code = error.code;
        self.abort(producer, || {
            if is_denied(code) {
                CommitError::Fatal(self.denied(&text))
            } else if is_group_error(code) {
                CommitError::NotOwner(text)
            } else {
                CommitError::Aborted(text)
            }
        })
    }

    /// The coordinator does not say which topic of a transaction is denied.
    fn denied(&self, text: &str) -> String {
        let t = &self.settings.topics;
        format!(
            "{text}; grant Write on {}, {} and {}; grant Read on {}, {} and the group; {GRANT}",
            t.completions, t.cards, t.dead_letters, t.commands, t.backfill
        )
    }

    /// Aborts, then says why; a transaction that cannot even be aborted leaves its outcome unknown.
    fn abort(&self, producer: &Transactions<Reports>, why: impl FnOnce() -> CommitError) -> CommitError {
        if let Err(failed) = self.aborted(producer) {
            return CommitError::OutcomeUnknown(format!("it could not be aborted: {failed}"));
        }
        drain(producer);
        self.refused().unwrap_or_else(why)
    }

    /// The client's call waits until the reports of all records are served, so another thread does that meanwhile. Like a commit it
    /// is not gone on with after its time-out.
    fn aborted(&self, producer: &Transactions<Reports>) -> Result<(), String> {
        let (client, over) = (producer.producer(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let serve = || {
                while !over.load(Ordering::Relaxed) {
                    client.poll(DRAIN);
                }
            };
            let reports = std::thread::Builder::new().name("abort-reports".into());
            reports.spawn_scoped(scope, serve).map_err(|e| format!("no thread serves its reports: {e}"))?;
            let aborted = self.abort_calls(producer);
            over.store(true, Ordering::Relaxed);
            aborted.map_err(|e| e.message)
        })
    }

    fn abort_calls(&self, producer: &Transactions<Reports>) -> Result<(), CallError> {
        let deadline = Instant::now() + ABORT_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let aborted = watched(&self.slot, "abort_transaction", left, || producer.abort(left.as_millis() as i32));
            let unsent = |e: &CallError| e.retriable && e.code != Code::OperationTimedOut;
            match aborted {
                Err(error) if unsent(&error) && Instant::now() < deadline => drain(producer),
                other => return other,
            }
        }
    }

    /// What the delivery reports say of refused records.
    fn refused(&self) -> Option<CommitError> {
        let reports = self.drained();
        if reports.iter().any(|(_, code)| *code == Code::InvalidTimestamp) {
            return Some(CommitError::Fatal(
                "the broker refuses the timestamps of this worker's own records: this machine's clock is ahead; mend the clock"
                    .into(),
            ));
        }
        if let Some((_, code)) = reports.iter().find(|(_, code)| is_denied(*code)) {
            let topic = self.reports.denied.lock().unwrap_or_else(PoisonError::into_inner);
            return Some(CommitError::Fatal(format!("{topic} cannot be written: {code}; grant Write on it; {GRANT}")));
        }
        let refused =
            |code: Code| matches!(code, Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessageSize);
        let indices: Vec<_> = reports.iter().filter(|(_, code)| refused(*code)).map(|(index, _)| *index).collect();
        (!indices.is_empty()).then_some(CommitError::Refused(indices))
    }

    fn drained(&self) -> Vec<(usize, Code)> {
        std::mem::take(&mut *self.reports.refused.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves the events that wait: a poll serves as many as its time allows, and without any time only one.
fn drain(producer: &Transactions<Reports>) {
    producer.producer().poll(DRAIN);
}

/// Where a transaction failed.
enum Step {
    /// The worker itself gives it up, before the commit was asked for.
    GivenUp(CommitError),
    /// The client itself refuses a record for its size.
    Refused(usize),
    /// Before the commit was asked for.
    Before(CallError),
    /// In the commit.
    Commit(CallError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv_8_a_last_commit_stays_in_the_generation_in_which_it_was_asked_for() {
        let commit = |member, generation| Standing { member, generation }.check("m", 7);
        assert_eq!(commit(None, None), Ok(()));
        assert_eq!(commit(Some("m"), Some(7)), Ok(()));
        assert!(matches!(commit(Some("m"), Some(6)), Err(CommitError::NotOwner(_))));
        assert!(matches!(commit(Some("former"), Some(7)), Err(CommitError::Fatal(_))));
    }
}
