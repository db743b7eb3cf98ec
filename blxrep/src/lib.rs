//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.

pub mod model;
pub mod wire;
