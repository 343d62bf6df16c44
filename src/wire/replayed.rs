//! The headers of a backfilled command: what it keeps of the original's, and what says where it came from.

use super::headers::REPLAY_SOURCE;

/// On a backfilled command: which replay sent it.
pub const REPLAY_ID: &str = "replay-id";
/// On a backfilled command whose position is not one of this worker's commands topic: where it came from, for a person.
pub const REPLAY_ORIGIN: &str = "replay-origin";
/// On a dead letter that was sent again: its place in the dead-letter topic.
pub const REDRIVE_SOURCE: &str = "redrive-source";
/// The first of the headers that the worker adds to a dead letter, behind the original ones.
const DLQ_FIRST: &str = "dlq-reason";

/// Whether a header of the original is passed on: those that say where a backfilled command came from are made anew. A
/// position that another log's records carry must never be taken for one of this worker's.
pub fn is_kept(name: &str) -> bool {
    ![REPLAY_SOURCE, REPLAY_ID, REPLAY_ORIGIN, REDRIVE_SOURCE].contains(&name)
}

/// How many of a dead letter's headers are the original record's: the worker's own stand behind them in one block.
pub fn original_headers<'h>(names: impl Iterator<Item = &'h str>) -> usize {
    let (mut count, mut first) = (0, None);
    for name in names {
        if name == DLQ_FIRST {
            first = Some(count);
        }
        count += 1;
    }
    first.unwrap_or(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_another_log_are_not_passed_on() {
        assert!(["traceparent", "x", "dlq-reason"].into_iter().all(is_kept));
        assert!(!["replay-source", "replay-id", "replay-origin", "redrive-source"].into_iter().any(is_kept));
    }

    #[test]
    fn the_originals_headers_end_where_the_last_block_begins() {
        let own = ["dlq-reason", "dlq-message", "dlq-topic"];
        let upstreams = ["a", "dlq-reason", "b"];
        assert_eq!(original_headers(upstreams.into_iter().chain(own)), 3);
        assert_eq!(original_headers(own.into_iter()), 0);
        assert_eq!(original_headers(["a"].into_iter()), 1);
    }
}
