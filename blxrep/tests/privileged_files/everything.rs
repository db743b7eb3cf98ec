//! A tree with one of everything that a Linux filesystem can hold.

use crate::support::fixture::{run, sh};
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Makes it below `root`, which exists.
pub fn make(root: &Path) -> Result<()> {
    plain(root).context("files and folders")?;
    names(root).context("names")?;
    special(root).context("special files")?;
    extended(root).context("extended attributes")?;
    // Last: what is made in a folder changes its time.
    for (path, time) in [("a/file", "1999-12-31 23:59:59.123456789"), ("a", "2001-02-03 04:05:06.000000007")]
    {
        sh("touch", &["-d", time, &root.join(path).to_string_lossy()])?;
    }
    sh("touch", &["-h", "-d", "1970-01-02 00:00:00.5", &root.join("to-file").to_string_lossy()])?;
    sync(root)
}

/// What was written is on the disk afterwards.
pub fn sync(root: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

fn plain(root: &Path) -> Result<()> {
    let deep = root.join("a/b/c/d/e/f/g/h");
    fs::create_dir_all(&deep)?;
    fs::write(root.join("a/file"), b"hello\n")?;
    fs::write(root.join("empty"), b"")?;
    fs::create_dir(root.join("empty-folder"))?;
    let noise: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(deep.join("large"), &noise)?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(50 << 20)?;
    sparse.write_all_at(b"in the middle", (20 << 20) + 17)?;
    for (name, owner) in [("a/file", "1234:4321"), ("a/b", "0:65534"), ("empty", "4294967290:7")] {
        sh("chown", &[owner, &root.join(name).to_string_lossy()])?;
    }
    for (name, mode) in [("a/file", 0o4751), ("a/b/c", 0o2550), ("empty", 0), ("empty-folder", 0o1777)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode))?;
    }
    fs::hard_link(deep.join("large"), root.join("second-name"))?;
    fs::hard_link(deep.join("large"), root.join("a/third-name"))?;
    symlink("a/file", root.join("to-file"))?;
    symlink("/no/such/place", root.join("to-nowhere"))?;
    symlink("../../..", root.join("a/up"))?;
    // Enough entries that a folder is read in several pieces.
    fs::create_dir(root.join("many"))?;
    for i in 0..700 {
        fs::write(root.join(format!("many/{i}-{}", "x".repeat(i % 90))), i.to_string())?;
    }
    Ok(())
}

fn names(root: &Path) -> Result<()> {
    let folder = root.join("names");
    fs::create_dir(&folder)?;
    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b"-rf",
        b" blank ",
        b"new\nline",
        b"back\\slash",
        b"\xff\xfe not utf-8 \x80",
        b"\x1b[31mred",
        "\u{202e}right".as_bytes(),
        b"quote\"'$(x)",
        long.as_bytes(),
    ];
    for name in names {
        fs::write(folder.join(OsStr::from_bytes(name)), name)?;
    }
    Ok(())
}

fn special(root: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0)?;
    mknodat(CWD, root.join("socket"), FileType::Socket, mode, 0)?;
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, makedev(1, 3))?;
    mknodat(CWD, root.join("block"), FileType::BlockDevice, mode, makedev(259, 70_000))?;
    sh("chown", &["-h", "55:66", &root.join("fifo").to_string_lossy()])?;
    sh("chown", &["-h", "77:88", &root.join("to-nowhere").to_string_lossy()]).map(drop)
}

fn extended(root: &Path) -> Result<()> {
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    sh("setfacl", &["-m", "u:1111:rx,g:2222:rwx,m::rx", &path("a/b/c/d/e/f/g/h/large")])?;
    sh("setfacl", &["-m", "u:1111:rwx,d:u:3333:rwx,d:g::r", &path("a/b")])?;
    sh("setfattr", &["-n", "user.note", "-v", "0x00ff0a", &path("a/file")])?;
    sh("setfattr", &["-n", "user.empty", &path("empty-folder")])?;
    sh("setfattr", &["-h", "-n", "trusted.note", "-v", "of a link", &path("to-file")])?;
    sh("setfattr", &["-h", "-n", "trusted.note", "-v", "of a device", &path("null")])?;
    fs::copy("/bin/true", root.join("capable"))?;
    sh("setcap", &["cap_net_raw,cap_net_bind_service+ep", &path("capable")]).map(drop)
}

/// Fails if `rsync` would have to change anything to make `copy` what `original` is.
pub fn ensure_same(original: &Path, copy: &Path) -> Result<()> {
    let mut command = Command::new("rsync");
    command.args(["-aHAXn", "--checksum", "--delete", "--itemize-changes", "--out-format=%i %n"]);
    // xfs shows ACLs under names of its own, too.
    command.arg("--filter=-x trusted.SGI_ACL_*");
    // Made by the filesystem, not by the tree.
    command.arg("--exclude=/lost+found");
    command.arg(original.join("")).arg(copy.join(""));
    let found = run(&mut command)?;
    ensure!(found.is_empty(), "{} is not {}:\n{found}", copy.display(), original.display());
    Ok(())
}
