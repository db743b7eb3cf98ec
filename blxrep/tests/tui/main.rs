//! The screen as text, and what keys do to it: the real model, view and client, against a dispatcher that is not one.
//! No terminal and no clock.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod document;
#[path = "../fake/mod.rs"]
mod fake;
mod keys;
mod screen;
mod views;
mod wizards;
