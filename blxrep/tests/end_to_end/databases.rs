//! Databases that are written to while points are made: each restored one is sound and has every transaction that was
//! acknowledged before the cut.

use crate::support::cluster::Cluster;
use crate::support::disk::Disk;
use crate::support::fixture::{run, sh};
use crate::support::ledger::{self, Ledger};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::PointRow;
use crate::ward::{RULES, Series, Volume, Ward};
use crate::{is_soak, require_root};
use anyhow::{Context, Result, ensure};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Points of each label at least.
const LEAST: usize = 2;
/// The same in a soak.
const LEAST_IN_SOAK: usize = 100;
/// The clock of a point is rounded to milliseconds.
const CLOCK_SLACK: Duration = Duration::from_millis(5);
/// Between transactions of one client: some dozen a second, as a small server has. A database that never pauses for as
/// long as a round takes has no quiet points.
const PACE: Duration = Duration::from_millis(15);
/// Clients of PostgreSQL. SQLite has one writer at a time.
const CLIENTS: usize = 2;

fn least() -> usize {
    if is_soak() { LEAST_IN_SOAK } else { LEAST }
}

/// How many transactions of each client a point must have: those acknowledged before it was cut, and it was not cut
/// before it was asked for.
fn needed(ledger: &Ledger, point: &PointRow, asked: SystemTime) -> Result<Vec<usize>> {
    let cut: SystemTime = point.cut.parse::<jiff::Timestamp>()?.into();
    ensure!(cut + CLOCK_SLACK >= asked, "cut before it was asked for");
    Ok(ledger.acknowledged(asked.max(cut - CLOCK_SLACK)))
}

/// Quiet points, then frozen ones. `open` judges the database in a restored and mounted copy and returns how many
/// transactions it has.
fn sound<L>(
    ward: &Ward<L>,
    ledger: impl Fn(&L) -> &Ledger,
    open: impl Fn(&Path, &[usize]) -> Result<usize>,
) -> Result<()> {
    for label in ["quiet", "frozen"] {
        let last = Cell::new((0, 0));
        let series = ward.series(label, least(), |point, asked, copy| {
            let needed = needed(ledger(&ward.load), point, asked)?;
            let mount = Mount::new("ext4", copy.path(), "defaults")?;
            last.set((needed.iter().sum(), open(mount.path(), &needed)?));
            mount.unmount()
        })?;
        report(label, &series, last.get())?;
    }
    Ok(())
}

fn report(label: &str, series: &Series, (needed, found): (usize, usize)) -> Result<()> {
    let (proven, freezes) = (series.proven.len(), series.freezes()?);
    println!(
        "{label}: {proven} points checked ({} frozen, {} fuzzy ones skipped), the last with {found} transactions of \
         {needed} needed; longest freeze {:?}",
        freezes.len(),
        series.fuzzy,
        freezes.last()
    );
    ensure!(needed > 0, "no transaction was acknowledged before the last cut");
    Ok(())
}

/// A shell on an SQLite database whose acknowledged transactions survive a loss of power, in either mode: without
/// `extra`, the removal of a rollback journal may be undone.
fn sqlite(database: &Path, journal_mode: &str) -> Command {
    let settings = format!("PRAGMA journal_mode = {journal_mode}; PRAGMA synchronous = extra;");
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail"]);
    // The first setting prints what it came to.
    for first in [".timeout 5000", ".output /dev/null", &settings, ".output stdout"] {
        command.args(["-cmd", first]);
    }
    command.arg(database);
    command
}

fn sqlite_is_sound(journal_mode: &str) -> Result<()> {
    let volume = Volume::new(Filesystem::Ext4, RULES)?;
    let database = volume.mount.path().join("ledger.db");
    let shell = || sqlite(&database, journal_mode);
    run(shell().arg(ledger::tables(1)))?;
    let load = Ledger::start(vec![shell()], PACE, &volume.site.logs())?;
    let ward = volume.protect(load, "")?;
    sound(
        &ward,
        |ledger| ledger,
        |folder, needed| {
            let database = folder.join("ledger.db");
            let sql = |text: &str| sh("sqlite3", &["-batch", "-bail", &database.to_string_lossy(), text]);
            // The audit opens it first, and so recovers it as a program that knows nothing of a restore does.
            let found = Ledger::judge(needed, sql)?;
            let integrity = sql("PRAGMA integrity_check;")?;
            ensure!(integrity.trim() == "ok", "{integrity}");
            Ok(found)
        },
    )?;
    ward.end(|ledger| {
        println!("SQLite ({journal_mode}): {} transactions", ledger.stop()?);
        Ok(())
    })
}

