//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.
//! - [`format`]: the files under the dispatcher's data directory, as bytes. Pure.
//! - [`io`]: the only contact with the operating system.
//! - [`store`]: the data directory: what is written, published, recovered and verified.
//! - [`view`]: a recovery point as the bytes of its disk.

pub mod format;
pub mod io;
pub mod model;
pub mod store;
pub mod view;
pub mod wire;
