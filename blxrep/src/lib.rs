//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.
//! - [`engine`]: decisions: the cut, the audit, the limiter, the gathering of groups. Pure.

pub mod engine;
pub mod model;
pub mod wire;
