//! A rate limit, pure: how many commands may go now.

use std::time::Instant;

/// A bucket that holds a second's commands, one at least.
pub struct Pace {
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Pace {
    /// `rate` commands a second; 0 for no limit.
    pub fn new(rate: u64, now: Instant) -> Self {
        Self { rate: rate as f64, tokens: 0.0, at: now }
    }

    /// How many commands may go.
    pub fn allows(&mut self, now: Instant) -> usize {
        if self.rate == 0.0 {
            return usize::MAX;
        }
        let earned = self.rate * now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + earned).min(self.rate.max(1.0));
        self.tokens as usize
    }

    /// So many went.
    pub fn took(&mut self, commands: usize) {
        self.tokens -= commands as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_brings_as_many_as_the_rate_says_and_an_idle_one_no_more() {
        let start = Instant::now();
        for rate in [3, 1000] {
            let mut pace = Pace::new(rate, start);
            let mut sent = 0;
            for step in 1..=1000 {
                let allowed = pace.allows(start + Duration::from_millis(step));
                pace.took(allowed);
                sent += allowed as u64;
            }
            assert!(sent.abs_diff(rate) <= 1, "{sent} of {rate}");
            let idle = pace.allows(start + Duration::from_secs(100)) as u64;
            assert_eq!(idle, rate);
        }
        assert_eq!(Pace::new(0, start).allows(start), usize::MAX);
    }
}
