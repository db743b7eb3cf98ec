//! Continuous block-level backup.
pub mod engine;
pub mod io;
pub mod model;
