//! What operators see: metrics, probes, the status page, the read API, logs and traces.
//!
//! It must never show a payload value (INV-10); account numbers are masked, and nothing but the read API names a card.

mod gather;
mod health;
mod http;
mod logs;
mod metrics;
mod traces;

pub use gather::Sources;
pub use health::{Check, is_ready, readiness};
pub use http::{Shown, masked_account, serve};
pub use logs::{LogFormat, init};
pub use metrics::Metrics;
pub use traces::Traces;
