//! The card-update worker.
pub mod domain;
pub mod wire;
pub mod projection;
