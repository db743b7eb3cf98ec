//! Points restored onto devices of agents: exact, with what differs alone, past kills, outages and pauses; refused where
//! the agent's own configuration or the device speaks against it; and undone.

use crate::names::Partitions;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, sh, wait_for};
use crate::support::mount::{Filesystem, Mount};
use crate::support::process::Process;
use crate::support::proxy::{Event, Proxy, Weather};
use crate::support::site::{ActionRow, AgentHome, DONE, FAILED, NOT_FOUND, REFUSED, Reply, Site};
use crate::support::stamper::Random;
use crate::{MIB, PATIENCE, is_soak, program, require_root};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const BYTES: u64 = 48 * MIB;
/// A restore to an empty disk often goes to a larger one.
const BEHIND: u64 = 8 * MIB;
/// Of each side, while one device is restored.
const KILLS: u64 = 2;
const SOAK_KILLS: u64 = 20;
/// So that there is a middle.
const SLOWLY: [&str; 2] = ["--bandwidth-limit", "128MiB"];

/// A protected server, and another agent, as on a rescue system, that has a disk for the taking and reaches the dispatcher
/// through a proxy. The fields are in the order in which they have to go.
struct Scene<'a> {
    rescue: Process,
    _web: Process,
    dispatcher: Process,
    proxy: Proxy,
    homes: [AgentHome; 2],
    target: &'a LoopDisk,
    _own: LoopDisk,
    site: Site,
}

impl<'a> Scene<'a> {
    fn new(source: &LoopDisk, target: &'a LoopDisk, more: &[&LoopDisk], extra: &[&str]) -> Result<Self> {
        let site = Site::new(program(), "1h")?;
        let own = LoopDisk::new(4 * MIB)?;
        let dispatcher = site.dispatcher()?;
        let proxy = Proxy::start(&site.address()?)?;
        let web = site.agent("web", &[(source, "disk")])?;
        allow(&web, &[source])?;
        let mut rescue = site.agent("rescue", &[(&own, "own")])?;
        allow(&rescue, &[&[target], more].concat())?;
        rescue.connect_via(&proxy);
        let agents = (web.start(&site, &[])?, rescue.start(&site, extra)?);
        site.wait_for_points("web", 1, 1, PATIENCE)?;
        // What is measured is not its own disk.
        site.wait_for_points("rescue", 1, 1, PATIENCE)?;
        let (_web, rescue_process) = agents;
        let homes = [web, rescue];
        Ok(Self { rescue: rescue_process, _web, dispatcher, proxy, homes, target, _own: own, site })
    }

    fn base(&self) -> Result<String> {
        self.site.points("web")?.pop().map(|point| point.id).context("no base")
    }

    fn ask(&self, point: &str, extra: &[&str]) -> Result<Reply> {
        ask(&self.site, "rescue", point, self.target, extra)
    }

    /// Restores onto the disk for the taking, and waits for the end. Returns what was moved, too.
    fn restore(&self, point: &str, extra: &[&str]) -> Result<(ActionRow, u64)> {
        let before = self.proxy.sent_to_clients();
        let action = self.ask(point, &[&["--yes"], extra].concat())?.parse()?;
        Ok((action, self.proxy.sent_to_clients() - before))
    }

    /// The disk begins with what the point was.
    fn ensure_restored(&self, point: &str, bytes: u64) -> Result<()> {
        let image = self.site.restore(point)?;
        ensure_front(&image, self.target.backing(), bytes)?;
        Ok(fs::remove_file(image)?)
    }

    /// Whether something was written and the restore says so, or has ended.
    fn is_unfinished(&self, id: &str) -> Result<bool> {
        let action = action(&self.site, id)?;
        Ok(is_over(&action) || action.reason.contains("unfinished"))
    }

