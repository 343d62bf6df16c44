//! What the targets share: how an input becomes a command record, and the contract that it is held against.

pub mod contract;
pub mod currencies;
pub mod grammar;
pub mod record;
