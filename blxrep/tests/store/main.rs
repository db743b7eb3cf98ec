//! The store on a real filesystem: points are what was written, survive restarts and faults, and rot is found.
#![expect(
    clippy::panic,
    clippy::single_range_in_vec_init,
    clippy::unwrap_used,
    reason = "helpers of tests fail the test; a list of one run is a list of runs"
)]

mod consolidation;
mod faults;
mod figures;
mod fixture;
mod golden;
mod half_restored;
mod leases;
mod opening;
mod points;
mod power_cut;
mod rebuild;
mod restore;
mod rot;
mod tape;
mod verify;
mod views;
