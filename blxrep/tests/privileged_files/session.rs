//! A session at the screen, by keys alone: a file that was lost is found in an earlier point and brought back.

use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{run, wait_for};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::Site;
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const AGENT: &str = "desk";
const SIZE: (u16, u16) = (80, 24);
/// What is pressed is seen within this time on a busy machine.
const SEEN: Duration = Duration::from_secs(30);

/// A terminal with the screen in it, which ends with this.
struct Tmux {
    /// Of the site, with which it goes: tmux itself leaves it behind.
    socket: PathBuf,
}

impl Tmux {
    fn start(socket: PathBuf, command: &str) -> Result<Self> {
        let tmux = Self { socket };
        let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
        tmux.run(&["new-session", "-d", "-x", &width, "-y", &height, command])?;
        Ok(tmux)
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.socket).args(args);
        run(command.env("LC_ALL", "C.UTF-8").env_remove("TMUX"))
    }

    fn screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-p"])
    }

    /// Presses a key by tmux's name of it, and waits until the screen shows something.
    fn press(&self, key: &str, shows: &str) -> Result<()> {
        self.run(&["send-keys", key])?;
        self.wait(shows)
    }

    /// Types a text as it is.
    fn types(&self, text: &str) -> Result<()> {
        self.run(&["send-keys", "-l", text]).map(drop)
    }

    fn wait(&self, text: &str) -> Result<()> {
        let what = format!("the screen showing `{text}`");
        let shown = wait_for(&what, SEEN, || Ok(self.screen()?.contains(text).then_some(())));
        shown.with_context(|| self.screen().unwrap_or_default())
    }

    fn is_over(&self) -> bool {
        self.run(&["has-session"]).is_err()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // It has ended with the screen, if all went well.
        drop(self.run(&["kill-server"]));
    }
}

#[test]
fn a_lost_file_is_brought_back_by_keys_alone() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(64 * MIB)?;
    Filesystem::Ext4.make(disk.path())?;
    let mount = Mount::new("ext4", disk.path(), "defaults")?;
    let lost = mount.path().join("office/quarterly report.txt");
    let content = "what the company lives on\n".repeat(1_000);
    fs::create_dir(mount.path().join("office"))?;
    fs::write(&lost, &content)?;
    rustix::fs::syncfs(fs::File::open(&lost)?)?;
    let mut dispatcher = Some(site.dispatcher()?);
    let home = site.agent(AGENT, &[(&disk, "desk")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points(AGENT, 1, 1, PATIENCE)?;
    let with = site.sync_one(AGENT)?;
    fs::remove_file(&lost)?;
    site.sync_one(AGENT)?;
    let points = site.points(AGENT)?;
    let cut = &points.iter().find(|row| row.id == with).context("the point is gone")?.cut;

    let command = format!("{} tui --data-dir {}", program().display(), site.path("data").display());
    let tmux = Tmux::start(site.path("tmux"), &command)?;
    tmux.wait("● online")?;
    let target = site.path("restored").join("back");
    find_and_restore(&tmux, cut, &target)?;
    let back = fs::read_to_string(target.join("office/quarterly report.txt"))?;
    ensure!(back == content, "it is not what it was");

    // The terminal gets too small and large again; the dispatcher goes and comes back.
    tmux.run(&["resize-window", "-x", "60", "-y", "20"])?;
    tmux.wait("60 x 20")?;
    tmux.run(&["resize-window", "-x", "100", "-y", "30"])?;
    tmux.wait("● succeeded")?;
    drop(dispatcher.take());
    tmux.wait("! NO CONNECTION")?;
    let dispatcher = site.dispatcher()?;
    wait_for("the screen having the dispatcher again", SEEN, || {
        Ok((!tmux.screen()?.contains("NO CONNECTION")).then_some(()))
    })?;
    tmux.run(&["send-keys", "q"])?;
    wait_for("the end of the session", SEEN, || Ok(tmux.is_over().then_some(())))?;
    site.done();
    drop((agent, dispatcher, mount));
    drop(home.pins().clear());
    Ok(())
}

/// From the agents to the file as it was at `cut`, and with it into a folder of the dispatcher's host.
fn find_and_restore(tmux: &Tmux, cut: &str, target: &Path) -> Result<()> {
    tmux.press("Enter", "● protected")?;
    tmux.press("Enter", "Time line")?;
    tmux.press("t", "Go to:")?;
    tmux.types(cut)?;
    tmux.press("Enter", "The newest point that is not after")?;
    tmux.press("Enter", "ext4")?;
    tmux.press("Enter", "office/")?;
    tmux.press("/", "Find:")?;
    tmux.types("REPORT")?;
    tmux.press("Enter", "Nothing fits.")?;
    tmux.press("Escape", "office/")?;
    tmux.press("/", "Find:")?;
    tmux.types("report")?;
    tmux.press("Enter", "0:/office/quarterly report.txt")?;
    tmux.press("r", "Restore: where to, and how")?;
    tmux.press("Down", "made if it does not exist")?;
    tmux.run(&["send-keys", "C-u"])?;
    tmux.types(&target.to_string_lossy())?;
    tmux.press("Enter", "Restore: this would be done")?;
    tmux.wait("office/quarterly report.txt")?;
    ensure!(!target.exists(), "finding out what would be done has written something");
    tmux.press("Enter", "● succeeded")?;
    tmux.wait("1 file")
}
