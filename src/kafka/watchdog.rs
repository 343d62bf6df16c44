//! The watchdog: ends the process when a call into the client outlasts its own time-out.
//!
//! librdkafka has calls that may never return (`rd_kafka_send_offsets_to_transaction` after a broker died at the wrong
//! moment, librdkafka #5456 and #5511). A supervisor's restart, static membership and the fenced transaction make the end
//! of the process cheap; a loop that hangs unnoticed is not (INV-9).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much longer than its time-out a call may take.
const GRACE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(500);

/// How long a loop may be without any call into the client before it counts as stuck: the longest call's time-out, its grace,
/// and room for its own work.
const STUCK: Duration = Duration::from_secs(45);

#[derive(Clone, Copy)]
struct Call {
    what: &'static str,
    due: Instant,
}

/// What a thread has noted.
struct Noted {
    call: Option<Call>,
    /// When it last began or ended a call.
    active: Instant,
}

/// Where one thread notes the call that it is in.
#[derive(Clone)]
pub struct Slot {
    noted: Arc<Mutex<Noted>>,
    name: Arc<str>,
    /// Whether the thread calls again and again as long as it is well.
    is_loop: bool,
}

/// Clears the slot when the call has returned.
pub struct Guard<'s>(&'s Slot);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Noted { call: None, active: Instant::now() };
    }
}

impl Slot {
    /// Notes a call that should take no longer than `timeout`.
    pub fn enter(&self, what: &'static str, timeout: Duration) -> Guard<'_> {
        let active = Instant::now();
        *self.lock() = Noted { call: Some(Call { what, due: active + timeout + GRACE }), active };
        Guard(self)
    }

    /// The call that has outlasted its time-out by now, if one has.
    fn overdue(&self, now: Instant) -> Option<&'static str> {
        self.lock().call.filter(|c| c.due < now).map(|c| c.what)
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the slots of a process.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Mutex<Vec<Slot>>>);

impl Watchdog {
    /// A slot for a thread that calls when it has something to ask.
    pub fn slot(&self, name: &str) -> Slot {
        self.add(name, false)
    }

    /// A slot for a loop, which is never long without a call.
    pub fn loop_slot(&self, name: &str) -> Slot {
        self.add(name, true)
    }

    fn add(&self, name: &str, is_loop: bool) -> Slot {
        let noted = Arc::new(Mutex::new(Noted { call: None, active: Instant::now() }));
        let slot = Slot { noted, name: name.into(), is_loop };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(slot.clone());
        slot
    }

    /// Gives all calls more time: the whole process stood still (stopped, or its machine paused).
    pub fn extend(&self, by: Duration) {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter() {
            let mut noted = slot.lock();
            noted.active += by;
            if let Some(call) = noted.call.as_mut() {
                call.due += by;
            }
        }
    }

    /// The thread and call that have overstayed, if any.
    pub fn overdue(&self, now: Instant) -> Option<(String, &'static str)> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().find_map(|s| Some((s.name.to_string(), s.overdue(now)?)))
    }

    /// Takes time from all calls, for tests.
    #[cfg(test)]
    pub fn hurry(&self, by: Duration) {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter() {
            if let Some(call) = slot.lock().call.as_mut() {
                call.due -= by;
            }
        }
    }

    /// A loop that is stuck: in a call that has overstayed, or without any for long.
    pub fn stuck(&self, now: Instant) -> Option<String> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = |s: &&Slot| s.overdue(now).is_some() || now.saturating_duration_since(s.lock().active) > STUCK;
        slots.iter().filter(|s| s.is_loop).find(stuck).map(|s| s.name.to_string())
    }

    /// Starts the thread that calls `bark` once a call has overstayed.
    pub fn start(&self, bark: impl FnOnce(String) + Send + 'static) -> std::io::Result<()> {
        let watchdog = self.clone();
        std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut last = Instant::now();
            let (thread, call) = loop {
                std::thread::park_timeout(EVERY);
                let gap = last.elapsed();
                last = Instant::now();
                if gap > 3 * EVERY {
                    watchdog.extend(gap);
                }
                if let Some(found) = watchdog.overdue(Instant::now()) {
                    break found;
                }
            };
            bark(format!(
                "the Kafka client's {call} on thread {thread} did not return within its time-out (a known defect of the client): \
                 the process ends so that its supervisor starts it again"
            ));
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv_9_a_call_that_overstays_is_noticed_and_one_that_returned_is_not() {
        let watchdog = Watchdog::default();
        let slot = watchdog.slot("loop-0");
        drop(slot.enter("commit", Duration::ZERO));
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(watchdog.overdue(later), None);
        let _guard = slot.enter("send_offsets", Duration::from_secs(1));
        assert_eq!(watchdog.overdue(Instant::now() + Duration::from_secs(5)), None);
        assert_eq!(watchdog.overdue(later), Some(("loop-0".into(), "send_offsets")));
        watchdog.extend(Duration::from_secs(120));
        assert_eq!(watchdog.overdue(later), None);
    }

    #[test]
    fn a_loop_without_calls_is_stuck_and_another_thread_is_not() {
        let watchdog = Watchdog::default();
        let (slot, _other) = (watchdog.loop_slot("loop-0"), watchdog.slot("restorer"));
        let soon = Instant::now() + Duration::from_secs(30);
        let later = Instant::now() + STUCK + Duration::from_secs(1);
        assert_eq!((watchdog.stuck(soon), watchdog.stuck(later)), (None, Some("loop-0".into())));
        let _guard = slot.enter("poll", Duration::ZERO);
        assert_eq!(watchdog.stuck(soon), Some("loop-0".into()), "in a call that has overstayed");
    }
}
