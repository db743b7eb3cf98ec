//! Whether the guest's kernel takes the programs: verifiers differ, and only they can tell.

use super::{DISK, Lab, PATIENCE, told};
use crate::support::site::Site;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::time::Instant;

/// A machine on which `blxrep doctor` looks around: it loads, attaches and pins what an agent would.
pub fn takes_the_programs(lab: &Lab) -> Result<()> {
    println!("\n==> the kernel takes the programs");
    let since = Instant::now();
    let site = Site::new(&lab.program, "1h")?;
    let folder = lab.folder(&site, "guest")?;
    let disk = site.path("disk.img");
    File::create(&disk)?.set_len(DISK)?;
    let script = "uname -r >/lab/release; /tmp/blxrep doctor --json >/lab/doctor.json";
    let mut vm = lab.start(&folder, &disk, "", script)?;
    let status = vm.wait(PATIENCE)?;
    let found = fs::read_to_string(folder.join("doctor.json")).unwrap_or_default();
    ensure!(status.success(), "doctor is not content ({status})\n{found}\n{}", vm.tail());
    let checks: Vec<Value> = serde_json::from_str(&found).context("what doctor said")?;
    let kernel = checks.iter().filter(|check| check["name"] == "kernel").count();
    ensure!(kernel > 0, "doctor did not look at the kernel\n{found}");
    let release = fs::read_to_string(folder.join("release"))?;
    told(&format!("{}: doctor's {kernel} checks of the kernel are ok", release.trim()), since);
    site.done();
    Ok(())
}
