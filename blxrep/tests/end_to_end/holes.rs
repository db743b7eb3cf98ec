//! Sectors that the disk cannot read: everything else goes on, and no point pretends to have them.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{sh, wait_for};
use crate::support::site::{DONE, PointRow, REFUSED, Site};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const BYTES: u64 = 24 * MIB;
/// The first sector that cannot be read: within a granule.
const FIRST_BAD: u64 = (BYTES - 64 * 1024) / 512 + 3;
const LAST: u64 = BYTES / 512;

/// A loop device answers reads behind the end of its file with EIO: the file is cut off, and mended.
fn break_end(disk: &LoopDisk) -> Result<()> {
    Ok(File::options().write(true).open(disk.backing())?.set_len(FIRST_BAD * 512)?)
}

fn mend_end(disk: &LoopDisk, content: &[u8]) -> Result<()> {
    let file = File::options().write(true).open(disk.backing())?;
    Ok(file.write_all_at(content, FIRST_BAD * 512)?)
}

/// Writes some bytes past the page cache.
fn write(disk: &LoopDisk, granule: u64, count: u64) -> Result<()> {
    let (to, count) = (format!("of={}", disk.name()), format!("count={count}"));
    let seek = format!("seek={granule}");
    sh("dd", &["if=/dev/urandom", &to, "bs=4096", &seek, &count, "oflag=direct", "conv=notrunc"]).map(drop)
}

fn ensure_holed(point: &PointRow) -> Result<()> {
    let (bad, last) = (FIRST_BAD, LAST);
    ensure!(
        point.holes.len() == 1 && point.holes[0] == (bad..last),
        "not the sectors that are bad: {point:?}"
    );
    ensure!(point.consistency == "fuzzy", "a point with holes is called {}", point.consistency);
    ensure!(point.notes.iter().any(|note| note.contains("could not be read")), "{point:?}");
    Ok(())
}

#[test]
fn sectors_that_cannot_be_read_are_named_and_tried_again() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    fill_device(disk.path(), 3, |_| Content::Incompressible)?;
    let mut end = vec![0; usize::try_from((LAST - FIRST_BAD) * 512)?];
    File::open(disk.backing())?.read_exact_at(&mut end, FIRST_BAD * 512)?;
    break_end(&disk)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("holes", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    let newest = |id: &str| -> Result<PointRow> {
        site.points("holes")?.into_iter().find(|point| point.id == id).context("the point is not listed")
    };

    // The base lacks them; the next point has them, although nothing was written, and is complete.
    let base = site.wait_for_points("holes", 1, 1, PATIENCE)?.remove(0);
    ensure_holed(&base)?;
    mend_end(&disk, &end)?;
    let mended = site.sync_one("holes")?;
    let point = newest(&mended)?;
    ensure!(point.holes.is_empty() && point.consistency != "fuzzy", "{point:?}");
    ensure_identical(disk.path(), &site.restore(&mended)?)?;

    // Bad again, after they were written to; what else changed is in the point.
    write(&disk, BYTES / 4096 - 16, 16)?;
    write(&disk, 100, 5)?;
    File::open(disk.backing())?.read_exact_at(&mut end, FIRST_BAD * 512)?;
    break_end(&disk)?;
    let holed = site.sync_one("holes").with_context(|| agent.tail())?;
    ensure_holed(&newest(&holed)?)?;
    agent.kill()?;
    write(&disk, 200, 5)?;
    let _agent = home.start(&site, &[])?;
    let holed = wait_for("a sync after the restart", PATIENCE, || site.sync_one("holes").map(Some))?;
    ensure_holed(&newest(&holed)?)?;

    // It is not restored as if it were complete.
    let target = site.path("restored").join("holed.img");
    let target_name = target.to_string_lossy();
    site.cli(&["restore", &holed, "--to", &target_name])?.expect(REFUSED, &["is incomplete"])?;
    ensure!(!target.exists(), "a refused restore left a file");
    site.cli(&["restore", &holed, "--to", &target_name, "--allow-holes"])?.expect(DONE, &[])?;
    let mut restored = fs::read(&target)?;
    let zeroes = restored.split_off(usize::try_from(FIRST_BAD * 512)?);
    ensure!(zeroes.iter().all(|byte| *byte == 0), "something was made up for what could not be read");
    ensure!(restored == fs::read(disk.backing())?, "what could be read is not as it was");
    site.cli(&["verify"])?.expect(DONE, &["could not be read"])?;

    mend_end(&disk, &end)?;
    let last = site.sync_one("holes")?;
    let point = newest(&last)?;
    ensure!(
        point.holes.is_empty() && point.coverage == "proven" && point.consistency != "fuzzy",
        "{point:?}"
    );
    ensure_identical(disk.path(), &site.restore(&last)?)?;
    site.done();
    Ok(())
}
