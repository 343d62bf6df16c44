//! A state directory that no worker holds, against what the topics alone give: INV-3 as an operator asks for it.

use super::Stop;
use super::rules::Rules;
use super::snapshot::SnapshotParts;
use crate::domain::{CardId, Remembered, RequestId, StoredAccount};
use crate::kafka::Reader;
use crate::projection::{BlockCache, LogIdentity, Projection, Store, Tree};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most differences told of a partition; all are counted.
const TOLD: usize = 20;

/// How a partition was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The partition.
    pub partition: i32,
    /// Cards that the topics give.
    pub cards: usize,
    /// Requests that they give.
    pub requests: usize,
    /// Differences.
    pub different: u64,
    /// The first of them, in words; nothing of their contents.
    pub told: Vec<String>,
}

impl Verified {
    fn differs(&mut self, what: impl FnOnce() -> String) {
        self.different += 1;
        if self.told.len() < TOLD {
            self.told.push(what());
        }
    }
}

/// Holds a partition's tree, with the tail that a start would read, against the topics read from their start.
pub fn verify_partition<R: Reader>(
    (reader, rules, identity): (&mut R, &Rules, &LogIdentity),
    partition: i32,
    store: &Arc<dyn Store>,
    now_ms: i64,
) -> Result<Verified, Stop> {
    let mut parts = SnapshotParts { reader, rules, identity, now_ms };
    let tree = Tree::new(partition, store.clone(), Arc::new(BlockCache::default()));
    let local = parts.of_tree(partition, tree)?;
    // Up to the same place: commands may go on meanwhile.
    let truth = parts.of_logs(partition, Some(local.ends))?;
    let mut verified = Verified { partition, ..Verified::default() };
    if let Some(why) = local.discarded {
        verified.differs(|| format!("what is on disk cannot be used ({why}): a start would restore everything"));
    }
    compare_cards(&cards(&local.projection), &cards(&truth.projection), &mut verified);
    let (of_disk, of_topics) = (requests(&local.projection, now_ms)?, requests(&truth.projection, now_ms)?);
    compare_requests(&of_disk, &of_topics, &mut verified);
    Ok(verified)
}

fn cards(projection: &Projection) -> BTreeMap<CardId, Vec<StoredAccount>> {
    let mut all = BTreeMap::new();
    projection.for_each_card(|id, accounts| drop(all.insert(*id, accounts.to_vec())));
    all
}

fn requests(projection: &Projection, now_ms: i64) -> Result<BTreeMap<RequestId, Remembered>, Stop> {
    let mut all: BTreeMap<RequestId, Remembered> = BTreeMap::new();
    let each = |id: &RequestId, found: Remembered| {
        let newest = all.entry(*id).or_insert(found);
        if newest.dt.at_ms < found.dt.at_ms {
            *newest = found;
        }
    };
    projection.for_each_request(now_ms, each).map_err(|e| Stop(e.to_string()))?;
    Ok(all)
}

fn compare_cards(
    local: &BTreeMap<CardId, Vec<StoredAccount>>,
    truth: &BTreeMap<CardId, Vec<StoredAccount>>,
    verified: &mut Verified,
) {
    verified.cards = truth.len();
    for (id, accounts) in truth {
        match local.get(id) {
            None => verified.differs(|| format!("card {id} is missing on disk")),
            Some(found) if found != accounts => verified.differs(|| format!("card {id} has other accounts on disk")),
            Some(_) => {}
        }
    }
    local.keys().filter(|id| !truth.contains_key(*id)).for_each(|id| {
        verified.differs(|| format!("card {id} is on disk, but not in the cards topic"));
    });
}

fn compare_requests(
    local: &BTreeMap<RequestId, Remembered>,
    truth: &BTreeMap<RequestId, Remembered>,
    verified: &mut Verified,
) {
    verified.requests = truth.len();
    for (id, remembered) in truth {
        match local.get(id) {
            None => verified.differs(|| format!("request {id} is not remembered on disk")),
            Some(found) if found != remembered => {
                verified.differs(|| format!("request {id} is remembered with another meaning or time on disk"));
            }
            Some(_) => {}
        }
    }
    local.keys().filter(|id| !truth.contains_key(*id)).for_each(|id| {
        verified.differs(|| format!("request {id} is remembered on disk, but not in the completions topic"));
    });
}
