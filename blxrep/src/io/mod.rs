//! The only contact with the OS, the network and the kernel. Nothing here decides: no retries, no schedules.

pub mod buffer;
pub mod channel;
pub mod reader;
pub mod source;
