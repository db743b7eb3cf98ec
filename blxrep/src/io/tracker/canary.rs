//! The canary: a read of sector 0 that must be seen at both hooks before a disk is called tracked.
//!
//! It is a read because blxrep never writes to a protected disk. Somebody else's read of sector 0 proves as much.

use super::TrackerError;
use super::disk::Slot;
use super::maps::Words;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Reads that are tried: a completion may be lost without a trace, about one in ten thousand under load.
const MAX_READS: u32 = 16;
/// Wait for the completion's program, which may end a moment after the read itself.
const PAUSE: Duration = Duration::from_millis(2);

/// A buffer as O_DIRECT wants it.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Tells the programs to look at reads while it lives.
struct Out<'a>(&'a Words);

impl<'a> Out<'a> {
    fn new(control: &'a Words) -> Self {
        control.get()[0].fetch_add(1, Ordering::SeqCst);
        Self(control)
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.get()[0].fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends canaries until one was seen at issue and one at completion.
pub fn send(node: &Path, control: &Words, slot: &Slot) -> Result<(), TrackerError> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(node);
    let file: File = file.map_err(TrackerError::io("open for direct reads", node))?;
    let mut page = Box::new(Page([0; 4096]));
    let (issues, completions) = slot.canaries();
    let _out = Out::new(control);
    let mut seen = (false, false);
    for _ in 0..MAX_READS {
        file.read_at(&mut page.0, 0).map_err(TrackerError::io("read sector 0 of", node))?;
        std::thread::sleep(PAUSE);
        let now = slot.canaries();
        seen = (now.0 != issues, now.1 != completions);
        if seen == (true, true) {
            return Ok(());
        }
    }
    let hook = if seen.0 { "completion" } else { "issue" };
    Err(TrackerError::Blind { node: node.to_path_buf(), hook })
}
