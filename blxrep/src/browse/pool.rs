//! The children, as the dispatcher keeps them: started when asked for, kept for a while, bounded in number.

use super::Question;
use super::child::COMMAND;
use crate::api::browse::Findings;
use crate::api::error::{ApiError, Result};
use crate::model::ids::PointId;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Children at a time: each is two processes, a FUSE mount and what the kernel keeps of its filesystems.
pub const MAX_CHILDREN: usize = 8;
/// Requests that wait for a child, all together: they take places of the API's connections.
pub const MAX_WAITING: usize = 24;
/// A child that is not asked for so long ends, and the lease on its point's files with it.
pub const IDLE: Duration = Duration::from_secs(60);
/// A request waits so long; the child goes on.
const PATIENCE: Duration = Duration::from_secs(20);
/// A child that has not answered for so long never will.
const HUNG: Duration = Duration::from_secs(600);
/// A child that was told to end, and has to unmount, gets this long.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// A page has at most 1 MiB of paths, which are told twice and with escapes, and one more row.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// One point, or two that are compared.
pub type Points = Vec<PointId>;

/// All children. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Browsers {
    data_dir: PathBuf,
    state: Arc<Mutex<State>>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    /// `false` once the dispatcher stops.
    closed: bool,
    children: BTreeMap<Points, Handle>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Handle {
    questions: mpsc::Sender<Asked>,
    used: Instant,
}

/// A question, and who waits for the answer.
#[derive(Debug)]
struct Asked {
    question: Question,
    reply: oneshot::Sender<Result<Vec<u8>>>,
}

impl Browsers {
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        Self { data_dir, state: Arc::default(), waiting }
    }

    /// Asks the child of these points, which is started if there is none.
    pub async fn ask<T: DeserializeOwned>(&self, points: Points, question: Question) -> Result<Findings<T>> {
        let _place = self.waiting.try_acquire().map_err(|_| {
            ApiError::unavailable(format!("{MAX_WAITING} requests wait for files of points; ask again later"))
        })?;
        let (reply, answer) = oneshot::channel();
        let child = self.child(points)?;
        let asked = Asked { question, reply };
        // The queue holds as many as may wait, so it has room; a child that ends just now is one that failed.
        child.try_send(asked).map_err(|_| gone())?;
        let answer = timeout(PATIENCE, answer).await.map_err(|_| {
            ApiError::unavailable(format!(
                "the point is being looked into for {PATIENCE:?} already and goes on; ask again"
            ))
        })?;
        let line = answer.map_err(|_| gone())??;
        let answer: Result<Findings<T>> = serde_json::from_slice(&line).map_err(|error| {
            ApiError::failed(format!("the process that shows the point said what cannot be: {error}"))
        })?;
        answer
    }

    /// The queue of a child.
    fn child(&self, points: Points) -> Result<mpsc::Sender<Asked>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        while state.tasks.try_join_next().is_some() {}
        if state.closed {
            return Err(ApiError::unavailable("the dispatcher is stopping"));
        }
        state.children.retain(|_, handle| !handle.questions.is_closed());
        if let Some(handle) = state.children.get_mut(&points) {
            handle.used = Instant::now();
            return Ok(handle.questions.clone());
        }
        state.make_room()?;
        let (questions, queue) = mpsc::channel(MAX_WAITING);
        state.tasks.spawn(serve(self.data_dir.clone(), points.clone(), queue));
        state.children.insert(points, Handle { questions: questions.clone(), used: Instant::now() });
        Ok(questions)
    }

    /// Ends all children, and waits for them as long as they may take.
    pub async fn stop(&self) {
        let mut tasks = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            // Without their queues they end; one that is being asked is killed with its task.
            state.children.clear();
            std::mem::take(&mut state.tasks)
        };
        let ended = async { while tasks.join_next().await.is_some() {} };
        // What is left is aborted with the set.
        let _ = timeout(END_PATIENCE, ended).await;
    }
}

