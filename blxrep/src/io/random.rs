//! Random numbers from the kernel.

/// A random id: never 0. The kernel's generator cannot fail once the machine has booted; if it did, the time and
/// the process id would still tell ids apart.
#[must_use]
pub fn id() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => fallback(),
    }
}

/// 128 random bits: never 0.
#[must_use]
pub fn wide_id() -> u128 {
    (u128::from(id()) << 64) | u128::from(id())
}

fn fallback() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(1);
    nanos.rotate_left(20) ^ u64::from(std::process::id()) | 1
}