    /// Pauses a restore that has not ended, sees that nothing is written, and has it go on. Returns how often.
    fn pause(&self, id: &str) -> Result<u64> {
        let paused = self.site.cli(&["pause", id])?;
        if is_over(&action(&self.site, id)?) {
            return Ok(0);
        }
        let paused: ActionRow = paused.parse()?;
        ensure!(paused.state == "paused" && paused.reason.contains("is unfinished"), "{paused:?}");
        // What was on its way is written by then.
        pause(Duration::from_millis(500))?;
        let still = digest(self.target)?;
        pause(Duration::from_millis(700))?;
        ensure!(digest(self.target)? == still, "a paused restore writes");
        self.site.cli(&["resume", id])?.expect(DONE, &[])?;
        // The agent hears of it before it has let go.
        for _ in 0..3 {
            let paused = self.site.cli(&["pause", id])?;
            if paused.code != DONE {
                return Ok(1);
            }
            self.site.cli(&["resume", id])?.expect(DONE, &[])?;
        }
        Ok(4)
    }

    /// All connections are reset, and none can be made for a moment.
    fn outage(&self) -> Result<u64> {
        pause(Duration::from_millis(400))?;
        self.proxy.set(Weather::Refuse);
        self.proxy.happen(Event::Reset);
        pause(Duration::from_millis(800))?;
        self.proxy.set(Weather::Clear);
        Ok(1)
    }

    fn restart_rescue(&mut self) -> Result<()> {
        self.rescue.kill()?;
        self.rescue = self.homes[1].start(&self.site, &SLOWLY)?;
        Ok(())
    }

    fn restart_dispatcher(&mut self) -> Result<()> {
        self.dispatcher.kill()?;
        self.dispatcher = self.site.dispatcher()?;
        Ok(())
    }
}

/// Lets an agent overwrite these.
fn allow(home: &AgentHome, disks: &[&LoopDisk]) -> Result<()> {
    let names: Vec<_> = disks.iter().map(|disk| disk.name()).collect();
    home.add_to_config(&format!("  restore: {{devices: [{}]}}\n", names.join(", ")))
}

fn ask(site: &Site, agent: &str, point: &str, target: &LoopDisk, extra: &[&str]) -> Result<Reply> {
    let device = target.name();
    site.cli(&[&["restore", point, "--agent", agent, "--device", &device], extra].concat())
}

fn action(site: &Site, id: &str) -> Result<ActionRow> {
    let found = site.actions()?.into_iter().find(|action| action.id == id);
    found.with_context(|| format!("no action {id}"))
}

fn is_over(action: &ActionRow) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&action.state.as_str())
}

fn end(site: &Site, id: &str) -> Result<ActionRow> {
    wait_for("the end of the restore", PATIENCE * 4, || Ok(Some(action(site, id)?).filter(is_over)))
}

/// Fails unless two files begin with the same bytes.
fn ensure_front(left: &Path, right: &Path, bytes: u64) -> Result<()> {
    let (left, right) = (left.to_string_lossy(), right.to_string_lossy());
    sh("cmp", &["-n", &bytes.to_string(), &left, &right]).map(drop)
}

fn digest(disk: &LoopDisk) -> Result<String> {
    sh("sha256sum", &[&disk.backing().to_string_lossy()])
}

/// What lies behind the bytes of the source.
fn behind(disk: &LoopDisk) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(BEHIND)?];
    File::open(disk.backing())?.read_exact_at(&mut bytes, BYTES)?;
    Ok(bytes)
}

/// Zeroes, text and what cannot be compressed.
fn fill(disk: &LoopDisk, seed: u64) -> Result<()> {
    fill_device(disk.path(), seed, |mib| match mib % 4 {
        0 => Content::Zero,
        1 => Content::Text,
        _ => Content::Incompressible,
    })
}

