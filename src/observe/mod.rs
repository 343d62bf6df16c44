//! What operators see: metrics (all names in one file), HTTP and logs.
//!
//! It must never carry a payload value, a card or a request id in a label or a log line (INV-10).

mod http;
mod logs;
mod metrics;

pub use http::serve;
pub use logs::{LogFormat, init};
pub use metrics::Metrics;
