//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.
//! - [`api`]: the control plane between the dispatcher and people.

pub mod api;
pub mod model;
pub mod wire;
