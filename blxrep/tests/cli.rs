//! The command line as a user runs it, against a fake dispatcher behind the real socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod fake;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use fake::{BASE, DELTA, FUZZY, FakeDispatcher};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a command printed and how it ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or_else(|| panic!("killed: {output:?}")),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn blxrep(data_dir: &Path, args: &str) -> Ended {
    let mut command = Command::new(cargo_bin("blxrep"));
    command.args(args.split_whitespace()).arg("--data-dir").arg(data_dir).env_remove("RUST_LOG");
    command.timeout(Duration::from_secs(60)).output().unwrap().into()
}

fn spawn(data_dir: &Path, args: &[&str]) -> Child {
    let mut command = std::process::Command::new(cargo_bin("blxrep"));
    command.args(args).arg("--data-dir").arg(data_dir).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `child` has said something that contains `text` on stderr, and returns all of it.
fn wait_for(child: &mut Child, text: &str) -> String {
    let mut said = String::new();
    let mut buffer = [0; 512];
    while !said.contains(text) {
        let n = child.stderr.as_mut().unwrap().read(&mut buffer).unwrap();
        assert_ne!(n, 0, "it ended without saying `{text}`: {said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    said
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

#[test]
fn points_are_an_array_with_stable_fields() {
    let dispatcher = FakeDispatcher::start();
    for name in ["points", "show"] {
        let ended = blxrep(dispatcher.path(), &format!("{name} --json"));
        assert_eq!(ended.code, 0, "{ended:?}");
        let rows = ended.json();
        let ids: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!(ids, [FUZZY.to_string(), BASE.to_string(), DELTA.to_string()], "oldest cut first");
    }
    insta::assert_json_snapshot!(blxrep(dispatcher.path(), "points --json --agent db1").json());
    let newest = blxrep(dispatcher.path(), "points --json --newest 1").json();
    assert_eq!(newest[0]["id"], DELTA.to_string());
}

#[test]
fn lists_without_a_terminal_are_aligned_text() {
    let dispatcher = FakeDispatcher::start();
    for (name, args) in [
        ("agents", "agents"),
        ("agent", "agents web1"),
        ("disks", "disks"),
        ("points", "points --disk sda --agent web1"),
        ("actions", "actions"),
    ] {
        let ended = blxrep(dispatcher.path(), args);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(!ended.out.contains('\u{1b}') && !ended.err.contains('\u{1b}'), "{ended:?}");
        insta::assert_snapshot!(format!("list_{name}"), format!("{}---\n{}", ended.out, ended.err));
    }
}

#[test]
fn a_sync_prints_one_row_per_disk_with_one_cut() {
    let dispatcher = FakeDispatcher::start();
    let ended = blxrep(dispatcher.path(), "sync web1 sda --wait --json");
    assert_eq!(ended.code, 0, "{ended:?}");
    insta::assert_json_snapshot!(ended.json());

    let begun = blxrep(dispatcher.path(), "sync web1 --json");
    assert_eq!(begun.code, 0, "{begun:?}");
    let rows = begun.json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(rows[0]["cut_id"], rows[1]["cut_id"]);
    assert_eq!(rows[0]["point"], Value::Null);

    let failed = blxrep(dispatcher.path(), "sync db1 --wait --json");
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.json()[0]["error"].as_str().unwrap().contains("snapshot"), "{failed:?}");
}

#[test]
fn exit_codes_say_what_kind_of_no_it_was() {
    let dispatcher = FakeDispatcher::start();
    for (args, code, says) in [
        ("snapshot web1 sda --wait", 0, ""),
        ("pause ac00000000000001", 0, ""),
        ("frobnicate", 2, "frobnicate"),
        ("restore 4f0c", 2, "--to"),
        ("verify 4f0c", 2, "more than one point"),
        ("verify zzzz", 2, "hex digits"),
        ("verify beef", 3, "no point"),
        ("verify --agent nobody", 3, "nobody"),
        ("verify --agent web1 --sample 5%", 0, ""),
        ("verify --sample 0%", 2, "no share"),
        ("verify 4f0c --agent web1", 2, "cannot be used with"),
        ("snapshot nobody sda", 3, "known are db1, web1"),
        ("snapshot web1 sdz", 3, "no disk `sdz`"),
        ("agents nobody", 3, "nobody"),
        ("cancel ffff", 3, "no action"),
        ("snapshot web1 sdb", 4, "zoned"),
        ("cancel ac00000000000002", 4, "failed already"),
        ("snapshot db1 sda", 1, "not connected"),
    ] {
        let ended = blxrep(dispatcher.path(), args);
        assert_eq!(ended.code, code, "{args}: {ended:?}");
        assert!(ended.err.contains(says), "{args}: {ended:?}");
        assert!(code == 0 || ended.out.is_empty(), "stdout holds only results: {args}: {ended:?}");
    }
}

#[test]
fn a_role_is_started_only_with_what_it_needs() {
    for (args, says) in [
        ("start", "--mode"),
        ("start --mode agent", "--id"),
        ("start --mode agent --id web1", "--dispatcher-addr"),
        ("start --mode agent --id a/b --dispatcher-addr b:1", "cannot name an agent"),
        ("start --mode agent --id web1 --dispatcher-addr b", "HOST:PORT"),
        ("start --mode agent --id web1 --dispatcher-addr b:1 --listen 127.0.0.1:1", "--listen"),
        ("start --mode agent --id web1 --dispatcher-addr b:1 --bandwidth-limit 20M", "MiB"),
        ("start --mode dispatcher --disk /dev/sda", "--disk"),
        ("start --mode dispatcher --listen here", "invalid socket address"),
    ] {
        let mut command = Command::new(cargo_bin("blxrep"));
        let output = command.args(args.split_whitespace()).timeout(Duration::from_secs(60)).output().unwrap();
        let ended = Ended::from(output);
        assert_eq!(ended.code, 2, "{args}: {ended:?}");
        assert!(ended.err.contains(says), "{args}: {ended:?}");
    }
}

#[test]
fn no_dispatcher_is_an_error_that_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let ended = blxrep(folder.path(), "agents");
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("control.sock") && ended.err.contains("start --mode dispatcher"), "{ended:?}");
}

#[test]
fn the_data_directory_may_come_from_the_environment() {
    let dispatcher = FakeDispatcher::start();
    let mut command = Command::new(cargo_bin("blxrep"));
    command.args(["agents", "--json"]).env("BLXREP_DATA_DIR", dispatcher.path());
    let ended = Ended::from(command.timeout(Duration::from_secs(60)).output().unwrap());
    assert_eq!((ended.code, ended.json().as_array().unwrap().len()), (0, 2));
}

#[test]
fn a_restore_overwrites_only_when_told_to() {
    let dispatcher = FakeDispatcher::start();
    let there = dispatcher.path().join("there.img");
    std::fs::write(&there, "precious").unwrap();
    let there = there.display();
    let refused = blxrep(dispatcher.path(), &format!("restore 9a00 --to {there}"));
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("--yes") && refused.err.contains("there.img"), "{refused:?}");
    let told = blxrep(dispatcher.path(), &format!("restore 9a00 --to {there} --yes --json"));
    assert_eq!((told.code, told.json()["state"].as_str()), (0, Some("succeeded")), "{told:?}");
    assert!(told.err.contains("of 4.00 GiB"), "progress goes to stderr: {told:?}");

    let new = dispatcher.path().join("new.img");
    let begun = blxrep(dispatcher.path(), &format!("restore 9a00 --to {} --no-wait --json", new.display()));
    assert_eq!((begun.code, begun.json()["state"].as_str()), (0, Some("queued")), "{begun:?}");

    let fails = dispatcher.path().join("fails.img");
    let failed = blxrep(dispatcher.path(), &format!("restore 9a00 --to {} --json", fails.display()));
    assert_eq!((failed.code, failed.json()["state"].as_str()), (1, Some("failed")), "{failed:?}");
    assert!(failed.err.contains("the target is full"), "{failed:?}");
}

