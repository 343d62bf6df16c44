//! The record that makes blocks a checkpoint: which of them count, and up to where in the logs they are complete.

use super::block::{self, BlockId};
use super::requests::RequestMark;
use super::store::{StoreError, Tree};
use serde::{Deserialize, Serialize};

/// Whose logs a checkpoint caches; one that names others is in doubt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIdentity {
    /// The cluster's id.
    pub cluster: String,
    /// The id of the cards topic.
    pub cards_topic: String,
    /// The id of the completions topic.
    pub completions_topic: String,
    /// How many partitions the topics have.
    pub partitions: i32,
}

/// Next offsets of a partition's two logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// Of the cards topic.
    pub cards: i64,
    /// Of the completions topic.
    pub completions: i64,
}

/// The meta record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Whose logs it caches.
    pub identity: LogIdentity,
    /// From here the logs must be replayed.
    pub positions: Positions,
    /// Generation of the cards' blocks.
    pub generation: u32,
    /// The cards are in `2^bits` buckets.
    pub bits: u32,
    /// Which blocks of requests count.
    pub requests: RequestMark,
    /// The latest decision time, milliseconds since the epoch.
    pub decided_ms: i64,
}

impl Meta {
    /// The sealed record.
    pub fn block(&self) -> Vec<u8> {
        let mut out = Vec::new();
        block::begin(BlockId::META, self.positions.cards, &mut out);
        // A struct of numbers and strings has a JSON form.
        out.extend(serde_json::to_vec(self).unwrap_or_default());
        block::seal(&mut out);
        out
    }

    /// Reads it back; `None` when the tree has none.
    pub fn load(tree: &Tree) -> Result<Option<Self>, StoreError> {
        let Some(stored) = tree.get(&BlockId::META.key())? else { return Ok(None) };
        let (_, body) = block::open(BlockId::META, &stored).ok_or(StoreError::Damaged("the meta record is damaged"))?;
        let meta: Self =
            serde_json::from_slice(body).map_err(|_| StoreError::Damaged("the meta record is not readable"))?;
        // 2^22 buckets of 4 to 8 KiB are more than a partition can hold in memory.
        if meta.bits > 22 {
            return Err(StoreError::Damaged("the meta record has an impossible number of buckets"));
        }
        Ok(Some(meta))
    }
}
