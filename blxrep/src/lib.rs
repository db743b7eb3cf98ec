//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.
//! - [`format`]: the files under the dispatcher's data directory, as bytes. Pure.
//! - [`engine`]: decisions: the cut, the audit, the limiter, the gathering of groups. Pure.
//! - [`io`]: the only contact with the operating system, the network and the kernel.
//! - [`store`]: the data directory: what is written, published, recovered and verified.
//! - [`view`]: a recovery point as the bytes of its disk.
//! - [`mount`]: a recovery point as files on this host.
//! - [`browse`]: recovery points looked into for whoever asks the dispatcher.
//! - [`archive`]: files on their way from a point to where they are wanted.
//! - [`config`]: the files that people write.
//! - [`agent`]: what runs on a protected server.
//! - [`dispatcher`]: what runs on the backup host.
//! - [`api`]: the control plane between the dispatcher and people.
//! - [`cli`] and [`tui`]: the command line and the screen; they see only `api` and `model`.
//! - [`observe`]: where logs go.

pub mod agent;
pub mod api;
pub mod archive;
pub mod browse;
pub mod cli;
pub mod config;
pub mod dispatcher;
pub mod engine;
pub mod format;
pub mod io;
pub mod model;
pub mod mount;
pub mod observe;
pub mod store;
pub mod tui;
pub mod view;
pub mod wire;