/// From the base, the last and the first delta, in full, and a partition into another: exact each time, behind the end
/// nothing changes, and what is moved is what differs. Nothing is written before somebody says so.
#[test]
fn a_device_becomes_what_a_point_was_and_only_what_differs_is_moved() -> Result<()> {
    require_root!();
    let (source, target) = (LoopDisk::new(BYTES)?, LoopDisk::new(BYTES + BEHIND)?);
    fill(&source, 71)?;
    let parts = Partitions::make(&source)?;
    fill_device(target.path(), 72, |_| Content::Incompressible)?;
    let rest = behind(&target)?;
    let scene = Scene::new(&source, &target, &[], &[])?;
    let base = scene.base()?;
    change_granules(&parts.path(1), 73, 300)?;
    let first = scene.site.sync_one("web")?;
    change_granules(&parts.path(2), 74, 200)?;
    let last = scene.site.sync_one("web")?;

    let before = digest(&target)?;
    scene.ask(&base, &["--dry-run"])?.expect(DONE, &["dry run, nothing was written"])?;
    scene.ask(&base, &[])?.expect(REFUSED, &["would be overwritten"])?;
    ensure!(digest(&target)? == before, "something was written although nobody said so");

    let mut said = Vec::new();
    for (point, extra) in
        [(&base, &[][..]), (&last, &[]), (&last, &[]), (&first, &[]), (&last, &["--full"]), (&base, &[])]
    {
        let (action, moved) = scene.restore(point, extra)?;
        ensure!(action.state == "succeeded" && action.done == action.total, "{action:?}");
        ensure!(action.reason.contains("read back and compared"), "{action:?}");
        scene.ensure_restored(point, BYTES)?;
        ensure!(behind(&target)? == rest, "what lies behind the point's end was written to");
        said.push(moved);
    }
    println!("moved for a disk of {BYTES}: {said:?} (base; 500 granules; none; 200; all; 500)");
    let [everything, some, none, few, full, _] = said[..] else { unreachable!() };
    let granules = |count: u64| count * 4096 * 5 / 4 + MIB / 2;
    ensure!(everything > BYTES / 4 && full > BYTES / 4, "{said:?}");
    ensure!(some < granules(500) && none < granules(0) && few < granules(200), "{said:?}");

    let copies = Partitions::of(&target)?;
    let device = copies.path(1).to_string_lossy().into_owned();
    let onto = ["restore", &last, "--partition", "2", "--agent", "rescue", "--device", &device, "--yes"];
    scene.site.cli(&onto)?.expect(DONE, &["succeeded"])?;
    sh("cmp", &[&device, &parts.path(2).to_string_lossy()])?;
    scene.site.done();
    Ok(())
}

/// Whatever speaks against it is said before anything is written.
#[test]
fn what_may_not_be_overwritten_is_refused() -> Result<()> {
    require_root!();
    let (source, target) = (LoopDisk::new(8 * MIB)?, LoopDisk::new(16 * MIB)?);
    let small = LoopDisk::new(4 * MIB)?;
    fill(&source, 75)?;
    Filesystem::Ext4.make(target.path())?;
    let scene = Scene::new(&source, &target, &[&small], &[])?;
    let (site, base) = (&scene.site, scene.base()?);
    let before = digest(&target)?;
    ask(site, "web", &base, &target, &["--yes"])?.expect(REFUSED, &["restore: {devices: ["])?;
    ask(site, "rescue", &base, &small, &["--yes"])?.expect(REFUSED, &["choose a larger device"])?;
    ask(site, "nobody", &base, &target, &["--yes"])?.expect(NOT_FOUND, &["nobody"])?;
    scene.ask("ffff", &["--yes"])?.expect(NOT_FOUND, &["ffff"])?;
    scene.ask(&base, &["--yes", "--partition", "7"])?.expect(NOT_FOUND, &["no partition 7"])?;
    let absent = ["restore", &base, "--agent", "rescue", "--device", "/dev/nowhere", "--yes"];
    site.cli(&absent)?.expect(REFUSED, &["/dev/nowhere"])?;
    sh("blockdev", &["--setro", &target.name()])?;
    scene.ask(&base, &["--yes"])?.expect(REFUSED, &["read-only"])?;
    sh("blockdev", &["--setrw", &target.name()])?;
    ensure!(digest(&target)? == before, "a refused restore has written");
    let mount = Mount::new("ext4", target.path(), "defaults")?;
    scene.ask(&base, &["--yes"])?.expect(REFUSED, &["is mounted on"])?;
    scene.ask(&base, &["--dry-run"])?.expect(REFUSED, &["is mounted on"])?;
    mount.unmount()?;
    let actions = site.actions()?;
    ensure!(actions.iter().all(|action| action.kind != "restore"), "refused before it began: {actions:?}");
    site.done();
    Ok(())
}

