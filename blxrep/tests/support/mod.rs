//! What the privileged tests, the demo, the bench and the soak are made of.
//!
//! - [`fixture`]: names, root, external tools; [`disk`]: loop and zram disks; [`mount`]: filesystems and pin folders
//! - [`process`]: children that end with their owner; [`site`]: a dispatcher, its agents and its command line
//! - [`load`]: fio and other busy writers; [`content`]: known bytes; [`compare`]: two devices or files, byte by byte
//! - [`ledger`]: transactions and when they were acknowledged; [`cluster`]: a PostgreSQL server
//! - [`proxy`]: a bad network between an agent and its dispatcher
//! - [`stamper`] and [`order`]: recognisable writes, and the judge of what became of them
//!
//! Every fixture removes exactly what it made, also when a test panics, and names everything after its own process,
//! so that runs beside each other do not meet.

#![allow(dead_code, reason = "every test binary and xtask use their own part of this")]

pub mod cluster;
pub mod compare;
pub mod content;
pub mod disk;
pub mod fixture;
pub mod ledger;
pub mod load;
pub mod mount;
pub mod order;
pub mod process;
pub mod proxy;
pub mod site;
pub mod stamper;

pub use disk::device_bytes;
