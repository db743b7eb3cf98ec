//! The only contact with the OS.

pub mod tracker;
