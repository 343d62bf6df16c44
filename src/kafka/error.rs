//! What can go wrong with Kafka, named by the reaction that it demands.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// A failure outside a transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The same may succeed a moment later: wait and try again, within a limit.
    #[error("{0}")]
    Retry(String),
    /// A partition can no longer be read where it was: restore it anew, which says why or goes on.
    #[error("partition {partition} cannot be read on: {cause}")]
    Restore {
        /// The partition.
        partition: i32,
        /// The client's words.
        cause: String,
    },
    /// Another process has this worker's identity: end the process, exit 1.
    #[error("{0}")]
    Fenced(String),
    /// Nothing that is tried again will help: end the process, exit 1.
    #[error("{0}")]
    Fatal(String),
}

/// A transaction that did not demonstrably commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// It was aborted and nothing of it is visible: run the batch again.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// It was aborted because the broker refuses these output records (by index): answer their inputs otherwise.
    #[error("the broker refuses {} records for their size", .0.len())]
    Refused(Vec<usize>),
    /// It was aborted because this member is not (or no longer) in the group: drain its events, then see what is left.
    #[error("the transaction was aborted, as the group has moved on: {0}")]
    NotOwner(String),
    /// It may have been committed or not: never guess; a new producer, then the committed offsets tell.
    #[error("the outcome of the transaction is unknown: {0}")]
    OutcomeUnknown(String),
    /// The producer was fenced or has failed; whether the transaction was committed is unknown too.
    #[error("the producer was fenced: {0}")]
    ProducerFenced(String),
    /// Nothing that is tried again will help: end the process, exit 1.
    #[error("{0}")]
    Fatal(String),
}

/// Classifies what a call outside a transaction said.
pub fn fault(what: &str, error: &KafkaError) -> Fault {
    use RDKafkaErrorCode as Code;
    let text = format!("{what}: {error}");
    match error.rdkafka_error_code() {
        Some(Code::FencedInstanceId) => Fault::Fenced(fenced_instance(&text)),
        Some(code) if is_denied(code) => Fault::Fatal(format!("{text}; {GRANT}")),
        Some(Code::SaslAuthenticationFailed | Code::Authentication)
        | Some(Code::UnsupportedVersion | Code::UnsupportedFeature | Code::InvalidArgument | Code::Fatal) => {
            Fault::Fatal(text)
        }
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_) | KafkaError::ClientConfig(..)) => {
            Fault::Fatal(text)
        }
        _ => Fault::Retry(text),
    }
}

/// What to do about a right that is missing.
pub const GRANT: &str = "a right is missing: `doctor` tries each, and deploy/kubernetes/strimzi/user.yaml lists them";

/// Whether a code says that this client may not do what it asks: trying again does not help, and waiting would look like health.
pub const fn is_denied(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// The line for a member that was replaced.
pub fn fenced_instance(text: &str) -> String {
    format!(
        "another worker uses the same worker.instance_id, or the answer to this one's own join was lost ({text}): started again it \
         goes on, unless there is another: give each worker an instance_id of its own, or leave it empty"
    )
}

/// Whether a code says that the group no longer knows this member.
pub const fn is_group_error(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::RebalanceInProgress
            | Code::FencedInstanceId
            | Code::FencedMemberEpoch
            | Code::StaleMemberEpoch
    )
}

/// Whether a code says that a newer producer has this one's transactional id, or that its transaction timed out.
pub const fn is_fencing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}
