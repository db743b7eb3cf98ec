//! The full image against raw copies and nbdcopy; syncs of 1 % and 10 % against rsync.

use super::Options;
use super::measure::{Cost, Raw, cost_of, cost_of_command, raw};
use super::table::Table;
use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::wait_for;
use crate::support::process::Process;
use crate::support::site::Site;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MIB: f64 = 1048576.0;
const AGENT: &str = "bench";
/// A full image of 4 GiB on a machine that does something else besides.
const IMAGE: Duration = Duration::from_secs(300);

/// The mix: of four MiB two are incompressible, one is text, one is zero.
pub fn content_of(mib: u64) -> Content {
    match mib % 4 {
        0 | 1 => Content::Incompressible,
        2 => Content::Text,
        _ => Content::Zero,
    }
}

/// What one run works with.
struct Run<'a> {
    options: &'a Options,
    site: &'a Site,
    disk: &'a LoopDisk,
    table: &'a mut Table,
}

pub fn measure(options: &Options, program: &Path, table: &mut Table) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let site = Site::under(&parent, program, "24h")?;
    let disk = LoopDisk::new(options.disk_bytes())?;
    println!("filling a disk of {} MiB", options.disk_bytes() >> 20);
    fill_device(disk.path(), 1, content_of)?;
    let mut run = Run { options, site: &site, disk: &disk, table };
    let (limit, copy) = run.raw_limits()?;
    let nbd = run.nbdcopy()?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent(AGENT, &[(&disk, "bench-disk")])?;
    let agent = home.start(&site, &[])?;
    run.full_image(&agent, &dispatcher, limit, copy, nbd)?;
    for (percent, seed) in [(1, 2), (10, 3)] {
        run.delta(&agent, &dispatcher, percent, seed)?;
    }
    let point = site.sync_one(AGENT)?;
    let restored = site.restore(&point)?;
    ensure_identical(disk.path(), &restored).context("the restored disk is not the source")?;
    run.export(&point, &restored)?;
    for (name, process, target) in
        [("agent", &agent, "48 MiB + maps"), ("dispatcher", &dispatcher, "32 MiB + 8 per disk")]
    {
        let used = process.usage()?;
        run.row(&format!("{name}: peak resident"), mib(used.peak_rss), "", target);
        run.row(&format!("{name}: CPU in all"), format!("{:.2} CPU-s", used.cpu_seconds), "", "");
    }
    site.done();
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