/// Either side is killed again and again, the network fails, and a person pauses: each restore goes on, what was written
/// is not moved again, and it says that it has succeeded only when it has.
#[test]
fn a_restore_onto_a_device_goes_on_after_kills_outages_and_pauses() -> Result<()> {
    require_root!();
    let kills = 2 * if is_soak() { SOAK_KILLS } else { KILLS };
    let bytes = if is_soak() { 512 * MIB } else { 160 * MIB };
    let (source, target) = (LoopDisk::new(bytes)?, LoopDisk::new(bytes)?);
    fill_device(source.path(), 76, |_| Content::Incompressible)?;
    let mut scene = Scene::new(&source, &target, &[], &SLOWLY)?;
    let base = scene.base()?;
    let mut random = Random(78);
    let (mut killed, mut runs) = (0, 0);
    while killed < kills {
        fill_device(target.path(), 100 + runs, |_| Content::Incompressible)?;
        let moved = scene.proxy.sent_to_clients();
        let begun: ActionRow = scene.ask(&base, &["--yes", "--no-wait"])?.parse()?;
        wait_for("data to come", PATIENCE, || Ok(scene.is_unfinished(&begun.id)?.then_some(())))?;
        let before = killed;
        while killed < kills && !is_over(&action(&scene.site, &begun.id)?) {
            match killed % 2 {
                0 => scene.restart_rescue()?,
                _ => scene.restart_dispatcher()?,
            }
            killed += 1;
            pause(Duration::from_millis(random.below(1500)))?;
        }
        let troubles = killed - before + scene.pause(&begun.id)? + scene.outage()?;
        let ended = end(&scene.site, &begun.id)?;
        ensure!(ended.state == "succeeded", "{ended:?}");
        scene.ensure_restored(&base, bytes)?;
        let moved = scene.proxy.sent_to_clients() - moved;
        let twice = moved.saturating_sub(bytes);
        println!("{bytes} bytes restored past {troubles} troubles: {twice} more were moved");
        // Each time at most the credit and what waits to be written, and the digests of what is compared again.
        ensure!(twice < (troubles + 1) * 16 * MIB, "{moved} bytes were moved for {bytes}");
        runs += 1;
    }
    scene.site.done();
    Ok(())
}

/// A cancelled restore says what it leaves behind, and another one puts it right.
#[test]
fn a_cancelled_restore_is_never_taken_for_a_finished_one() -> Result<()> {
    require_root!();
    let (source, target) = (LoopDisk::new(BYTES)?, LoopDisk::new(BYTES)?);
    fill_device(source.path(), 79, |_| Content::Incompressible)?;
    let scene = Scene::new(&source, &target, &[], &["--bandwidth-limit", "16MiB"])?;
    let base = scene.base()?;
    let begun: ActionRow = scene.ask(&base, &["--yes", "--full", "--no-wait"])?.parse()?;
    wait_for("data to come", PATIENCE, || {
        Ok(action(&scene.site, &begun.id)?.reason.contains("unfinished").then_some(()))
    })?;
    scene.ask(&base, &["--yes"])?.expect(REFUSED, &["already"])?;
    scene.site.cli(&["cancel", &begun.id])?.expect(DONE, &["cancelled"])?;
    let cancelled = action(&scene.site, &begun.id)?;
    ensure!(cancelled.state == "cancelled" && cancelled.reason.contains("is unfinished"), "{cancelled:?}");
    let again: ActionRow = wait_for("the device to be free", PATIENCE, || {
        let reply = scene.ask(&base, &["--yes", "--no-wait"])?;
        Ok(if reply.code == DONE { Some(reply.parse()?) } else { None })
    })?;
    let ended = end(&scene.site, &again.id)?;
    ensure!(ended.state == "succeeded", "{ended:?}");
    scene.ensure_restored(&base, BYTES)?;
    scene.site.done();
    Ok(())
}

