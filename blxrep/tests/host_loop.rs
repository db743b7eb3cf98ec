//! The inventory of real loop devices, partitioned, stacked and mounted. Needs root.

use blxrep::io::host::{HostError, HostOptions, inventory, resolve, whole_disks_under};
use blxrep::model::host::HostDisk;
use blxrep::model::ids::DiskIdentity;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A loop device that is taken down with its partitions and mounts.
struct Loop {
    device: String,
    mounts: Vec<PathBuf>,
}

impl Loop {
    fn attach(image: &Path) -> Self {
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        Self {
            device,
            mounts: Vec::new(),
        }
    }

    fn mount(&mut self, node: &str, point: &Path) {
        std::fs::create_dir(point).unwrap();
        run("mount", &[node, point.to_str().unwrap()]);
        self.mounts.push(point.to_owned());
    }

    fn disk(&self, options: &HostOptions) -> HostDisk {
        let found = inventory(options).unwrap().footprint.disks;
        found.into_iter().find(|disk| disk.device == self.device).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for point in self.mounts.iter().rev() {
            let _ = Command::new("umount").arg(point).status();
        }
        let _ = Command::new("partx").args(["-d", &self.device]).output();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// A disk of 64 MiB with an MBR (signature c0ffee01) and one partition from 1 MiB to 33 MiB.
fn partitioned(image: &Path) {
    let file = File::create(image).unwrap();
    file.set_len(64 * MIB).unwrap();
    let mut sector = [0u8; 512];
    sector[440..444].copy_from_slice(&0xc0ff_ee01u32.to_le_bytes());
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&2048u32.to_le_bytes());
    sector[458..462].copy_from_slice(&65536u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&sector, 0).unwrap();
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_partition_is_described_with_and_without_the_kernels_help() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    partitioned(&image);
    let mut disk = Loop::attach(&image);
    let unseen = disk.disk(&HostOptions::default());
    assert_eq!((unseen.bytes, unseen.filesystem.as_ref()), (64 * MIB, None));
    assert_eq!(unseen.identity, Some(DiskIdentity::Mbr("c0ffee01".to_owned())));
    assert!(unseen.diskseq.is_some());

    run("partx", &["-a", &disk.device]);
    let node = format!("{}p1", disk.device);
    run("mkfs.ext4", &["-q", "-L", "inside", &node]);
    let point = dir.path().join("mnt");
    disk.mount(&node, &point);
    let seen = disk.disk(&HostOptions::default());
    let [partition] = &seen.partitions[..] else {
        panic!("{:?}", seen.partitions)
    };
    assert_eq!(
        (partition.number, partition.first_sector, partition.sectors),
        (1, 2048, 65536)
    );
    assert_eq!(partition.kind, "0x83");
    let filesystem = partition.filesystem.as_ref().unwrap();
    assert_eq!(
        (filesystem.kind.as_str(), filesystem.label.as_str()),
        ("ext4", "inside")
    );
    assert_eq!(
        filesystem.uuid,
        run("blkid", &["-p", "-s", "UUID", "-o", "value", &node])
    );
    assert_eq!(filesystem.mount_points, [point.to_str().unwrap()]);

    let [table_only] = &unseen.partitions[..] else {
        panic!("{:?}", unseen.partitions)
    };
    assert_eq!(
        (table_only.number, table_only.first_sector, table_only.sectors),
        (1, 2048, 65536)
    );

    match resolve(Path::new(&node)) {
        Err(HostError::Partition { parent, .. }) => assert_eq!(parent, disk.device),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn everything_between_a_directory_and_the_metal_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    partitioned(&image);
    let mut disk = Loop::attach(&image);
    run("partx", &["-a", &disk.device]);
    let node = format!("{}p1", disk.device);
    run("mkfs.ext4", &["-q", &node]);
    let point = dir.path().join("mnt");
    disk.mount(&node, &point);
    let data = point.join("deep/data");
    std::fs::create_dir_all(&data).unwrap();

    let under = whole_disks_under(&data).unwrap();
    let own = resolve(Path::new(&disk.device)).unwrap();
    let found = under
        .iter()
        .find(|kept| (kept.major, kept.minor) == (own.major, own.minor))
        .unwrap();
    assert_eq!(found.identity, "mbr:c0ffee01");
    // The backing file's disks are under it as well.
    for below in whole_disks_under(dir.path()).unwrap() {
        assert!(under.contains(&below), "{below:?} is missing in {under:?}");
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn all_devices_of_a_btrfs_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let disks: Vec<Loop> = ["one", "two"]
        .iter()
        .map(|name| {
            let image = dir.path().join(name);
            File::create(&image).unwrap().set_len(128 * MIB).unwrap();
            Loop::attach(&image)
        })
        .collect();
    let [mut first, second] = <[Loop; 2]>::try_from(disks).ok().unwrap();
    run("mkfs.btrfs", &["-q", "-f", &first.device, &second.device]);
    let point = dir.path().join("mnt");
    let device = first.device.clone();
    first.mount(&device, &point);
    let under = whole_disks_under(&point).unwrap();
    for disk in [&first, &second] {
        let own = resolve(Path::new(&disk.device)).unwrap();
        assert!(
            under.iter().any(|k| (k.major, k.minor) == (own.major, own.minor)),
            "{} {under:?}",
            disk.device
        );
    }
    let seen = first.disk(&HostOptions::default()).filesystem.unwrap();
    assert_eq!(
        (seen.kind.as_str(), seen.mount_points),
        ("btrfs", vec![point.to_str().unwrap().to_owned()])
    );
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_name_and_a_link_lead_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    File::create(&image).unwrap().set_len(8 * MIB).unwrap();
    let disk = Loop::attach(&image);
    assert_eq!(disk.disk(&HostOptions::default()).identity, None);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&disk.device, &link).unwrap();
    assert_eq!(resolve(&link).unwrap().device, disk.device);
    let named = HostOptions {
        names: vec![(link, "data".to_owned())],
    };
    assert_eq!(
        disk.disk(&named).identity,
        Some(DiskIdentity::Named("data".to_owned()))
    );
}
