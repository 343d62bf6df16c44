//! What became of replayed commands: the same figures whether they were counted from the answers or from a dry run.

use serde::Serialize;
use std::collections::BTreeMap;

/// The figures, by the names of the metrics' label `result`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplayTally {
    /// New and `ok`.
    pub applied: u64,
    /// Answered by the first completion again.
    pub replayed: u64,
    /// `duplicate_request`.
    pub duplicate: u64,
    /// `request_id_conflict`.
    pub conflict: u64,
    /// `stale_command`.
    pub stale: u64,
    /// Processed without an answer, by configuration.
    pub suppressed: u64,
    /// Processed, but what they were answered is deleted already.
    pub untold: u64,
    /// Other errors by code.
    pub rejected: BTreeMap<String, u64>,
    /// Dead letters by reason.
    pub dead: BTreeMap<String, u64>,
}

impl ReplayTally {
    /// Counts a completion: replayed or not, with the error's code if it has one.
    pub fn completion(&mut self, replayed: bool, code: Option<&str>) {
        match code {
            None if replayed => self.replayed += 1,
            None => self.applied += 1,
            Some("duplicate_request") => self.duplicate += 1,
            Some("request_id_conflict") => self.conflict += 1,
            Some("stale_command") => self.stale += 1,
            Some(code) => *self.rejected.entry(code.to_owned()).or_default() += 1,
        }
    }

    /// Counts a dead letter.
    pub fn dead_letter(&mut self, reason: &str) {
        *self.dead.entry(reason.to_owned()).or_default() += 1;
    }

    /// Commands with a completion or a dead letter.
    pub fn answered(&self) -> u64 {
        let errors: u64 = self.rejected.values().chain(self.dead.values()).sum();
        self.applied + self.replayed + self.duplicate + self.conflict + self.stale + errors
    }

    /// Whether nothing needs a person: neither rejected, nor in conflict, nor dead, nor untold.
    pub fn is_clean(&self) -> bool {
        self.untold == 0
            && self.conflict == 0
            && self.duplicate == 0
            && self.rejected.is_empty()
            && self.dead.is_empty()
    }

    /// Rows for a person: what, and how many.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let fixed = [
            ("applied", self.applied),
            ("replayed", self.replayed),
            ("stale", self.stale),
            ("suppressed", self.suppressed),
            ("duplicate", self.duplicate),
            ("conflict", self.conflict),
        ];
        let mut rows: Vec<_> = fixed.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        rows.extend((self.untold > 0).then(|| ("answers deleted already".to_owned(), self.untold)));
        rows.extend(self.rejected.iter().map(|(code, count)| (format!("rejected: {code}"), *count)));
        rows.extend(self.dead.iter().map(|(reason, count)| (format!("dead letter: {reason}"), *count)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_counts_once_under_its_name() {
        let mut tally = ReplayTally::default();
        let codes = ["request_id_conflict", "stale_command", "duplicate_request", "invalid_iban", "invalid_iban"];
        codes.into_iter().for_each(|code| tally.completion(false, Some(code)));
        tally.completion(false, None);
        tally.completion(true, None);
        tally.dead_letter("malformed_json");
        assert_eq!((tally.applied, tally.replayed, tally.conflict, tally.stale, tally.duplicate), (1, 1, 1, 1, 1));
        assert_eq!(tally.rejected["invalid_iban"], 2);
        assert_eq!(tally.answered(), 8);
        assert!(!tally.is_clean());
        assert_eq!(tally.rows().iter().map(|(_, n)| n).sum::<u64>(), 8);
    }
}
