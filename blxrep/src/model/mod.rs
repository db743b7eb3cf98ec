//! The words of the product as types. Pure: imports nothing else of the crate, touches no OS.

pub mod action;
pub mod bitmap;
pub mod byte_text;
pub mod comparison;
pub mod contents;
pub mod encoding;
pub mod granules;
pub mod holes;
pub mod hook;
pub mod host;
pub mod ids;
pub mod partition_table;
pub mod percent;
pub mod point;
pub mod policy;
pub mod restoration;
pub mod restored;
pub mod retention;
pub mod selection;
pub mod stack;
pub mod superblock;
pub mod tracking;
pub mod units;
pub mod verification;
