//! The only contact with the OS, the network and the kernel. Nothing here decides: no retries, no schedules.

pub mod buffer;
pub mod channel;
pub mod child;
pub mod db;
pub mod device_writer;
pub mod digester;
pub mod executable;
pub mod freeze;
pub mod host;
pub mod limits;
pub mod loops;
pub mod priority;
pub mod random;
pub mod range_lock;
pub mod reader;
pub mod signals;
pub mod source;
pub mod storage;
pub mod tracker;
pub mod trouble;
pub mod witness;
pub mod write_behind;
