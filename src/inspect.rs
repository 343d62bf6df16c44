//! Looking into a state directory that no worker holds, on a copy: nothing in the directory changes.

use crate::projection::{Projection, StateDir, Store, Tree};
use crate::wire::encode_card;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the directory has of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionDump {
    /// The partition.
    pub partition: i32,
    /// The next offset of the cards topic from which it must be replayed.
    pub cards_position: i64,
    /// The same of the completions topic.
    pub completions_position: i64,
    /// Card id → card record.
    pub cards: BTreeMap<String, serde_json::Value>,
    /// Request id → fingerprint as the header `request-fingerprint` shows it.
    pub requests: BTreeMap<String, String>,
}

/// Reads all partitions of a state directory.
pub fn dump(state_dir: &Path) -> Result<Vec<PartitionDump>, String> {
    let (_copy, store) = StateDir::open_to_read(state_dir)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let mut dumps = Vec::new();
    for partition in store.partitions() {
        let tree = Tree::new(partition, store.clone(), Arc::default());
        let opened = Projection::open_as_found(tree).map_err(|e| format!("partition {partition}: {e}"))?;
        if let Some(projection) = opened {
            dumps.push(partition_dump(partition, &projection)?);
        }
    }
    Ok(dumps)
}

fn partition_dump(partition: i32, projection: &Projection) -> Result<PartitionDump, String> {
    let positions = projection.positions();
    let mut cards = BTreeMap::new();
    projection.for_each_card(|id, accounts| {
        let mut record = Vec::new();
        encode_card(id, accounts, &mut record);
        cards.insert(id.to_string(), serde_json::from_slice(&record).unwrap_or_default());
    });
    let mut requests = BTreeMap::new();
    let each = |id: &crate::domain::RequestId, remembered: crate::domain::Remembered| {
        let text = String::from_utf8_lossy(&remembered.fingerprint.text()).into_owned();
        requests.insert(id.to_string(), text);
    };
    projection.for_each_request(0, each).map_err(|e| e.to_string())?;
    Ok(PartitionDump {
        partition,
        cards_position: positions.cards,
        completions_position: positions.completions,
        cards,
        requests,
    })
}
