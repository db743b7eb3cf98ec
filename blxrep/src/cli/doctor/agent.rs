//! What an agent on this host could do: whether the kernel lets it track changes, and what becomes of each disk.

use super::Check;
use crate::io::host::{self, HostOptions};
use crate::io::tracker::{TrackerOptions, probes};
use crate::model::selection::{Candidate, select};
use crate::model::units::ByteCount;

/// Whether this kernel can track. Tried, not guessed from its version; nothing stays loaded.
pub fn tracking() -> Vec<Check> {
    const REMEDY: &str = "use a kernel of 5.15 or newer with CONFIG_DEBUG_INFO_BTF, as Debian, Ubuntu and RHEL build it, \
                          and allow BPF (`bpf` is not denied by lockdown or a container)";
    let found = probes(&TrackerOptions::for_doctor()).into_iter();
    found
        .map(|probe| match probe.result {
            Ok(()) => Check::ok("kernel", probe.name),
            Err(error) => Check::failed("kernel", format!("no {}: {error}", probe.name), REMEDY),
        })
        .collect()
}

/// One line per disk: would it be protected, and what will never be seen of it.
pub fn disks() -> Vec<Check> {
    let inventory = match host::inventory(&HostOptions::default()) {
        Ok(inventory) => inventory,
        Err(error) => return vec![Check::failed("disks", error.to_string(), "mount /proc and /sys")],
    };
    // Doubles of an identity are seen among the offered ones.
    let offered = select(&inventory.candidates, &[]);
    let checks: Vec<Check> = inventory.candidates.iter().map(|candidate| disk(candidate, &offered)).collect();
    if offered.iter().any(|candidate| candidate.problem.is_none()) {
        return checks;
    }
    let none = Check::warning(
        "disks",
        "none would be protected without being named",
        "give a disk a name: `--disk /dev/sdX=NAME`, or `disks` in the configuration",
    );
    checks.into_iter().chain([none]).collect()
}

fn disk(candidate: &Candidate, offered: &[Candidate]) -> Check {
    let disk = &candidate.disk;
    let name = disk.device.trim_start_matches("/dev/");
    let size = ByteCount(disk.bytes);
    let judged = offered.iter().find(|other| other.disk == *disk).unwrap_or(candidate);
    match (&judged.left_out, &judged.problem) {
        (Some(why), _) => Check::ok(name, format!("{size}, left out: {why}")),
        (None, Some(problem)) => Check::warning(name, format!("{size}, cannot be protected"), problem),
        (None, None) => {
            let identity = disk.identity.as_ref().map(ToString::to_string).unwrap_or_default();
            Check::ok(name, format!("{size}, would be protected as {identity}; {UNSEEN}"))
        }
    }
}

/// What no tracker in this kernel can see.
const UNSEEN: &str = "not seen: what is written from another system, or by the disk itself";
