//! What travels between an agent and the dispatcher. Pure: bytes in, values out.
//!
//! A connection starts with a [`hello`] in each direction, whose bytes are fixed for ever. Then both sides send
//! [`frame`]s: control frames carry one message of the channel's enum pair through [`codec`]; data frames carry
//! raw bytes of a disk behind a fixed header.

pub mod chain;
pub mod codec;
pub mod config;
pub mod frame;
pub mod hello;
pub mod live;
pub mod pulse;
pub mod restore;
pub mod snapshot;
pub mod version;
