//! blxrep: continuous block-level backup for Linux servers.
//!
//! A map of this crate, in reading order:
//!
//! - [`model`]: the words of the product as types. Pure.
//! - [`wire`]: what travels between agent and dispatcher. Pure.
//! - [`agent`]: what runs on a protected server.
//! - [`dispatcher`]: what runs on the backup host.
//! - [`api`]: the control plane between the dispatcher and people.
//! - [`cli`] and [`tui`]: the command line and the screen; they see only `api` and `model`.
//! - [`observe`]: where logs go.

pub mod agent;
pub mod api;
pub mod cli;
pub mod dispatcher;
pub mod model;
pub mod observe;
pub mod tui;
pub mod wire;
