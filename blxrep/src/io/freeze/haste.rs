//! Short grace periods while filesystems are being frozen.
//!
//! `FIFREEZE` waits three times until every CPU has passed a quiet state, and writers wait with it. Left to itself the
//! kernel takes its time for that: 45 ms of a freeze of ext4 that has nothing to write, on 2 cores. Asked to hurry it
//! interrupts the CPUs that are not idle, and the same freeze takes 2 ms. A host that is tuned for latency sets
//! `rcu_normal`, which goes before this.

use super::record::Record;
use std::fs::File;
use std::os::unix::fs::FileExt;

const SWITCH: &str = "/sys/kernel/rcu_expedited";
const ON: &[u8] = b"1\n";
const OFF: &[u8] = b"0\n";

/// The kernel's switch, opened before anything is frozen. Without it a freeze takes longer, and that is all.
#[derive(Debug)]
pub(super) struct Haste {
    switch: Option<File>,
}

impl Haste {
    pub(super) fn prepare() -> Self {
        Self { switch: File::options().read(true).write(true).open(SWITCH).ok() }
    }

    /// Asks the kernel to hurry, unless it does already. The record says so first: who comes after a crash asks it to
    /// stop.
    pub(super) fn begin(&self, record: &Record) {
        if let Some(switch) = &self.switch
            && is_off(switch)
        {
            record.set_hasty(true);
            let _ = switch.write_at(ON, 0);
        }
    }

    /// Takes that back, if it was asked for here.
    pub(super) fn end(&self, record: &Record) {
        if record.is_hasty()
            && let Some(switch) = &self.switch
        {
            let _ = switch.write_at(OFF, 0);
            record.set_hasty(false);
        }
    }
}

fn is_off(switch: &File) -> bool {
    let mut value = [0; 2];
    matches!(switch.read_at(&mut value, 0), Ok(length) if length > 0 && value[0] == OFF[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_kernel_is_asked_to_stop_if_it_was_asked_to_hurry() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(folder.path(), &[]).unwrap();
        let path = folder.path().join("switch");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        for (before, during) in [("0\n", "1\n"), ("1\n", "1\n")] {
            fs::write(&path, before).unwrap();
            let haste = Haste { switch: File::options().read(true).write(true).open(&path).ok() };
            haste.begin(&record);
            assert_eq!((read(&path).as_str(), record.is_hasty()), (during, before != during));
            haste.end(&record);
            assert_eq!((read(&path).as_str(), record.is_hasty()), (before, false));
        }
    }
}
