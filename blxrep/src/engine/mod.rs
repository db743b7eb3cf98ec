//! Decisions, without the OS: pure functions and state machines of `(now, event)`.

pub mod audit;
pub mod backoff;
pub mod compression;
pub mod cut;
pub mod duty;
pub mod freeze_plan;
pub mod gather;
pub mod limiter;
pub mod plan;
pub mod retention;