/// A terminal of 80 x 24: our end and the program's.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let noctty = OFlags::NOCTTY.bits().cast_signed();
    let theirs = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(name).unwrap();
    tcsetwinsize(&theirs, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (ours.into(), theirs)
}

/// Runs a restore over an existing file on a terminal that answers `answer`.
fn restore_on_terminal(data_dir: &Path, answer: &str) -> (i32, String) {
    let there = data_dir.join("there.img");
    std::fs::write(&there, "precious").unwrap();
    let (mut ours, theirs) = terminal();
    let mut command = std::process::Command::new(cargo_bin("blxrep"));
    command.args(["restore", "9a00", "--to"]).arg(&there).arg("--data-dir").arg(data_dir);
    command.stdin(theirs.try_clone().unwrap()).stdout(Stdio::piped()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    drop(command);
    ours.write_all(answer.as_bytes()).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    let mut said = Vec::new();
    // Ends with EIO when the last one at the other end has gone.
    let _ = ours.read_to_end(&mut said);
    (code, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn on_a_terminal_a_restore_asks() {
    let dispatcher = FakeDispatcher::start();
    let (code, said) = restore_on_terminal(dispatcher.path(), "n\n");
    assert!(code == 4 && said.contains("[y/N]") && said.contains("nothing was written"), "{code} {said}");
    let (code, said) = restore_on_terminal(dispatcher.path(), "\n");
    assert_eq!(code, 4, "no answer is a no: {said}");
    let (code, said) = restore_on_terminal(dispatcher.path(), "y\n");
    assert_eq!(code, 0, "{said}");
}

#[test]
fn interrupting_a_restore_cancels_it() {
    let dispatcher = FakeDispatcher::start();
    let to = dispatcher.path().join("slow.img");
    let mut child = spawn(dispatcher.path(), &["restore", "9a00", "--to", to.to_str().unwrap()]);
    wait_for(&mut child, "queued");
    interrupt(&child);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 130, "{ended:?}");
    assert!(ended.err.contains("was cancelled"), "{ended:?}");
    let actions = blxrep(dispatcher.path(), "actions --json").json();
    assert_eq!(actions.as_array().unwrap().last().unwrap()["state"], "cancelled");
}

#[test]
fn interrupting_a_wait_leaves_the_work_alone() {
    let dispatcher = FakeDispatcher::start();
    let mut child = spawn(dispatcher.path(), &["sync", "web1", "sdb", "--wait"]);
    wait_for(&mut child, "sync of web1: waiting for");
    interrupt(&child);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 130, "{ended:?}");
    assert!(ended.err.contains("goes on"), "{ended:?}");
}

#[test]
fn a_wait_outlives_the_dispatcher() {
    let folder = tempfile::tempdir().unwrap();
    let mut dispatcher = FakeDispatcher::start_in(folder.path());
    let to = folder.path().join("slow.img");
    let mut child = spawn(folder.path(), &["restore", "9a00", "--to", to.to_str().unwrap()]);
    wait_for(&mut child, "queued");
    dispatcher.stop();
    wait_for(&mut child, "waiting for it to come back");
    let _dispatcher = FakeDispatcher::start_in(folder.path());
    let ended = Ended::from(child.wait_with_output().unwrap());
    // The new one has forgotten the action, which only an answer can tell.
    assert_eq!(ended.code, 3, "{ended:?}");
}

#[test]
fn a_verify_reports_what_it_found() {
    let dispatcher = FakeDispatcher::start();
    let good = blxrep(dispatcher.path(), "verify");
    assert_eq!(good.code, 0, "{good:?}");
    assert!(good.out.contains("all is as it was stored"), "{good:?}");
    let bad = blxrep(dispatcher.path(), "verify 9a00 --json");
    assert_eq!(bad.code, 1, "{bad:?}");
    assert_eq!(bad.json()["problems"][0]["point"], FUZZY.to_string());
    assert!(bad.err.contains("not as it was stored"), "{bad:?}");
}

#[test]
fn a_consolidation_is_shown_before_it_is_done() {
    let dispatcher = FakeDispatcher::start();
    let planned = blxrep(dispatcher.path(), "consolidate --dry-run");
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(planned.out.contains("drop") && planned.out.contains("the one of its week"), "{planned:?}");
    assert!(planned.err.contains("would merge"), "{planned:?}");
    let json = blxrep(dispatcher.path(), "consolidate --dry-run --json").json();
    assert_eq!(json["points"].as_array().unwrap().len(), 3);
    assert!(json["steps"][0]["what"].as_str().unwrap().contains("merge"));
    let done = blxrep(dispatcher.path(), "consolidate web1 sda --json");
    assert_eq!((done.code, &done.json()[0]["kind"]), (0, &"consolidate".into()), "{done:?}");
    assert_eq!(blxrep(dispatcher.path(), "consolidate nobody").code, 3);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dispatcher = FakeDispatcher::start();
    for args in [vec!["points"], vec!["points", "--json"], vec!["points", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(cargo_bin("blxrep"));
        command.args(&args).arg("--data-dir").arg(dispatcher.path()).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let ended = Ended::from(output);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn doctor_tells_its_findings() {
    let dispatcher = FakeDispatcher::start();
    let ended = blxrep(dispatcher.path(), "doctor --json");
    let checks = ended.json();
    let found = |name: &str| checks.as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone();
    assert_eq!(found("dispatcher")["verdict"], "ok", "{ended:?}");
    assert_eq!(found("writing")["verdict"], "ok", "{ended:?}");
    let missing = blxrep(&dispatcher.path().join("none"), "doctor");
    assert_eq!(missing.code, 1, "{missing:?}");
    assert!(missing.out.contains("mkdir"), "{missing:?}");
}

#[test]
fn the_screen_needs_a_terminal() {
    let dispatcher = FakeDispatcher::start();
    let began = Instant::now();
    let ended = Ended::from(spawn(dispatcher.path(), &["tui"]).wait_with_output().unwrap());
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("terminal") && began.elapsed() < Duration::from_secs(30), "{ended:?}");
}

/// What a program writes to a terminal, read on a thread of its own so that it never waits for us.
struct Drawn {
    chunks: Receiver<Vec<u8>>,
    text: String,
}

impl Drawn {
    fn on(ours: &File) -> Self {
        let mut ours = ours.try_clone().unwrap();
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with EIO when the last one at the other end has gone.
            while let Ok(n) = ours.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { chunks, text: String::new() }
    }

    fn wait_for(&mut self, text: &str) {
        while !self.text.contains(text) {
            let chunk = self.chunks.recv_timeout(Duration::from_secs(30)).unwrap();
            self.text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
}

/// What the screen is left by.
type Leave = fn(&Child, &mut File);

#[test]
fn the_screen_gives_the_terminal_back() {
    let dispatcher = FakeDispatcher::start();
    let by_key: Leave = |_, ours| ours.write_all(b"q").unwrap();
    let by_control_c: Leave = |_, ours| ours.write_all(b"\x03").unwrap();
    let by_signal: Leave = |child, _| kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    for leave in [by_key, by_control_c, by_signal] {
        let (mut ours, theirs) = terminal();
        let before = tcgetattr(&theirs).unwrap();
        let mut command = std::process::Command::new(cargo_bin("blxrep"));
        command.arg("tui").arg("--data-dir").arg(dispatcher.path());
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut drawn = Drawn::on(&ours);
        // Blanks are not drawn again, so a single word is what can be looked for.
        drawn.wait_for("Actions");
        assert!(
            !tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ICANON),
            "raw while it is shown"
        );
        leave(&child, &mut ours);
        // The last thing it does is to leave the alternate screen.
        drawn.wait_for("\u{1b}[?1049l");
        assert!(child.wait().unwrap().success());
        let after = tcgetattr(&theirs).unwrap();
        assert_eq!((after.local_modes, after.input_modes), (before.local_modes, before.input_modes));
    }
}

/// An ssh connection that is cut, a tmux that is killed: nobody is there to press a key, or to say why.
#[test]
fn the_screen_ends_with_its_terminal() {
    let dispatcher = FakeDispatcher::start();
    let (mut ours, theirs) = terminal();
    let mut command = std::process::Command::new(cargo_bin("blxrep"));
    command.arg("tui").arg("--data-dir").arg(dispatcher.path());
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    // The command has the program's end open too.
    drop(command);
    let (mut drawn, mut chunk) = (String::new(), [0; 4096]);
    while !drawn.contains("Actions") {
        let n = ours.read(&mut chunk).unwrap();
        drawn.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    drop(ours);
    let end = Instant::now() + Duration::from_secs(30);
    let mut ended = child.try_wait().unwrap();
    while ended.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        ended = child.try_wait().unwrap();
    }
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(ended.is_some(), "it goes on without a terminal");
}

/// A dispatcher that is gone before the point is open: nobody would ever stop what is served.
#[test]
fn what_serves_for_a_dispatcher_ends_with_it_while_it_opens_the_point() {
    let dir = tempfile::tempdir().unwrap();
    // It takes the question, and never answers.
    let dispatcher = std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let mut command = std::process::Command::new(cargo_bin("blxrep"));
    command.arg("serve-export").arg("--data-dir").arg(dir.path()).arg(BASE.to_string());
    command.arg(format!("unix:{}", dir.path().join("nbd").display())).env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut asked, _) = dispatcher.accept().unwrap();
    assert!(asked.read(&mut [0; 64]).unwrap() > 0, "a question");
    let begun = Instant::now();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for an answer: {:?}", begun.elapsed());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
