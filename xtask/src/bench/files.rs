//! Files out of a point, on the dispatcher's host and to an agent, against `cp -a` out of an image of the same disk.

use super::Options;
use super::measure::{Cost, cost_of_command};
use super::table::Table;
use crate::support::content::Content;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::Site;
use crate::support::stamper::Random;
use anyhow::Result;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const AGENT: &str = "bench-files";
/// A base of a few hundred MiB on a machine that does something else besides.
const IMAGE: Duration = Duration::from_secs(300);
/// Bytes of the files in one folder, a home or a project: many small ones, some large.
const FOLDER: [(usize, usize); 4] = [(200, 3 << 10), (40, 60 << 10), (8, 1 << 20), (1, 8 << 20)];

pub fn measure(options: &Options, program: &Path, table: &mut Table) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let site = Site::under(&parent, program, "24h")?;
    let folders = if options.quick { 12 } else { 60 };
    let bytes = folders * FOLDER.iter().map(|(count, length)| (count * length) as u64).sum::<u64>();
    let disk = LoopDisk::new(bytes / 2 * 3 + (64 << 20))?;
    Filesystem::Ext4.make(disk.path())?;
    let mount = Mount::new("ext4", disk.path(), "defaults")?;
    (0..folders).try_for_each(|n| fill(&mount.path().join(n.to_string()), n))?;
    mount.unmount()?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent(AGENT, &[(&disk, "files")])?;
    home.add_to_config(&format!("  restore: {{paths: [{}]}}\n", site.path("restored").display()))?;
    let _agent = home.start(&site, &[])?;
    let point = site.wait_for_points(AGENT, 1, 1, IMAGE)?.remove(0).id;

    let target = site.path("restored").join("files");
    let restore = |extra: &[&str]| {
        let mut restore = Command::new(program);
        restore.args(["restore", &point, "--path", "0:/", "--target"]).arg(&target).args(extra);
        restore.arg("--data-dir").arg(site.path("data"));
        forget(&site.path("data"))?;
        written(&mut restore, &target)
    };
    let (restored, sent) = (restore(&[])?, restore(&["--agent", AGENT, "--yes"])?);
    let image = site.restore(&point)?;
    forget(&image)?;
    let image = LoopDisk::over(image)?;
    let mount = Mount::new("ext4", image.path(), "ro")?;
    let copied = written(Command::new("cp").arg("-a").arg(mount.path()).arg(&target), &target)?;
    mount.unmount()?;
    let speed = |cost: Cost| {
        let mb = bytes as f64 / 1e6;
        format!("{:.0} MB/s, {:.2} CPU-s", mb / cost.wall, cost.cpu)
    };
    table.add("cp -a of files out of the restored image", speed(copied), String::new(), "");
    for (what, cost) in [
        ("restore --path of the same files", restored),
        ("restore --path --agent of the same files (CPU of the command alone)", sent),
    ] {
        table.add(what, speed(cost), format!("{:.2}", copied.wall / cost.wall), "");
    }
    site.done();
    Ok(())
}

fn fill(folder: &Path, number: u64) -> Result<()> {
    fs::create_dir(folder)?;
    let mut random = Random(number + 1);
    for (count, length) in FOLDER {
        let mut bytes = vec![0; length];
        for n in 0..count {
            let content = if n % 2 == 0 { Content::Text } else { Content::Incompressible };
            content.fill(&mut bytes, &mut random);
            fs::write(folder.join(format!("{length}-{n}")), &bytes)?;
        }
    }
    Ok(())
}

/// Lets the next reads of a file, or of those in a folder, come from the disk.
fn forget(path: &Path) -> Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| forget(&entry?.path()));
    }
    if path.is_file() {
        let file = File::open(path)?;
        // What is not on the disk yet is not forgotten.
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Runs what writes files, until they are on the disk.
fn written(command: &mut Command, target: &Path) -> Result<Cost> {
    let mut cost = cost_of_command(command)?;
    let since = std::time::Instant::now();
    rustix::fs::syncfs(File::open(target)?)?;
    cost.wall += since.elapsed().as_secs_f64();
    fs::remove_dir_all(target)?;
    Ok(cost)
}
