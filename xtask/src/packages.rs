//! The tools that tests and measurements use: installed where that is allowed, named where it is not.

use crate::cargo::cargo;
use crate::support::fixture::is_root;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program and the Debian package it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    program: &'static str,
    package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What the privileged tests, the soak and the demo use.
pub const FOR_TESTS: [Tool; 31] = [
    tool("fio", "fio"),
    tool("mkfs.ext4", "e2fsprogs"),
    tool("e2fsck", "e2fsprogs"),
    tool("mkfs.xfs", "xfsprogs"),
    tool("mkfs.btrfs", "btrfs-progs"),
    tool("mount", "mount"),
    tool("losetup", "mount"),
    tool("umount", "mount"),
    tool("unshare", "util-linux"),
    tool("mountpoint", "util-linux"),
    tool("lsblk", "util-linux"),
    tool("fstrim", "util-linux"),
    tool("blkdiscard", "util-linux"),
    tool("blockdev", "util-linux"),
    tool("partx", "util-linux"),
    tool("sfdisk", "fdisk"),
    tool("bpftrace", "bpftrace"),
    tool("modprobe", "kmod"),
    tool("setpriv", "util-linux"),
    tool("sqlite3", "sqlite3"),
    tool("rsync", "rsync"),
    tool("setfacl", "acl"),
    tool("setfattr", "attr"),
    tool("setcap", "libcap2-bin"),
    tool("mkswap", "util-linux"),
    tool("initdb", "postgresql"),
    tool("nbdinfo", "libnbd-bin"),
    tool("nbdcopy", "libnbd-bin"),
    tool("qemu-img", "qemu-utils"),
    tool("qemu-io", "qemu-utils"),
    tool("tmux", "tmux"),
];

/// Where Debian keeps the programs of each version of a PostgreSQL server; none of them is on the path.
const POSTGRESQL: &str = "/usr/lib/postgresql";
/// Settings of Debian for new clusters. The package of the server makes and starts one unless they say otherwise.
const CLUSTERS: &str = "/etc/postgresql-common/createcluster.conf";

/// What the bench compares with.
pub const FOR_BENCH: [Tool; 6] = [
    tool("fio", "fio"),
    tool("losetup", "mount"),
    tool("nbdkit", "nbdkit"),
    tool("nbdcopy", "libnbd-bin"),
    tool("rsync", "rsync"),
    tool("ip", "iproute2"),
];

/// What the lab makes its machines with.
pub const FOR_LAB: [Tool; 8] = [
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("debootstrap", "debootstrap"),
    tool("busybox", "busybox-static"),
    tool("cpio", "cpio"),
    tool("depmod", "kmod"),
    tool("xz", "xz-utils"),
    tool("strip", "binutils"),
    tool("extlinux", "extlinux"),
];

/// Makes sure that the tools are there. Root installs what is missing; without root it is an error that says how.
pub fn ensure_tools(tools: &[Tool]) -> Result<()> {
    let missing: BTreeSet<_> = tools.iter().filter(|t| !is_there(t.program)).map(|t| t.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.into_iter().collect();
    let remedy = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    ensure!(is_root(), "some tools are missing; as root: {remedy}");
    if !is_there("apt-get") {
        bail!("some tools are missing, and this is not Debian; install what `{remedy}` would install there");
    }
    println!("installing {}", packages.join(", "));
    if packages.contains(&"postgresql") {
        without_cluster()?;
    }
    if install(&packages).is_err() {
        apt(&["update"]).context("apt-get update")?;
        install(&packages).with_context(|| remedy)?;
    }
    Ok(())
}

/// Makes sure that `cargo fmt` and `cargo clippy` work.
pub fn ensure_rust_components() -> Result<()> {
    for component in ["rustfmt", "clippy"] {
        let subcommand = component.trim_start_matches("rust");
        let works =
            cargo().args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if works.is_ok_and(|status| status.success()) {
            continue;
        }
        let status = Command::new("rustup").args(["component", "add", component]).status();
        let added = status.is_ok_and(|status| status.success());
        ensure!(added, "{component} is missing and `rustup component add {component}` failed");
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    // Settings that are there already stay, without a question.
    const OPTIONS: [&str; 5] = [
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        "--option=Dpkg::Options::=--force-confold",
    ];
    apt(&[&OPTIONS, packages].concat())
}

/// The tests make clusters of their own: on a machine that never had PostgreSQL, none is made and started with the
/// package.
fn without_cluster() -> Result<()> {
    let path = Path::new(CLUSTERS);
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().context("no folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, "create_main_cluster = false\n"))
        .with_context(|| format!("{CLUSTERS}: writing"))
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().context("running apt-get")?;
    ensure!(status.success(), "apt-get {}: {status}", args.join(" "));
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administration tools are not on everybody's path.
    let more = ["/usr/sbin", "/sbin"].map(Path::new).map(Path::to_owned);
    let versions = fs::read_dir(POSTGRESQL).into_iter().flatten().flatten().map(|v| v.path().join("bin"));
    std::env::split_paths(&path).chain(more).chain(versions).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_looked_for_where_it_would_be_run() {
        assert!(is_there("sh"));
        assert!(!is_there("no-such-tool-anywhere"));
    }
}
