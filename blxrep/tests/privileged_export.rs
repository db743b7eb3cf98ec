//! A point as a network block device and as image files, judged by the tools that people use.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code, clippy::panic, reason = "shared with the tests of the store")]
#[path = "store/fixture.rs"]
mod backup;
mod support;

use anyhow::{Context, Result, ensure};
use blxrep::api::client::Client;
use blxrep::api::exports::{ExportBody, ExportRow};
use blxrep::store::Store;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::fixture::{run, wait_for};
use support::process::Process;
use support::site::{DONE, NOT_FOUND, REFUSED, Site};

const DISK: usize = 40 << 20;
/// The partition: sectors 2048 to 40,959.
const PART: std::ops::Range<usize> = 1 << 20..20 << 20;
/// Opening, copying and ending take no time; a busy machine may take some.
const PATIENCE: Duration = Duration::from_secs(60);

/// A dispatcher whose store holds one disk, and what the disk was at each point.
struct Shop {
    site: Site,
    dispatcher: Process,
    points: Vec<(String, Vec<u8>)>,
}

impl Shop {
    fn open() -> Result<Self> {
        let site = Site::new(&support_program(), "1h")?;
        let points = stock(&site.path("data"))?;
        let dispatcher = site.dispatcher()?;
        Ok(Self { site, dispatcher, points })
    }

    /// Starts `blxrep export` and waits until it serves. Returns where.
    fn serve(&self, number: usize, more: &[&str]) -> Result<(Process, PathBuf)> {
        let socket = self.site.path("nbd.sock");
        let mut command = Command::new(self.site.program());
        command.args(["export", &self.points[number].0, "--nbd"]).arg(format!("unix:{}", socket.display()));
        command.args(more).arg("--data-dir").arg(self.site.path("data"));
        // What an earlier one printed would be taken for what this one prints.
        drop(fs::remove_file(self.site.logs().join("export.log")));
        let mut server = Process::spawn("export", &mut command, &self.site.logs())?;
        server.wait_for_output(&["Ctrl-C ends it"], PATIENCE)?;
        Ok((server, socket))
    }

    fn close(mut self) -> Result<()> {
        self.dispatcher.terminate(PATIENCE)?;
        self.site.done();
        Ok(())
    }
}

fn support_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_blxrep"))
}

fn uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// A disk with a partition, half of it never written, and twenty changes.
fn stock(data: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let (store, _) = Store::open(data, backup::seed())?;
    let mut content = vec![0; DISK];
    content[..8 << 20].copy_from_slice(&backup::noise(1, 8 << 20));
    content[..512].fill(0);
    // A boot record with one partition of type 0x83.
    let sectors = (PART.len() / 512) as u32;
    content[450] = 0x83;
    content[454..458].copy_from_slice(&2048u32.to_le_bytes());
    content[458..462].copy_from_slice(&sectors.to_le_bytes());
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disk = backup::add_disk(&store, DISK as u64)?.id;
    let mut points = vec![(backup::base(&store, disk, &content).id.to_string(), content.clone())];
    for n in 1..=20u32 {
        let runs = [n * 300..n * 300 + 20, 5000 + n..5001 + n, 9000..9040];
        for (i, run) in runs.iter().enumerate() {
            let bytes = run.start as usize * 4096..run.end as usize * 4096;
            match i {
                0 => content[bytes].fill(0),
                1 => content[bytes].fill(n as u8),
                _ => content[bytes.clone()].copy_from_slice(&backup::noise(n.into(), bytes.len())),
            }
        }
        points.push((backup::delta(&store, disk, &content, &runs).id.to_string(), content.clone()));
    }
    // As a dispatcher does when it starts: then nothing is left for it to make.
    store.index_all(points[20].0.parse()?)?;
    Ok(points)
}

/// Every file of a data directory and its bytes; without the empty ones that leases of views are held on.
fn files(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() && entry.file_name() == "lease" => {}
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap())),
                _ => {}
            }
        }
    }
    found
}

/// What `nbdinfo --map` says is zero must be, and what was never written must be said to be.
fn check_map(socket: &Path, content: &[u8]) -> Result<()> {
    let map = run(Command::new("nbdinfo").args(["--map", "--json"]).arg(uri(socket)))?;
    let map: Vec<serde_json::Value> = serde_json::from_str(&map)?;
    let number =
        |row: &serde_json::Value, key: &str| row[key].as_u64().map(|n| n as usize).context("a number");
    let (mut at, mut zero) = (0, 0);
    for row in &map {
        let (offset, length, kind) = (number(row, "offset")?, number(row, "length")?, number(row, "type")?);
        ensure!(offset == at, "the map has a gap at {at}");
        if kind == 3 {
            ensure!(content[at..at + length].iter().all(|b| *b == 0), "{length} bytes at {at} are no zeroes");
            zero += length;
        }
        at += length;
    }
    ensure!(at == content.len() && zero >= 15 << 20, "{at} bytes mapped, {zero} of them zero");
    Ok(())
}