/// From the first byte of a restore to a protected disk until one has succeeded, its points say what they are.
#[test]
fn points_of_a_half_restored_disk_say_so() -> Result<()> {
    require_root!();
    let disk = LoopDisk::new(16 * MIB)?;
    fill_device(disk.path(), 82, |_| Content::Incompressible)?;
    let site = Site::new(program(), "1h")?;
    let _dispatcher = site.dispatcher()?;
    let web = site.agent("web", &[(&disk, "disk")])?;
    allow(&web, &[&disk])?;
    let _agent = web.start(&site, &["--bandwidth-limit", "16MiB"])?;
    site.wait_for_points("web", 1, 1, PATIENCE)?;
    let base = site.points("web")?.pop().context("no base")?.id;
    let begun: ActionRow = ask(&site, "web", &base, &disk, &["--yes", "--full", "--no-wait"])?.parse()?;
    wait_for("data to come", PATIENCE, || {
        Ok(action(&site, &begun.id)?.reason.contains("unfinished").then_some(()))
    })?;
    site.cli(&["cancel", &begun.id])?.expect(DONE, &["cancelled"])?;
    let mixed = site.sync_one("web")?;
    let mark = |id: &str| -> Result<Option<String>> {
        let row = site.points("web")?.into_iter().find(|row| row.id == id);
        Ok(row.context("no such point")?.half_restored)
    };
    ensure!(mark(&base)?.is_none() && mark(&mixed)?.as_ref() == Some(&begun.id), "{:?}", site.points("web")?);
    // The agent hears of the end before it lets go.
    wait_for("the device to be free", PATIENCE, || {
        let tried = ask(&site, "web", &mixed, &disk, &["--dry-run"])?;
        Ok(if tried.code == DONE { Some(tried.expect(DONE, &["is a mixture of two states"])?) } else { None })
    })?;
    ask(&site, "web", &mixed, &disk, &[])?.expect(REFUSED, &["is a mixture of two states", "overwritten"])?;
    let ended: ActionRow = ask(&site, "web", &base, &disk, &["--yes"])?.parse()?;
    ensure!(ended.state == "succeeded", "{ended:?}");
    let whole = site.sync_one("web")?;
    ensure!(mark(&whole)?.is_none() && mark(&mixed)?.is_some(), "{:?}", site.points("web")?);
    site.done();
    Ok(())
}

/// A disk that is kept in sync gets a point of what it was first; tracking goes on, the next point is exact, and the
/// restore can be undone.
#[test]
fn a_protected_disk_can_be_restored_and_that_can_be_undone() -> Result<()> {
    require_root!();
    let (source, target) = (LoopDisk::new(BYTES)?, LoopDisk::new(4 * MIB)?);
    fill(&source, 80)?;
    let scene = Scene::new(&source, &target, &[], &[])?;
    let (site, base) = (&scene.site, scene.base()?);
    change_granules(source.path(), 81, 700)?;
    let was = site.path("was.img");
    fs::copy(source.backing(), &was)?;

    let back = |point: &str, extra: &[&str]| -> Result<ActionRow> {
        ask(site, "web", point, &source, &[&["--yes"], extra].concat())?.parse()
    };
    let restored = back(&base, &[])?;
    let undo = undo_point(&restored)?;
    ensure_front(&site.restore(&base)?, source.backing(), BYTES)?;
    ensure_front(&site.restore(&undo)?, &was, BYTES)?;
    let next = site.sync_one("web")?;
    ensure_front(&site.restore(&next)?, source.backing(), BYTES)?;
    let undone = back(&undo, &[])?;
    ensure!(undo_point(&undone)? != undo, "{undone:?}");
    ensure_front(&was, source.backing(), BYTES)?;
    let points = site.points("web")?;
    ensure!(points.iter().all(|point| point.coverage == "proven"), "{points:?}");

    let live = site
        .actions()?
        .into_iter()
        .find(|action| action.kind == "live" && action.device == Some(source.name()));
    let live = live.context("no live action")?.id;
    site.cli(&["pause", &live])?.expect(DONE, &[])?;
    let before = digest(&source)?;
    ask(site, "web", &base, &source, &["--yes"])?.expect(FAILED, &["--no-undo"])?;
    ensure!(digest(&source)? == before, "written without the undo point");
    let restored = back(&base, &["--no-undo"])?;
    ensure!(restored.state == "succeeded" && !restored.reason.contains("before"), "{restored:?}");
    site.cli(&["resume", &live])?.expect(DONE, &[])?;
    let last = wait_for("a point after the pause", PATIENCE, || site.sync_one("web").map(Some))?;
    ensure_front(&site.restore(&last)?, source.backing(), BYTES)?;
    site.done();
    Ok(())
}

/// The point that a restore names as what was there before.
fn undo_point(action: &ActionRow) -> Result<String> {
    ensure!(action.state == "succeeded", "{action:?}");
    let named = action.reason.split("; point ").nth(1).and_then(|rest| rest.split(' ').next());
    named.map(str::to_owned).with_context(|| format!("no undo point: {action:?}"))
}
