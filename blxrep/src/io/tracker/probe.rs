//! Whether this kernel can track, asked of the kernel itself: version numbers lie where fixes are backported.

use super::btf::kernel_layout;
use super::object::{self, Object};
use super::{TrackerOptions, bpffs};
use std::fs;

/// One requirement and whether it is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub name: &'static str,
    /// Why not.
    pub result: Result<(), String>,
}

/// Tries everything that tracking needs, under a name of its own beside the agents' pins, and leaves nothing behind.
#[must_use]
pub fn probes(options: &TrackerOptions) -> Vec<Probe> {
    let layout = kernel_layout(&options.btf).map(drop).map_err(|e| e.to_string());
    let pinning = bpffs::mount_if_absent().map_err(|e| e.to_string());
    let (programs, mapped) = match (&layout, &pinning) {
        (Ok(()), Ok(())) => load_once(options),
        _ => {
            let why = || Err("not tried: BTF and pinning come first".to_owned());
            (why(), why())
        }
    };
    vec![
        Probe { name: "BTF with the fields that are read", result: layout },
        Probe { name: "a BPF file system to pin to", result: pinning },
        Probe { name: "BTF tracepoint programs that load, attach and can be pinned", result: programs },
        Probe { name: "maps that can be mapped into memory", result: mapped },
    ]
}

type Outcome = Result<(), String>;

/// Loads, attaches, pins, maps, and removes it all again.
fn load_once(options: &TrackerOptions) -> (Outcome, Outcome) {
    let name = options.pin_dir.file_name().unwrap_or_default().display();
    let folder = options.pin_dir.with_file_name(format!("probe-{name}-{}", std::process::id()));
    let loaded = fs::create_dir_all(&folder)
        .map_err(|e| format!("cannot make {}: {e}", folder.display()))
        .and_then(|()| object::load_into(&folder, options).map_err(|e| e.to_string()));
    let mapped = loaded.clone().and_then(|()| {
        Object::adopt(&folder).and_then(|object| object.control()).map(drop).map_err(|e| e.to_string())
    });
    let removed = bpffs::remove(&folder).map_err(|e| e.to_string());
    (loaded.and(removed), mapped)
}
