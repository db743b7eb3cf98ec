//! The inventory against what the system's own tools say of this host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use blxrep::io::host::{HostError, HostOptions, boot_id, inventory, resolve, whole_disks_under};
use blxrep::model::superblock;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// What a tool prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_host_is_what_its_tools_say() {
    let footprint = inventory(&HostOptions::default()).unwrap().footprint;
    assert_eq!(footprint.hostname, run("uname", &["-n"]));
    assert_eq!(footprint.kernel, run("uname", &["-r"]));
    assert_eq!(footprint.architecture, run("uname", &["-m"]));
    assert_eq!(footprint.cpus.to_string(), run("getconf", &["_NPROCESSORS_ONLN"]));
    assert_eq!(footprint.distribution, run("sh", &["-c", ". /etc/os-release; echo \"$PRETTY_NAME\""]));
    let kib: u64 =
        run("sh", &["-c", "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"]).parse().unwrap();
    assert_eq!(footprint.memory_bytes, kib * 1024);
    let text = footprint.boot_id.replace('-', "");
    assert_eq!(text, boot_id().unwrap().map(|byte| format!("{byte:02x}")).concat());
    for interface in &footprint.interfaces {
        assert_eq!(interface.mac, run("cat", &[&format!("/sys/class/net/{}/address", interface.name)]));
    }
}

#[test]
fn the_disks_are_those_of_lsblk() {
    let json = run("lsblk", &["-J", "-b", "-o", "NAME,SIZE,TYPE,MOUNTPOINTS,FSTYPE,UUID,MAJ:MIN,RO,ROTA"]);
    let tree: Value = serde_json::from_str(&json).unwrap();
    let footprint = inventory(&HostOptions::default()).unwrap().footprint;
    let mut compared = 0;
    for theirs in tree["blockdevices"].as_array().unwrap() {
        let name = theirs["name"].as_str().unwrap();
        // Loop and zram devices come and go while other tests run.
        if theirs["type"] != "disk" || name.starts_with("zram") || theirs["size"] == 0 {
            continue;
        }
        let device = format!("/dev/{name}");
        let ours = footprint.disks.iter().find(|disk| disk.device == device).unwrap();
        assert_eq!(theirs["size"], ours.bytes, "{name}");
        assert_eq!(theirs["maj:min"].as_str().unwrap(), format!("{}:{}", ours.major, ours.minor));
        assert_eq!((&theirs["ro"], &theirs["rota"]), (&ours.read_only.into(), &ours.rotational.into()));
        let children =
            theirs["children"].as_array().map_or(0, |c| c.iter().filter(|c| c["type"] == "part").count());
        assert_eq!(ours.partitions.len(), children, "{name}");
        let mounted: Vec<&str> =
            theirs["mountpoints"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        if let Some(filesystem) = &ours.filesystem {
            assert!(
                mounted.iter().all(|m| filesystem.mount_points.iter().any(|p| p == m)),
                "{name}: {mounted:?}"
            );
            // Without udev's database lsblk knows no filesystem.
            if let Some(kind) = theirs["fstype"].as_str() {
                assert_eq!(
                    (filesystem.kind.as_str(), filesystem.uuid.as_str()),
                    (kind, theirs["uuid"].as_str().unwrap())
                );
            }
        } else {
            assert_eq!(mounted, [""; 0], "{name}");
        }
        compared += 1;
    }
    assert!(compared > 0, "this host has no disk: the test shows nothing");
}

#[test]
fn superblocks_are_those_of_blkid() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let path = image.to_str().unwrap();
    let makers: [(&str, &[&str]); 6] = [
        ("mkfs.ext4", &["-q", "-F", "-L", "four", path]),
        ("mkfs.ext3", &["-q", "-F", "-L", "three", path]),
        ("mkfs.ext2", &["-q", "-F", path]),
        ("mkfs.xfs", &["-q", "-f", "-L", "exif", path]),
        ("mkfs.btrfs", &["-q", "-f", "-L", "butter", path]),
        ("mkswap", &["-L", "swappy", path]),
    ];
    for (program, arguments) in makers {
        let file = File::create(&image).unwrap();
        file.set_len(320 << 20).unwrap();
        run(program, arguments);
        let told = run("blkid", &["-p", "-o", "export", path]);
        let field = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        let file = File::open(&image).unwrap();
        let mut fetch = |at, length| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
        };
        let found = superblock::detect(&mut fetch, 320 << 20).unwrap();
        assert_eq!(
            (found.kind, found.uuid, found.label),
            (&*field("TYPE"), field("UUID"), field("LABEL")),
            "{told}"
        );
    }
}

#[test]
fn a_path_that_is_no_disk_says_so() {
    assert!(matches!(resolve(Path::new("/dev/null")), Err(HostError::NotADevice { .. })));
    assert!(matches!(resolve(Path::new("/etc/passwd")), Err(HostError::NotADevice { .. })));
    let missing = resolve(Path::new("/dev/nonesuch")).unwrap_err().to_string();
    assert!(missing.contains("/dev/nonesuch cannot be found"), "{missing}");
}

#[test]
fn the_disk_under_the_root_is_a_disk_of_the_host() {
    let disks = inventory(&HostOptions::default()).unwrap().footprint.disks;
    let under = whole_disks_under(Path::new("/")).unwrap();
    for kept in &under {
        let disk = disks.iter().find(|disk| (disk.major, disk.minor) == (kept.major, kept.minor)).unwrap();
        assert_eq!(disk.identity.as_ref().map(ToString::to_string).unwrap_or_default(), kept.identity);
    }
    let device = run("findmnt", &["-n", "-o", "SOURCE", "/"]);
    assert_eq!(device.starts_with("/dev/"), !under.is_empty(), "{device} {under:?}");
    assert_eq!(whole_disks_under(Path::new("/proc")).unwrap(), []);
}