#[test]
fn sqlite_with_a_write_ahead_log() -> Result<()> {
    require_root!();
    sqlite_is_sound("wal")
}

#[test]
fn sqlite_with_a_rollback_journal() -> Result<()> {
    require_root!();
    sqlite_is_sound("delete")
}

/// A cluster with clients that write to it. The fields are in the order in which they have to go.
struct Busy {
    ledger: Ledger,
    cluster: Cluster,
}

impl Busy {
    fn start(volume: &Volume) -> Result<Self> {
        let logs = volume.site.logs();
        let cluster = Cluster::create(&volume.mount.path().join("cluster"), &logs)?;
        cluster.sql(&ledger::tables(CLIENTS))?;
        let shells = (0..CLIENTS).map(|_| cluster.client()).collect();
        Ok(Self { ledger: Ledger::start(shells, PACE, &logs)?, cluster })
    }

    fn stop(self) -> Result<()> {
        println!("PostgreSQL: {} transactions", self.ledger.stop()?);
        self.cluster.stop()
    }
}

/// Starts a server on a restored cluster, which recovers, and judges it.
fn recover(folder: &Path, logs: &Path, needed: &[usize]) -> Result<usize> {
    let data = folder.join("cluster");
    // The process of that number is not one of another machine, as after a real restore: it runs.
    fs::remove_file(data.join("postmaster.pid"))?;
    let cluster = Cluster::start(&data, logs)?;
    let found = Ledger::judge(needed, |sql| cluster.sql(sql))?;
    cluster.check()?;
    cluster.stop()?;
    Ok(found)
}

#[test]
fn postgresql() -> Result<()> {
    require_root!();
    let volume = Volume::new(Filesystem::Ext4, RULES)?;
    let (busy, logs) = (Busy::start(&volume)?, volume.site.logs());
    let ward = volume.protect(busy, "")?;
    sound(&ward, |busy| &busy.ledger, |folder, needed| recover(folder, &logs, needed))?;
    ward.end(Busy::stop)
}

/// The hooks of an operator who wants recovery to be short: a checkpoint before the rounds, and one before the freeze.
#[test]
fn postgresql_with_a_checkpoint_as_hook() -> Result<()> {
    require_root!();
    let volume = Volume::new(Filesystem::Ext4, RULES)?;
    let (busy, logs) = (Busy::start(&volume)?, volume.site.logs());
    let script = volume.site.path("checkpoint");
    let psql =
        format!("#!/bin/sh\nexec psql --no-psqlrc {} -c CHECKPOINT\n", busy.cluster.address().join(" "));
    fs::write(&script, psql)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
    let hook = |stage: &str| format!("    {stage}: {{command: [{}], timeout: 20s}}\n", script.display());
    let hooks = format!("  hooks:\n{}{}", hook("pre"), hook("freeze"));
    let ward = volume.protect(busy, &hooks)?;
    let series = ward.series("frozen", 1, |point, asked, copy| {
        // A freeze in which too much is left to read is given up and tried again, with its hook.
        let freezes = point.hooks.iter().filter(|hook| hook.stage == "freeze").count();
        ensure!(point.hooks[0].stage == "pre" && freezes + 1 == point.hooks.len(), "{:?}", point.hooks);
        ensure!(point.hooks.iter().all(|hook| hook.output == "CHECKPOINT\n"), "{:?}", point.hooks);
        ensure!(freezes > 0 || point.consistency != "frozen", "frozen without the hook");
        let needed = needed(&ward.load.ledger, point, asked)?;
        let mount = Mount::new("ext4", copy.path(), "defaults")?;
        recover(mount.path(), &logs, &needed).context("recovering")?;
        mount.unmount()
    })?;
    println!(
        "{} points with hooks checked, longest freeze {:?}",
        series.proven.len(),
        series.freezes()?.last()
    );
    ward.end(Busy::stop)
}

#[test]
fn a_lost_and_a_torn_transaction_are_seen() {
    let judge = |audit: &str| Ledger::judge(&[5, 3], |_| Ok(audit.to_owned())).map_err(|e| e.to_string());
    assert_eq!(judge("0|6|6|6\n1|3|3|3\n"), Ok(9));
    for (audit, reason) in [
        ("0|4|4|4\n1|3|3|3\n", "5 were acknowledged"),
        ("0|5|5|5\n", "client 1: the last transaction is 0"),
        ("0|5|6|5\n1|3|3|3\n", "but there are 5"),
        ("0|6|6|5\n1|3|3|3\n", "half a transaction"),
        ("0|6\n1|3|3|3\n", "not what was asked for"),
    ] {
        let said = judge(audit).unwrap_err();
        assert!(said.contains(reason), "{said}");
    }
}
