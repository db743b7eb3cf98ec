//! Pins that were removed under a running agent: the links were theirs alone, so nothing is tracked any more.

use super::{Tracker, TrackerError};

/// Why disks begin anew after that.
const REMOVED: &str = "the pins were removed under the running agent";

impl Tracker {
    /// Whether the hooks are still attached and what was pinned is where the next agent will look for it.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pins.is_there() && self.current.object.is_attached()
    }

    /// Loads, attaches and pins everything anew. Handles to disks that were made before are of no more use: each has to
    /// be tracked again. After an error it may be tried again.
    pub fn renew(&mut self) -> Result<(), TrackerError> {
        self.pins.unlock();
        *self = Self::open(self.options.clone())?;
        self.begins = REMOVED;
        Ok(())
    }
}
