//! The only contact with the operating system. Nothing here decides: no retries, no schedules.

pub mod db;
pub mod storage;
pub mod write_behind;
