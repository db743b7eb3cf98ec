//! Continuous block-level backup.
pub mod model;