#[test]
fn tools_read_a_point_over_nbd() -> Result<()> {
    require_root!();
    let shop = Shop::open()?;
    let before = files(&shop.site.path("data"));
    for number in [0, 1, 20] {
        let content = &shop.points[number].1;
        let (mut server, socket) = shop.serve(number, &[])?;
        let info = run(Command::new("nbdinfo").arg("--json").arg(uri(&socket)))?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        let export = &info["exports"][0];
        ensure!(info["structured"] == true && export["export-size"] == DISK, "{info}");
        ensure!(export["is_read_only"] == true && export["can_multi_conn"] == true, "{info}");
        let list = run(Command::new("nbdinfo").args(["--list", "--json"]).arg(uri(&socket)))?;
        ensure!(list.contains(&shop.points[number].0), "{list}");
        check_map(&socket, content)?;
        let copied = shop.site.path("copied");
        run(Command::new("nbdcopy").arg(uri(&socket)).arg(&copied))?;
        ensure!(fs::read(&copied)? == *content, "nbdcopy read other bytes of point {number}");
        let converted = shop.site.path("converted");
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "raw", &uri(&socket)])
            .arg(&converted))?;
        ensure!(fs::read(&converted)? == *content, "qemu-img read other bytes of point {number}");
        let written =
            Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4096", &uri(&socket)]).output()?;
        ensure!(!written.status.success(), "a read-only export was opened for writing");
        server.terminate(PATIENCE)?;
        ensure!(server.output().lines().count() == 1, "{}", server.tail());
        ensure!(!socket.exists(), "the socket was left behind");
    }
    ensure!(files(&shop.site.path("data")) == before, "the store was changed by reading it");
    shop.close()
}

#[test]
fn a_partition_alone_is_served_and_copied() -> Result<()> {
    require_root!();
    let shop = Shop::open()?;
    let content = &shop.points[20].1[PART];
    let (mut server, socket) = shop.serve(20, &["--partition", "1"])?;
    check_map_of_part(&socket, content)?;
    server.terminate(PATIENCE)?;
    let point = &shop.points[20].0;
    let raw = shop.site.path("part.img");
    let raw = raw.to_str().context("a path")?;
    shop.site.cli(&["export", point, "--partition", "1", "--to", raw])?.expect(DONE, &[])?;
    ensure!(fs::read(raw)? == content, "the copied partition has other bytes");
    shop.site.cli(&["export", point, "--to", raw])?.expect(REFUSED, &["--yes"])?;
    shop.site
        .cli(&["export", point, "--partition", "7", "--to", raw, "--yes"])?
        .expect(2, &["no partition 7, only 1"])?;
    let inside = shop.site.path("data").join("x.img");
    shop.site
        .cli(&["export", point, "--to", inside.to_str().context("a path")?])?
        .expect(REFUSED, &["data directory"])?;
    shop.close()
}

fn check_map_of_part(socket: &Path, content: &[u8]) -> Result<()> {
    let copied = socket.with_extension("copy");
    run(Command::new("nbdcopy").arg(uri(socket)).arg(&copied))?;
    ensure!(fs::read(&copied)? == content, "nbdcopy read other bytes");
    Ok(())
}

#[test]
fn images_are_what_qemu_takes_them_for() -> Result<()> {
    require_root!();
    let shop = Shop::open()?;
    for number in [0, 20] {
        let (point, content) = &shop.points[number];
        let (raw, qcow2) = (shop.site.path("disk.img"), shop.site.path("disk.qcow2"));
        for (file, format) in [(&raw, "raw"), (&qcow2, "qcow2")] {
            let file = file.to_str().context("a path")?;
            let reply = shop.site.cli(&["export", point, "--to", file, "--format", format, "--yes"])?;
            reply.expect(DONE, &[])?;
        }
        ensure!(fs::read(&raw)? == *content, "the raw image has other bytes");
        use std::os::unix::fs::MetadataExt;
        ensure!(fs::metadata(&raw)?.blocks() * 512 < 20 << 20, "the raw image is not sparse");
        run(Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&qcow2))?;
        let compare = ["compare", "-f", "raw", "-F", "qcow2"];
        run(Command::new("qemu-img").args(compare).arg(&raw).arg(&qcow2))?;
        ensure!(fs::metadata(&qcow2)?.len() < 20 << 20, "the qcow2 image is not sparse");
    }
    shop.close()
}

