//! The words of the product as types. Pure: imports nothing else of the crate, touches no OS.

pub mod bitmap;
pub mod granules;
pub mod host;
pub mod ids;
pub mod point;
pub mod policy;
pub mod tracking;
pub mod units;
