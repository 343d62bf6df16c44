//! The watchdog: ends the process when a call into the client outlasts its own time-out.
//!
//! librdkafka has calls that may never return (`rd_kafka_send_offsets_to_transaction` after a broker died at the wrong
//! moment, librdkafka #5456 and #5511). A supervisor's restart, static membership and the fenced transaction make the end
//! of the process cheap; a loop that hangs unnoticed is not (INV-9).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much longer than its time-out a call may take.
const GRACE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy)]
struct Call {
    what: &'static str,
    due: Instant,
}

/// Where one thread notes the call that it is in.
#[derive(Clone, Default)]
pub struct Slot {
    call: Arc<Mutex<Option<Call>>>,
    name: Arc<str>,
}

/// Clears the slot when the call has returned.
pub struct Guard<'s>(&'s Slot);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        *self.0.call.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Slot {
    /// Notes a call that should take no longer than `timeout`.
    pub fn enter(&self, what: &'static str, timeout: Duration) -> Guard<'_> {
        let call = Call { what, due: Instant::now() + timeout + GRACE };
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        Guard(self)
    }

    /// The call that has outlasted its time-out by now, if one has.
    fn overdue(&self, now: Instant) -> Option<&'static str> {
        let call = *self.call.lock().unwrap_or_else(PoisonError::into_inner);
        call.filter(|c| c.due < now).map(|c| c.what)
    }
}

/// Watches the slots of a process.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Mutex<Vec<Slot>>>);

impl Watchdog {
    /// A slot for a thread.
    pub fn slot(&self, name: &str) -> Slot {
        let slot = Slot { call: Arc::default(), name: name.into() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(slot.clone());
        slot
    }

    /// Gives all calls more time: the whole process stood still (stopped, or its machine paused).
    pub fn extend(&self, by: Duration) {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter() {
            if let Some(call) = slot.call.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                call.due += by;
            }
        }
    }

    /// The thread and call that have overstayed, if any.
    pub fn overdue(&self, now: Instant) -> Option<(String, &'static str)> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().find_map(|s| Some((s.name.to_string(), s.overdue(now)?)))
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
}
