//! A point as a network block device, as <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md> says:
//! fixed newstyle, structured replies, `base:allocation`.
//!
//! [`options`] and [`commands`] are the protocol, bytes in and bytes out. [`server`] carries it over sockets.

pub mod commands;
pub mod options;
pub mod server;

/// What is served, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Clients may ask for this name, or for none.
    pub name: String,
    pub description: String,
    pub bytes: u64,
    pub writable: bool,
}