#[test]
fn what_is_written_over_a_point_is_read_back_and_gone() -> Result<()> {
    require_root!();
    let shop = Shop::open()?;
    let before = files(&shop.site.path("data"));
    let (mut server, socket) = shop.serve(20, &["--writable", "--scratch-limit", "8MiB"])?;
    let io = |commands: &[&str]| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]);
        for c in commands {
            command.args(["-c", c]);
        }
        run(command.arg(uri(&socket)))
    };
    // Within a granule, over edges, zeroes, discards; each client sees what others wrote.
    let wrote = io(&[
        "write -P 0xaa 100k 700",
        "write -P 0xbb 1000 9000",
        "write -z 4M 1M",
        "write -z 9000000 5000",
        "discard 20M 1M",
        "write -P 0xcc -f 30M 2M",
        "flush",
    ])?;
    ensure!(!wrote.to_lowercase().contains("error"), "{wrote}");
    let mut expected = shop.points[20].1.clone();
    expected[102_400..103_100].fill(0xaa);
    expected[1000..10_000].fill(0xbb);
    expected[4 << 20..5 << 20].fill(0);
    expected[9_000_000..9_005_000].fill(0);
    expected[20 << 20..21 << 20].fill(0);
    expected[30 << 20..32 << 20].fill(0xcc);
    let copied = shop.site.path("copied");
    run(Command::new("nbdcopy").arg(uri(&socket)).arg(&copied))?;
    ensure!(fs::read(&copied)? == expected, "what was written is not what is read");
    check_map(&socket, &expected)?;
    let full = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 7M", &uri(&socket)]).output()?;
    let said = format!("{full:?}");
    ensure!(said.contains("No space left"), "the limit was not kept: {said}");
    server.terminate(PATIENCE)?;
    let (mut server, socket) = shop.serve(20, &["--writable"])?;
    run(Command::new("nbdcopy").arg(uri(&socket)).arg(&copied))?;
    ensure!(fs::read(&copied)? == shop.points[20].1, "what was written is still there");
    server.terminate(PATIENCE)?;
    ensure!(files(&shop.site.path("data")) == before, "the store was changed by writing over it");
    shop.close()
}

/// Through the API: served until it is stopped, and no longer than the dispatcher lives, however that ends.
#[test]
fn the_dispatcher_serves_points_as_long_as_it_lives() -> Result<()> {
    require_root!();
    let mut shop = Shop::open()?;
    let (client, socket) = (Client::new(&shop.site.path("data")), shop.site.path("nbd.sock"));
    let (point, address) = (shop.points[20].0.clone(), format!("unix:{}", socket.display()));
    let body = ExportBody { point, address, ..ExportBody::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let export = || runtime.block_on(client.export(&body));
    let served = export()?;
    let size = run(Command::new("nbdinfo").arg("--size").arg(&served.uri))?;
    ensure!(size.trim() == DISK.to_string() && served.bytes == DISK as u64, "{size} {served:?}");
    let listed: Vec<ExportRow> = shop.site.cli(&["exports"])?.parse()?;
    ensure!(listed == [served.clone()], "{listed:?}");
    let taken = export().err().context("two servers at one address")?.to_string();
    ensure!(taken.contains("another server answers there"), "{taken}");
    shop.site.cli(&["exports", "--stop", &served.uri])?.expect(DONE, &[])?;
    ensure!(!socket.exists(), "its socket is left");
    shop.site.cli(&["exports", "--stop", &served.uri])?.expect(NOT_FOUND, &["no point is served"])?;
    export()?;
    shop.dispatcher.kill()?;
    wait_for("the end of what it served", PATIENCE, || Ok((!socket.exists()).then_some(())))?;
    shop.site.done();
    Ok(())
}

#[test]
fn hostile_clients_and_crashes_do_no_harm() -> Result<()> {
    require_root!();
    let shop = Shop::open()?;
    let (mut server, socket) = shop.serve(20, &[])?;
    let idle: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    let mut garbage = backup::noise(9, 4096);
    for length in [0, 3, 4, 20, 4096] {
        let mut stream = UnixStream::connect(&socket)?;
        // The server may have gone before all of it is written.
        let _ = stream.write_all(&garbage[..length]);
        garbage.rotate_left(7);
    }
    // A name of 4 GiB, and options without end.
    let mut stream = UnixStream::connect(&socket)?;
    let option =
        |kind: u32, length: u32| [&b"IHAVEOPT"[..], &kind.to_be_bytes(), &length.to_be_bytes()].concat();
    stream.write_all(&[&[0, 0, 0, 3][..], &option(7, u32::MAX)].concat())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == 18, "{} bytes", answer.len());
    let mut stream = UnixStream::connect(&socket)?;
    stream.write_all(&[0, 0, 0, 3])?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..1000 {
        if stream.write_all(&option(99, 0)).is_err() {
            break;
        }
    }
    // It ends, in order or not.
    let _ = stream.read_to_end(&mut answer);
    let size = run(Command::new("nbdinfo").arg("--size").arg(uri(&socket)))?;
    ensure!(size.trim() == DISK.to_string(), "{size}");
    drop(idle);
    // Killed, it leaves its socket, which the next one replaces; one that runs is not replaced.
    server.kill()?;
    ensure!(socket.exists(), "it cannot have removed it");
    let (mut server, socket) = shop.serve(20, &[])?;
    let address = format!("unix:{}", socket.display());
    shop.site.cli(&["export", &shop.points[0].0, "--nbd", &address])?.expect(REFUSED, &["another server"])?;
    shop.site.cli(&["export", &shop.points[0].0, "--nbd", "0.0.0.0:0"])?.expect(2, &["not on this host"])?;
    server.terminate(PATIENCE)?;
    shop.close()
}
