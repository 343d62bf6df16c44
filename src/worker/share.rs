//! How a loop's time is shared between live and backfilled commands: live first. Pure; it is told the time.
//!
//! A transaction of backfilled commands holds up the live ones that come meanwhile. So its size is small, and while live commands
//! come, pauses between two of them are long. Measured with 200 live commands a second beside a replay at full speed, broker,
//! worker, replay and meter on two cores: live p99 46 ms with shared transactions of 1000 and no pause (14-22 ms alone), 15-17 ms
//! like this (15-28 ms alone in the same run); 6,200 backfilled commands a second beside them.

use std::time::{Duration, Instant};

/// Most backfilled commands of a batch: live commands that arrive meanwhile wait no longer than these take.
const PER_BATCH: usize = 250;
/// While live commands come, backfill stands back this many times as long as its last batch took: a tenth of the time is its.
const PAUSE: u32 = 9;
/// However much live commands come, backfill is looked at this often; it shares their transaction then.
const AT_LEAST_EVERY: Duration = Duration::from_millis(100);
/// Live commands come as long as the last was read no longer ago than this.
const LIVE_COMES: Duration = Duration::from_secs(1);
/// How long a loop waits for a live command while backfill stands back.
const PAUSE_WAIT: Duration = Duration::from_millis(1);

/// The share of one loop.
pub struct Share {
    /// Backfilled commands a second; 0 for no limit.
    rate: f64,
    tokens: f64,
    tokens_ms: i64,
    /// How long the broker takes to write a transaction's markers, roughly.
    marker_time: Duration,
    live_at: Option<Instant>,
    /// Whether the last look found backfilled commands.
    found: bool,
    /// When backfilled commands were last taken.
    taken_at: Instant,
    /// When the transaction with them was committed, and how long all of it took; `None` until it is.
    done: Option<(Instant, Duration)>,
    /// Whether no transaction was committed since.
    latest: bool,
}

impl Share {
    /// A share that allows `rate` backfilled commands a second; 0 for no limit.
    pub fn new(rate: u64, marker_time: Duration, now: Instant) -> Self {
        Self {
            rate: rate as f64,
            tokens: 0.0,
            tokens_ms: 0,
            marker_time,
            live_at: None,
            found: false,
            taken_at: now,
            done: None,
            latest: false,
        }
    }

    /// How many backfilled commands may be taken beside `live` waiting live ones.
    pub fn allows(&mut self, live: usize, now: Instant, now_ms: i64) -> usize {
        if live > 0 {
            self.live_at = Some(now);
        }
        if self.stands_back(live, now) {
            return 0;
        }
        self.found = false;
        PER_BATCH.min(self.allowance(now_ms))
    }

    /// So many were taken.
    pub fn took(&mut self, commands: usize, now: Instant) {
        self.tokens -= commands as f64;
        self.found = commands > 0;
        if self.found {
            (self.taken_at, self.done) = (now, None);
        }
    }

    /// A transaction was committed.
    pub fn committed(&mut self, now: Instant) {
        self.latest = self.done.is_none() && self.found;
        if self.latest {
            self.done = Some((now, now.saturating_duration_since(self.taken_at)));
        }
    }

    /// How long to wait for a live command, where backfilled ones are waiting.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.found.then(|| if self.stands_back(0, now) { PAUSE_WAIT } else { Duration::ZERO })
    }

    /// How long the transaction after one with backfilled commands had better not begin: one that meets the other's markers half
    /// written is held up by the client for 20 ms. Live transactions among themselves are begun at once: few meet, and all would
    /// wait.
    pub fn until_markers_are_written(&self, now: Instant) -> Duration {
        let Some((at, _)) = self.done.filter(|_| self.latest) else { return Duration::ZERO };
        let left = self.marker_time.saturating_sub(now.saturating_duration_since(at));
        // Waits are whole milliseconds.
        if left.is_zero() { left } else { left.max(Duration::from_millis(1)) }
    }

    fn stands_back(&self, live: usize, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let pauses = self.done.is_some_and(|(at, took)| since(at) < PAUSE * took);
        let live_comes = self.live_at.is_some_and(|at| since(at) < LIVE_COMES);
        since(self.taken_at) < AT_LEAST_EVERY && (live > 0 || (live_comes && pauses))
    }

    /// How many the rate allows now.
    fn allowance(&mut self, now_ms: i64) -> usize {
        if self.rate == 0.0 {
            return usize::MAX;
        }
        let elapsed_ms = (now_ms - self.tokens_ms).clamp(0, 1000) as f64;
        self.tokens_ms = now_ms;
        self.tokens = (self.tokens + self.rate * elapsed_ms / 1000.0).min(self.rate.max(1.0));
        self.tokens.max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn share() -> (Share, Instant) {
        let start = Instant::now();
        (Share::new(0, 4 * MS, start), start + 200 * MS)
    }

    /// A batch of backfilled commands that takes 5 ms.
    fn batch(share: &mut Share, at: Instant) -> Instant {
        assert_eq!(share.allows(0, at, 0), PER_BATCH);
        share.took(PER_BATCH, at);
        share.committed(at + 5 * MS);
        at + 5 * MS
    }

    #[test]
    fn alone_backfill_goes_on_at_once() {
        let (mut share, at) = share();
        let at = batch(&mut share, at);
        assert_eq!(share.wait(at), Some(Duration::ZERO));
        assert_eq!(share.allows(0, at, 0), PER_BATCH);
        share.took(0, at);
        assert_eq!(share.wait(at), None, "nothing is waiting");
    }

    #[test]
    fn while_live_commands_come_backfill_takes_a_tenth_of_the_time_and_shares_no_transaction() {
        let (mut share, at) = share();
        assert_eq!(share.allows(3, at, 0), PER_BATCH, "nothing was taken for long");
        let at = batch(&mut share, at + MS);
        assert_eq!(share.allows(3, at, 0), 0);
        assert_eq!((share.allows(0, at + 44 * MS, 0), share.wait(at + 44 * MS)), (0, Some(PAUSE_WAIT)));
        // Live transactions meanwhile are no part of the time that it took.
        share.committed(at + 44 * MS);
        assert_eq!(share.allows(1, at + 45 * MS, 0), 0);
        assert_eq!(share.allows(0, at + 45 * MS, 0), PER_BATCH);
        assert_eq!(share.allows(5, at + 96 * MS, 0), PER_BATCH, "it is not starved either");
    }

    #[test]
    fn only_the_transaction_after_one_with_backfill_waits_for_its_markers() {
        let (mut share, at) = share();
        assert_eq!(share.until_markers_are_written(at), Duration::ZERO);
        let at = batch(&mut share, at);
        assert_eq!(share.until_markers_are_written(at + MS), 3 * MS);
        assert_eq!(share.until_markers_are_written(at + Duration::from_micros(3900)), MS);
        assert_eq!(share.until_markers_are_written(at + 4 * MS), Duration::ZERO);
        share.committed(at + MS);
        assert_eq!(share.until_markers_are_written(at + MS), Duration::ZERO);
    }

    #[test]
    fn the_rate_is_kept() {
        let now = Instant::now();
        let mut share = Share::new(100, Duration::ZERO, now);
        share.allows(0, now, 10_000);
        let mut taken = 0;
        for ms in 10_001..=12_000 {
            let allowed = share.allows(0, now, ms);
            share.took(allowed, now);
            taken += allowed;
        }
        assert!((200..=300).contains(&taken), "{taken} in two seconds, and what a second had saved");
    }
}