impl Run<'_> {
    fn row(&mut self, what: &str, value: String, ratio: &str, target: &str) {
        self.table.add(what, value, ratio.to_owned(), target);
    }

    fn cost(&mut self, what: &str, cost: Cost, ratio: &str, target: &str) {
        self.row(what, format!("{:.2} s, {:.2} CPU-s", cost.wall, cost.cpu), ratio, target);
    }

    /// Wall seconds of the slower of reading and writing, and of both at once.
    fn raw_limits(&mut self) -> Result<(f64, f64)> {
        let target = self.site.path("restored/raw");
        let mut walls = Vec::new();
        for (what, kind) in [
            ("O_DIRECT read", Raw::Read),
            ("O_DIRECT write + fsync of what is not zero", Raw::Write),
            ("O_DIRECT read + write + fsync", Raw::Copy),
        ] {
            let cost = raw(kind, self.disk.path(), &target)?;
            self.cost(what, cost, "", "");
            walls.push(cost.wall);
        }
        ensure_identical(self.disk.path(), &target)?;
        fs::remove_file(target)?;
        Ok((walls[0].max(walls[1]), walls[2]))
    }

    /// Plain text, nothing checked: nbdkit serves the disk, nbdcopy writes a sparse file.
    fn nbdcopy(&mut self) -> Result<Cost> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["--foreground", "--readonly", "--ipaddr=127.0.0.1", "--port", &port, "file"]);
        let server = Process::spawn("nbdkit", nbdkit.arg(self.disk.path()), &self.site.logs())?;
        wait_for("nbdkit listening", Duration::from_secs(20), || {
            Ok(TcpStream::connect(format!("127.0.0.1:{port}")).ok())
        })
        .with_context(|| server.tail())?;
        let target = self.site.path("restored/nbd");
        let mut nbdcopy = Command::new("nbdcopy");
        nbdcopy.arg("--flush").arg(format!("nbd://127.0.0.1:{port}")).arg(&target);
        let (client, mut cost) = cost_of(&[&server], || cost_of_command(&mut nbdcopy))?;
        cost.cpu += client.cpu;
        fs::remove_file(target)?;
        self.cost("nbdkit + nbdcopy", cost, "", "");
        Ok(cost)
    }

    /// A point over NBD against its raw image over NBD, both read by nbdcopy and thrown away.
    fn export(&mut self, point: &str, restored: &Path) -> Result<()> {
        let mut nbdkit = Command::new("nbdkit");
        let socket = self.site.path("nbdkit.sock");
        nbdkit.args(["--foreground", "--readonly", "--unix"]).arg(&socket).arg("file").arg(restored);
        let file = self.read_over(&socket, &mut nbdkit)?;
        self.cost("nbdkit file + nbdcopy of the restored image", file, "", "");
        let mut export = Command::new(self.site.program());
        let socket = self.site.path("export.sock");
        export.args(["export", point, "--nbd"]).arg(format!("unix:{}", socket.display()));
        export.arg("--data-dir").arg(self.site.path("data"));
        let point = self.read_over(&socket, &mut export)?;
        self.cost("blxrep export + nbdcopy", point, &format!("{:.2}", file.wall / point.wall), "");
        Ok(())
    }

    /// Starts a server on a socket and reads all that it serves.
    fn read_over(&self, socket: &Path, server: &mut Command) -> Result<Cost> {
        let mut server = Process::spawn("nbd", server, &self.site.logs())?;
        wait_for("the NBD server listening", Duration::from_secs(20), || {
            ensure!(server.is_running()?, "{}", server.tail());
            Ok(UnixStream::connect(socket).ok())
        })?;
        let mut nbdcopy = Command::new("nbdcopy");
        nbdcopy.arg(format!("nbd+unix:///?socket={}", socket.display())).arg("null:");
        let (client, mut cost) = cost_of(&[&server], || cost_of_command(&mut nbdcopy))?;
        cost.cpu += client.cpu;
        server.terminate(Duration::from_secs(20))?;
        Ok(cost)
    }

    /// From the first byte to the published base, by the times that the program gives itself.
    fn full_image(
        &mut self,
        agent: &Process,
        dispatcher: &Process,
        limit: f64,
        copy: f64,
        nbd: Cost,
    ) -> Result<()> {
        let (points, cost) = cost_of(&[agent, dispatcher], || self.site.wait_for_points(AGENT, 1, 1, IMAGE))?;
        let action = self.site.actions()?.into_iter().find(|a| a.kind == "snapshot");
        let action = action.context("no snapshot action for the full image")?;
        let (from, to): (jiff::Timestamp, jiff::Timestamp) =
            (action.created.parse()?, points[0].published.parse()?);
        let wall = to.duration_since(from).as_secs_f64();
        let total = Cost { wall, ..cost };
        let gib = self.options.disk_bytes() as f64 / (1u64 << 30) as f64;
        self.cost("full image", total, "", &format!("<= {:.2} CPU-s", 6.0 * gib / 4.0));
        self.row(
            "  speed of the slowest limit",
            format!("{limit:.2} s"),
            &format!("{:.2}", limit / wall),
            ">= 0.85",
        );
        self.row(
            "  against read + write + fsync",
            format!("{copy:.2} s"),
            &format!("{:.2}", wall / copy),
            "",
        );
        self.row(
            "  wall against nbdcopy",
            format!("{:.2} s", nbd.wall),
            &format!("{:.2}", wall / nbd.wall),
            "<= 1.5",
        );
        let content = self.options.disk_bytes() / 4 * 3;
        let ratio = format!("{:.3}", cost.wire as f64 / content as f64);
        self.row("  bytes on the wire", mib(cost.wire), &ratio, "<= 1.005 of those not zero");
        Ok(())
    }

    /// Random changes of 4 KiB, then a sync; and what rsync makes of the same changes.
    fn delta(&mut self, agent: &Process, dispatcher: &Process, percent: u64, seed: u64) -> Result<()> {
        let old = self.site.path(&format!("restored/rsync-{percent}"));
        if !self.options.no_rsync {
            fs::copy(self.disk.backing(), &old)?;
        }
        let granules = self.options.disk_bytes() / 4096 * percent / 100;
        change_granules(self.disk.path(), seed, granules)?;
        let (_, cost) = cost_of(&[agent, dispatcher], || self.site.sync_one(AGENT))?;
        let gib = self.options.disk_bytes() as f64 / (1u64 << 30) as f64;
        let target = if percent == 1 { 0.35 } else { 2.0 } * gib / 4.0;
        self.cost(&format!("sync of {percent} %"), cost, "", &format!("<= {target:.2} CPU-s"));
        let ratio = format!("{:.3}", cost.wire as f64 / (granules * 4096) as f64);
        self.row("  bytes on the wire", mib(cost.wire), &ratio, "<= 1.03 of those changed");
        if self.options.no_rsync {
            return Ok(());
        }
        let mut rsync = Command::new("rsync");
        rsync.args(["--inplace", "--no-whole-file", "--ignore-times"]).arg(self.disk.backing()).arg(&old);
        let rsync = cost_of_command(&mut rsync)?;
        ensure!(rsync.wall > 0.0, "rsync took no time");
        ensure_identical(self.disk.path(), &old).context("rsync did not copy the changes")?;
        self.cost("  rsync --inplace of the same", rsync, &format!("{:.2}", cost.wall / rsync.wall), "");
        fs::remove_file(old)?;
        Ok(())
    }
}
