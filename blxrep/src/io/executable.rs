//! Runs a program to its end, or to its time limit, and keeps the beginning of what it says. Blocks.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Output that is kept. What is said beyond it is read and forgotten, so that the program does not wait.
pub const MAX_OUTPUT: usize = 64 << 10;
/// Where a program finds others. It is told nothing else that this process has in its environment.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A program that was killed is gone at once, unless the kernel holds it: it writes to a disk that hangs.
const DEATH_LIMIT: Duration = Duration::from_secs(1);
/// Read after the end of a program, in pieces: what a pipe holds, and no more. Others may go on writing into it.
const LAST_PIECES: usize = 16;
const PIECE: usize = 4096;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The program's absolute path, and its arguments.
    pub command: &'a [String],
    pub environment: &'a [(&'static str, String)],
    /// After it, the program and everything in its process group is killed.
    pub timeout: Duration,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    Exited(i32),
    Signalled(i32),
    TimedOut,
    NotStarted(io::Error),
}

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    pub end: End,
    /// Of standard output and standard error, as they came.
    pub output: Vec<u8>,
    /// There was more.
    pub cut_short: bool,
    pub took: Duration,
}

/// Runs a program in a process group of its own, with no input and nothing of this process's environment.
///
/// What it leaves running in the background when it ends is left alone, but is not listened to any more.
#[must_use]
pub fn run(call: Call<'_>) -> Ran {
    let began = Instant::now();
    let mut output = Output::default();
    let end = start(call).and_then(|running| running.finish(began + call.timeout, &mut output));
    Ran {
        end: end.unwrap_or_else(End::NotStarted),
        output: output.kept,
        cut_short: output.cut_short,
        took: began.elapsed(),
    }
}

fn start(call: Call<'_>) -> io::Result<Running> {
    let no_program = || io::Error::new(io::ErrorKind::InvalidInput, "no program is named");
    let (program, arguments) = call.command.split_first().ok_or_else(no_program)?;
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", SEARCH_PATH).envs(call.environment.iter().cloned());
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It is not reaped yet, so the number is its own.
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Running { child, pidfd, pipe: File::from(OwnedFd::from(reader)) }),
        Err(errno) => {
            // Nobody could see its end in time. An error: it has ended already.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            Err(errno.into())
        }
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    pidfd: OwnedFd,
    pipe: File,
}

impl Running {
    fn finish(mut self, deadline: Instant, output: &mut Output) -> io::Result<End> {
        let end = if self.listen(deadline, output)? {
            let status = self.child.wait()?;
            status.code().map_or_else(|| End::Signalled(status.signal().unwrap_or(0)), End::Exited)
        } else {
            // It is not reaped yet, so the group is its own. An error: all of it has ended meanwhile.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            // One that the kernel holds is reaped when this process ends.
            if wait(self.pidfd.as_fd(), None, Instant::now() + DEATH_LIMIT)?.0 {
                self.child.wait()?;
            }
            End::TimedOut
        };
        output.drain(&mut self.pipe);
        Ok(end)
    }

    /// Takes what the program says until it has ended; `false` if the time is over first.
    fn listen(&mut self, deadline: Instant, output: &mut Output) -> io::Result<bool> {
        let mut open = true;
        loop {
            let (ended, said) = wait(self.pidfd.as_fd(), open.then(|| self.pipe.as_fd()), deadline)?;
            if ended || Instant::now() >= deadline {
                return Ok(ended);
            }
            if said {
                open =
                    output.take(&mut self.pipe).map_or_else(|error| is_passing(&error), |length| length > 0);
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Waits for the end of a process, or for words in a pipe; neither if the time is over first.
fn wait(
    process: BorrowedFd<'_>,
    pipe: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<(bool, bool)> {
    let files = [process, pipe.unwrap_or(process)];
    let mut ready = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut ready, Some(&left)) {
            Ok(_) => {
                let [ended, said] = ready.map(|file| !file.revents().is_empty());
                return Ok((ended, said));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    cut_short: bool,
}

impl Output {
    /// Takes a piece, if there is one; its length is 0 at the end.
    fn take(&mut self, pipe: &mut File) -> io::Result<usize> {
        let mut piece = [0; PIECE];
        let length = pipe.read(&mut piece)?;
        let kept = length.min(MAX_OUTPUT - self.kept.len());
        self.kept.extend_from_slice(&piece[..kept]);
        self.cut_short |= kept < length;
        Ok(length)
    }

    /// Takes what is there.
    fn drain(&mut self, pipe: &mut File) {
        for _ in 0..LAST_PIECES {
            if !matches!(self.take(pipe), Ok(1..)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn shell(script: &str, timeout: Duration) -> Ran {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        run(Call { command: &command, environment: &[("BLXREP_STAGE", "freeze".to_owned())], timeout })
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_program_is_run_with_its_environment_and_its_words_are_kept() {
        let ran = shell("echo out; echo err >&2; env | sort; exit 7", LONG);
        assert!(matches!(ran.end, End::Exited(7)), "{ran:?}");
        let said = String::from_utf8(ran.output).unwrap();
        assert!(said.starts_with("out\nerr\nBLXREP_STAGE=freeze\n"), "{said}");
        assert!(said.contains("PATH=/usr/local/sbin:") && !said.contains("CARGO"), "{said}");
        assert!(!ran.cut_short);
        assert!(matches!(shell("kill -TERM $$", LONG).end, End::Signalled(15)));
    }

    #[test]
    fn a_program_that_does_not_exist_is_not_started() {
        for missing in [&["/nonexistent/hook".to_owned()][..], &[]] {
            let ran = run(Call { command: missing, environment: &[], timeout: LONG });
            assert!(matches!(ran.end, End::NotStarted(_)), "{ran:?}");
        }
    }

    #[test]
    fn a_flood_of_words_is_cut_and_does_not_stop_the_program() {
        let ran = shell("head -c 3000000 /dev/zero; exit 4", LONG);
        assert!(matches!(ran.end, End::Exited(4)), "{ran:?}");
        assert_eq!((ran.output.len(), ran.cut_short), (MAX_OUTPUT, true));
        let ran = shell("yes", Duration::from_millis(300));
        assert!(matches!(ran.end, End::TimedOut));
        assert!(ran.took < LONG / 2 && ran.cut_short);
    }

    /// Whether a process runs; one that nobody has reaped yet does not.
    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let ran =
            shell("sleep 300 & echo $!; trap '' TERM; sleep 300; sleep 300", Duration::from_millis(500));
        assert!(matches!(ran.end, End::TimedOut), "{ran:?}");
        let child = String::from_utf8(ran.output).unwrap().trim().to_owned();
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !runs(&child)
        });
        assert!(gone, "process {child} is still there");
    }

    #[test]
    fn what_is_left_in_the_background_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file: PathBuf = folder.path().join("went-on");
        let script = format!("(sleep 1; : > {}) & echo left", file.display());
        let ran = shell(&script, LONG);
        assert!(matches!(ran.end, End::Exited(0)));
        assert_eq!(ran.output, b"left\n");
        assert!(!file.exists(), "it was waited for: {:?}", ran.took);
        let there = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            file.exists()
        });
        assert!(there, "it was killed");
    }
}
