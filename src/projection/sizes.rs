//! How large blocks and queues get. A simulation makes them small, so that few commands reach every path that many would.

/// The sizes of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Requests of a full block: 4 KiB with its frame. A repeated request reads one, and sled keeps sixteen to a page.
    pub requests_per_block: usize,
    /// When the mean block of cards outgrows it, buckets are split until there are twice as many. sled keeps up to sixteen blocks to
    /// a page and never fewer than 256 pages in memory: with 32 KiB that was all of a million cards once more.
    pub grow_at_mean_bytes: u64,
    /// Bytes of rounds handed to the writer in one step of a loop, of all its partitions together, so that a batch never waits long
    /// for a round: 5 ms are allowed, these take some 2. The block that reaches it is the last.
    pub bytes_per_step: usize,
    /// The same of requests written ahead: more than a batch brings. Apart from the rounds', so that neither holds up the other.
    pub ahead_per_step: usize,
    /// Blocks that may wait for the writer: some 4 MiB.
    pub queue: usize,
    /// A change smaller than this counts as so much when it is asked whether a round pays.
    pub least_change_bytes: u64,
    /// Most bytes of remembered requests whose only copy is in memory, for a partition: some 1.5 million requests. Beyond it the
    /// partition takes no more commands until the disk has followed.
    pub max_unwritten_bytes: u64,
}

const SIZES: Sizes = Sizes {
    requests_per_block: 96,
    grow_at_mean_bytes: 8 * 1024,
    bytes_per_step: 2 * 1024 * 1024,
    ahead_per_step: 1024 * 1024,
    queue: 1024,
    least_change_bytes: 4096,
    max_unwritten_bytes: 64 * 1024 * 1024,
};

/// The sizes to go by.
#[cfg(not(any(test, feature = "simulation")))]
pub const fn sizes() -> Sizes {
    SIZES
}

#[cfg(any(test, feature = "simulation"))]
pub use small::{make_small, sizes};

#[cfg(any(test, feature = "simulation"))]
mod small {
    use super::{SIZES, Sizes};
    use std::cell::Cell;

    const SMALL: Sizes = Sizes {
        requests_per_block: 8,
        grow_at_mean_bytes: 300,
        bytes_per_step: 400,
        ahead_per_step: 400,
        queue: 2,
        least_change_bytes: 64,
        max_unwritten_bytes: 20_000,
    };

    thread_local! {
        static IN_USE: Cell<Sizes> = const { Cell::new(SIZES) };
    }

    /// The sizes to go by on this thread.
    pub fn sizes() -> Sizes {
        IN_USE.get()
    }
    /// From now on this thread's are small, or not.
    pub fn make_small(small: bool) {
        IN_USE.set(if small { SMALL } else { SIZES });
    }
}
