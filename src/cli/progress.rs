//! Progress of work that takes longer than a second, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Work below this needs no bar.
const QUIET: Duration = Duration::from_secs(1);

/// A bar on standard error.
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: bool,
}

impl Progress {
    /// A bar that shows up when the work takes longer than a second and a person may see it.
    pub fn new(unit: &str) -> Self {
        let bar = ProgressBar::hidden();
        let template = format!("{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now(), shown: !std::io::stderr().is_terminal() }
    }

    /// So much of so much is done; without a whole only how much.
    pub fn at(&mut self, message: &str, done: u64, of: Option<u64>) {
        self.bar.set_length(of.unwrap_or(done));
        self.bar.set_position(done);
        if self.bar.message() != message {
            self.bar.set_message(message.to_owned());
        }
        if !self.shown && self.began.elapsed() > QUIET {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
