//! Who in this process holds a partition's tree: one at a time, handed from loop to loop.

use crate::projection::Lease;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The partitions whose trees are held.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<BTreeSet<i32>>>);

/// The holding of one tree; given back when dropped, after which no write under it is carried out.
pub struct Held {
    partition: i32,
    lease: Lease,
    leases: Leases,
}

impl Leases {
    /// Takes a partition's tree; `None` while another part of the process holds it.
    pub fn take(&self, partition: i32) -> Option<Held> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition);
        fresh.then(|| Held { partition, lease: Lease::default(), leases: self.clone() })
    }
    /// Whether a partition's tree is held.
    pub fn is_held(&self, partition: i32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&partition)
    }
}

impl Held {
    /// The right to write.
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lease.end();
        self.leases.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_one_holder_at_a_time() {
        let leases = Leases::default();
        let held = leases.take(3).unwrap();
        assert!(leases.take(3).is_none());
        assert!(leases.take(4).is_some());
        drop(held);
        assert!(leases.take(3).is_some());
    }
}
