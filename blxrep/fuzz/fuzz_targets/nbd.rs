#![no_main]

#[allow(dead_code, reason = "each target runs one function of the shared file")]
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::nbd(bytes));