impl State {
    /// Lets go of the child that was not asked for longest, if there are as many as there may be.
    fn make_room(&mut self) -> Result<()> {
        if self.tasks.len() < MAX_CHILDREN {
            return Ok(());
        }
        // As many senders as there are questions under way, beside the one that is kept.
        let idle = self.children.iter().filter(|(_, handle)| handle.questions.strong_count() == 1);
        let oldest = idle.min_by_key(|(_, handle)| handle.used).map(|(points, _)| points.clone());
        match oldest.and_then(|points| self.children.remove(&points)) {
            // It takes a moment to unmount. More than twice as many never are.
            Some(_) if self.tasks.len() < 2 * MAX_CHILDREN => Ok(()),
            _ => Err(ApiError::unavailable(format!(
                "files of {MAX_CHILDREN} points are being looked at already; ask again when one of them is done"
            ))),
        }
    }
}

fn gone() -> ApiError {
    ApiError::failed(
        "the process that shows the point's files has ended: it was killed, or a filesystem of the point made the \
         kernel end it (see `dmesg`); ask again, or give the point to a virtual machine with `blxrep export POINT --nbd`",
    )
}

/// A child, from its start to its end.
async fn serve(data_dir: PathBuf, points: Points, mut queue: mpsc::Receiver<Asked>) {
    let mut process = match Process::start(&data_dir, &points).await {
        Ok(process) => process,
        Err(error) => return refuse_all(queue, &error),
    };
    loop {
        let asked = tokio::select! {
            asked = timeout(IDLE, queue.recv()) => asked.ok().flatten(),
            _ = process.child.wait() => None,
        };
        let Some(asked) = asked else { break };
        if asked.reply.is_closed() {
            continue;
        }
        let answer = process.ask(&asked.question).await;
        let failed = answer.is_err();
        // Who asked may have gone.
        let _ = asked.reply.send(answer);
        if failed {
            return refuse_all(queue, &gone());
        }
    }
    queue.close();
    process.end().await;
    // One that was asked at the last moment.
    refuse_all(queue, &ApiError::unavailable("the point was just being closed; ask again"));
}

fn refuse_all(mut queue: mpsc::Receiver<Asked>, error: &ApiError) {
    queue.close();
    while let Ok(asked) = queue.try_recv() {
        // Who asked may have gone.
        let _ = asked.reply.send(Err(error.clone()));
    }
}

/// The process, killed with this.
struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it and waits until its points are open.
    async fn start(data_dir: &Path, points: &[PointId]) -> Result<Self> {
        let failed = |e: io::Error| ApiError::failed(format!("cannot start a process to show files: {e}"));
        let data_dir = std::path::absolute(data_dir).map_err(failed)?;
        let mut child = Command::new("/proc/self/exe")
            .arg(COMMAND)
            .arg("--data-dir")
            .arg(&data_dir)
            .args(points.iter().map(ToString::to_string))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (to, from) = child.stdin.take().zip(child.stdout.take()).ok_or_else(gone)?;
        let mut process = Self { child, to, from: BufReader::new(from) };
        let line = process.line().await?;
        serde_json::from_slice::<Result<()>>(&line).map_err(|_| gone())??;
        Ok(process)
    }

    async fn ask(&mut self, question: &Question) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(question)
            .map_err(|e| ApiError::failed(format!("the question cannot be written: {e}")))?;
        line.push(b'\n');
        self.to.write_all(&line).await.map_err(|_| gone())?;
        self.line().await
    }

    async fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut from = (&mut self.from).take(MAX_ANSWER_BYTES);
        match timeout(HUNG, from.read_until(b'\n', &mut line)).await {
            Ok(Ok(_)) if line.last() == Some(&b'\n') => Ok(line),
            _ => Err(gone()),
        }
    }

    /// Lets it unmount and end.
    async fn end(self) {
        let Self { mut child, to, from } = self;
        drop((to, from));
        // What does not end is killed.
        let _ = timeout(END_PATIENCE, child.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test's own program knows no such command: it ends without a word.
    #[tokio::test]
    async fn a_child_that_dies_hangs_nothing_and_is_started_again() {
        let browsers = Browsers::new("/nonexistent".into());
        for _ in 0..3 {
            let answer = browsers.ask::<u32>(vec![PointId(1)], Question::Partitions).await;
            assert_eq!(answer.unwrap_err(), gone());
        }
        browsers.stop().await;
        let answer = browsers.ask::<u32>(vec![PointId(1)], Question::Partitions).await;
        assert!(answer.unwrap_err().message.contains("stopping"));
    }
}
