//! Along a chain of deltas, each disk, each partition and the files of each come back as they were: from the base, the
//! first delta, one in the middle and the last. A hundred deltas in a soak.

use crate::everything::{self, ensure_same};
use crate::scene::{Scene, Volume};
use crate::support::compare::ensure_identical;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::sh;
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::DONE;
use crate::{MIB, require_root};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Deltas of the chain, in a test and in a soak.
fn deltas() -> u32 {
    if std::env::var_os("BLXREP_SOAK_SECONDS").is_some() { 100 } else { 2 }
}

/// What everything was at some of the points.
struct Kept {
    name: String,
    /// Of each disk.
    points: Vec<String>,
    images: Vec<PathBuf>,
    /// Of each volume.
    trees: Vec<PathBuf>,
}

/// Where copies are kept, on a filesystem that holds whatever a file may have.
struct Shelf {
    mount: Mount,
    _disk: LoopDisk,
}

impl Shelf {
    fn new() -> Result<Self> {
        let disk = LoopDisk::new(1536 * MIB)?;
        Filesystem::Ext4.make(disk.path())?;
        Ok(Self { mount: Mount::new("ext4", disk.path(), "defaults")?, _disk: disk })
    }

    /// Copies the disks, whose filesystems are not mounted, and then the trees.
    fn keep(&self, name: &str, scene: &Scene, points: Vec<String>) -> Result<Kept> {
        let folder = self.mount.path().join(name);
        fs::create_dir(&folder)?;
        let images = (0..).zip(&scene.disks).map(|(n, disk)| {
            let copy = folder.join(format!("{n}.img"));
            copied(disk.backing(), &copy)?;
            Ok(copy)
        });
        let images = images.collect::<Result<_>>()?;
        let trees = (0..).zip(&scene.volumes).map(|(n, volume)| {
            let (mount, copy) = (volume.mount("ro")?, folder.join(format!("{n}.tree")));
            copied(mount.path(), &copy)?;
            mount.unmount()?;
            Ok(copy)
        });
        Ok(Kept { name: name.to_owned(), points, images, trees: trees.collect::<Result<_>>()? })
    }
}

fn copied(from: &Path, to: &Path) -> Result<()> {
    sh("cp", &["-a", "--sparse=always", &from.to_string_lossy(), &to.to_string_lossy()]).map(drop)
}

#[test]
fn points_along_a_chain_come_back_as_they_were() -> Result<()> {
    require_root!();
    let scene = Scene::with(|volume| {
        let mount = volume.mount("defaults")?;
        everything::make(mount.path())?;
        mount.unmount()
    })?;
    let shelf = Shelf::new()?;
    let mut kept = vec![shelf.keep("base", &scene, scene.bases()?)?];
    let mut mounts = scene.mount("defaults")?;
    for number in 1..=deltas() {
        mounts.iter().try_for_each(|mount| change(mount.path(), number))?;
        if ![1, deltas() / 2, deltas()].contains(&number) {
            scene.sync()?;
            continue;
        }
        mounts.drain(..).try_for_each(Mount::unmount)?;
        kept.push(shelf.keep(&format!("delta {number}"), &scene, scene.sync()?)?);
        if number < deltas() {
            mounts = scene.mount("defaults")?;
        }
    }
    let mut scene = scene;
    scene.stop_agent();
    let stored = scene.stored()?;
    for kept in &kept {
        disks(&scene, kept)
            .and_then(|()| partitions(&scene, kept))
            .and_then(|()| files(&scene, &shelf, kept))
            .with_context(|| kept.name.clone())?;
    }
    ensure!(scene.stored()? == stored, "looking into points and restoring them has changed the store");
    scene.done();
    Ok(())
}

/// Some of what a filesystem is used for, a little of it each time.
fn change(root: &Path, number: u32) -> Result<()> {
    let seed = u64::from(number) * 7919;
    let noise: Vec<u8> = (0..40_000 + seed % 90_000).map(|i| (i.wrapping_mul(seed) >> 7) as u8).collect();
    // A new file, an old one that is replaced by another, one that grows, one in whose middle something changes.
    fs::write(root.join(format!("many/new-{number}")), &noise)?;
    fs::write(root.join("many/.next"), &noise[..5000])?;
    fs::rename(root.join("many/.next"), root.join(format!("many/replaced-{}", number % 7)))?;
    let mut log = File::options().create(true).append(true).open(root.join("log"))?;
    writeln!(log, "{number}")?;
    let large = File::options().write(true).open(root.join("second-name"))?;
    large.write_all_at(&noise[..8000], seed * 31 % 2_900_000)?;
    if let Some(old) = number.checked_sub(5) {
        // What was made with the tree has no number.
        let _ = fs::remove_file(root.join(format!("many/new-{old}")));
    }
    everything::sync(root)
}

fn disks(scene: &Scene, kept: &Kept) -> Result<()> {
    for (point, image) in kept.points.iter().zip(&kept.images) {
        let restored = scene.site.restore(point)?;
        ensure_identical(image, &restored)?;
        fs::remove_file(restored)?;
    }
    Ok(())
}

fn partitions(scene: &Scene, kept: &Kept) -> Result<()> {
    let target = scene.site.path("partition.img");
    let to = target.to_string_lossy();
    for volume in &scene.volumes {
        let number = volume.number.to_string();
        let args = ["restore", &kept.points[volume.disk], "--partition", &number, "--to", &to];
        scene.site.cli(&args)?.expect(DONE, &[])?;
        same_part(volume, &kept.images[volume.disk], &target)?;
        fs::remove_file(&target)?;
    }
    Ok(())
}

/// Whether a file is the bytes of a volume in the copy of its disk.
fn same_part(volume: &Volume, image: &Path, part: &Path) -> Result<()> {
    let (image, part) = (File::open(image)?, File::open(part)?);
    let bytes = volume.range.end - volume.range.start;
    ensure!(part.metadata()?.len() == bytes, "partition {} has another size", volume.number);
    let [mut wanted, mut found] = [0; 2].map(|_| vec![0; MIB as usize]);
    for at in (0..bytes).step_by(MIB as usize) {
        image.read_exact_at(&mut wanted, volume.range.start + at)?;
        part.read_exact_at(&mut found, at)?;
        ensure!(wanted == found, "partition {} differs within the MiB at {at}", volume.number);
    }
    Ok(())
}

fn files(scene: &Scene, shelf: &Shelf, kept: &Kept) -> Result<()> {
    let target = shelf.mount.path().join("restored");
    let to = target.to_string_lossy();
    for (volume, tree) in scene.volumes.iter().zip(&kept.trees) {
        let path = format!("{}:/", volume.number);
        let point = &kept.points[volume.disk];
        scene.site.cli(&["restore", point, "--path", &path, "--target", &to])?.expect(DONE, &[])?;
        ensure_same(tree, &target).with_context(|| format!("the files of partition {}", volume.number))?;
        fs::remove_dir_all(&target)?;
    }
    Ok(())
}
