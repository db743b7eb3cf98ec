//! Decisions: pure functions of what happened.

pub mod audit;
