//! Monotonic time and pauses of the loop and the restorer. It must never be asked for the time of day: decisions have a clock of
//! their own.
//!
//! A simulation stands in for the clock of its thread, so that a run of hours takes milliseconds and the same seed takes the
//! same course.

use std::time::{Duration, Instant};

/// This moment.
#[cfg(not(any(test, feature = "simulation")))]
pub fn now() -> Instant {
    Instant::now()
}

/// Lets time pass: a back-off, or a look at what others do, of at most 100 ms. No step relies on what happens meanwhile.
#[cfg(not(any(test, feature = "simulation")))]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// How long ago a moment is.
pub fn since(moment: Instant) -> Duration {
    now().saturating_duration_since(moment)
}

#[cfg(any(test, feature = "simulation"))]
pub use simulated::{now, pause};

/// A clock that moves when it is told to.
#[cfg(any(test, feature = "simulation"))]
pub mod simulated {
    use super::{Duration, Instant};
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    type OnPause = Rc<dyn Fn(Duration)>;

    thread_local! {
        /// The thread's first moment, and how much time has passed in the simulation since; `None` on the threads of others.
        static CLOCK: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
        static ON_PAUSE: RefCell<Option<OnPause>> = const { RefCell::new(None) };
    }

    /// From now on this thread's time is simulated; `on_pause` happens whenever somebody waits.
    pub fn begin(on_pause: impl Fn(Duration) + 'static) {
        CLOCK.set(Some(CLOCK.get().unwrap_or((Instant::now(), Duration::ZERO))));
        ON_PAUSE.set(Some(Rc::new(on_pause)));
    }
    /// Lets time pass.
    pub fn pass(time: Duration) {
        CLOCK.set(CLOCK.get().map(|(base, passed)| (base, passed + time)));
    }
    /// Time that has passed in the simulation.
    pub fn passed() -> Duration {
        CLOCK.get().map_or(Duration::ZERO, |(_, passed)| passed)
    }
    /// This moment.
    pub fn now() -> Instant {
        CLOCK.get().map_or_else(Instant::now, |(base, passed)| base + passed)
    }
    /// Somebody waits.
    pub fn pause(time: Duration) {
        if CLOCK.get().is_none() {
            // A thread without a simulated clock waits like the real one.
            return std::thread::sleep(time);
        }
        pass(time);
        let on_pause = ON_PAUSE.with_borrow(Clone::clone);
        on_pause.into_iter().for_each(|happens| happens(time));
    }
}
