//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.
//! - [`engine`]: decisions: the cut, the audit, the limiter, the gathering of groups. Pure.
//! - [`io`]: the only contact with the OS, the network and the kernel.

pub mod engine;
pub mod io;
pub mod model;
pub mod wire;
