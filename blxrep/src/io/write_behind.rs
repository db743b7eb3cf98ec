//! Writes carried out by a thread of their own, in order, while the next buffer is filled.

use super::buffer::AlignedBuffer;
use super::storage::{DataFile, StorageError};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Buffers that wait or are being written, beside the one that is filled: one to write, one to go on with.
const IN_FLIGHT: usize = 2;

type Done = Result<AlignedBuffer, StorageError>;

/// A file with a writer thread. After an error nothing more is written.
#[derive(Debug)]
pub struct WriteBehind {
    file: Arc<DataFile>,
    /// `None` once the thread is told to end.
    queue: Option<SyncSender<(AlignedBuffer, u64)>>,
    done: Receiver<Done>,
    spare: Vec<AlignedBuffer>,
    in_flight: usize,
    failed: bool,
    thread: Option<JoinHandle<()>>,
}

impl WriteBehind {
    /// Starts the thread. Takes three buffers of `capacity` bytes in all.
    pub fn new(file: Arc<DataFile>, capacity: usize) -> Result<Self, StorageError> {
        let (queue, work) = sync_channel::<(AlignedBuffer, u64)>(IN_FLIGHT);
        let (report, done) = sync_channel::<Done>(IN_FLIGHT);
        let target = Arc::clone(&file);
        let run = move || {
            let mut failed = false;
            for (mut buffer, offset) in work {
                let result = match failed {
                    true => Err(stopped(&target)),
                    false => target.write_at(buffer.as_slice(), offset),
                };
                failed |= result.is_err();
                buffer.clear();
                if report.send(result.map(|()| buffer)).is_err() {
                    return;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("blxrep-write".to_owned()).spawn(run).map_err(|source| {
                StorageError { action: "start a thread to write", path: file.path().to_owned(), source }
            })?;
        let spare = (0..=IN_FLIGHT).map(|_| AlignedBuffer::new(capacity)).collect();
        Ok(Self { file, queue: Some(queue), done, spare, in_flight: 0, failed: false, thread: Some(thread) })
    }

    #[must_use]
    pub fn file(&self) -> &DataFile {
        &self.file
    }

    /// An empty buffer. Waits for one when all are on their way.
    pub fn buffer(&mut self) -> Result<AlignedBuffer, StorageError> {
        loop {
            if let Some(buffer) = self.spare.pop() {
                return Ok(buffer);
            }
            self.collect()?;
        }
    }

    /// Has `buffer` written at `offset`, after everything that was submitted before.
    pub fn submit(&mut self, buffer: AlignedBuffer, offset: u64) -> Result<(), StorageError> {
        while self.in_flight >= IN_FLIGHT {
            self.collect()?;
        }
        let queue = self.queue.as_ref().filter(|_| !self.failed);
        if queue.is_none_or(|queue| queue.send((buffer, offset)).is_err()) {
            return Err(stopped(&self.file));
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Takes back a buffer that is not needed after all.
    pub fn give_back(&mut self, mut buffer: AlignedBuffer) {
        buffer.clear();
        self.spare.push(buffer);
    }

    /// Waits until everything was written (not: is durable).
    pub fn drain(&mut self) -> Result<(), StorageError> {
        while self.in_flight > 0 {
            self.collect()?;
        }
        if self.failed { Err(stopped(&self.file)) } else { Ok(()) }
    }

    fn collect(&mut self) -> Result<(), StorageError> {
        if self.in_flight == 0 {
            // Buffers do not come back from writes that failed: there is nothing to wait for.
            return Err(stopped(&self.file));
        }
        let result = self.done.recv().unwrap_or_else(|_| Err(stopped(&self.file)));
        self.in_flight -= 1;
        self.failed |= result.is_err();
        self.spare.push(result?);
        Ok(())
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.queue = None;
        // What is queued is still written; the thread must find room for its results to come to its end.
        while self.done.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn stopped(file: &DataFile) -> StorageError {
    let source = io::Error::other("an earlier write failed");
    StorageError { action: "write", path: file.path().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::storage::{Access, Storage};
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn later_writes_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = Storage::default().open(&dir.path().join("f"), Access::Create).unwrap();
        let mut writer = WriteBehind::new(Arc::new(file), 8192).unwrap();
        for value in 0..50u8 {
            let mut buffer = writer.buffer().unwrap();
            assert!(buffer.is_empty());
            buffer.append(&[value; 8192]);
            writer.submit(buffer, 4096 * u64::from(value % 2)).unwrap();
        }
        writer.drain().unwrap();
        let mut out = [0; 12288];
        writer.file().read_at(&mut out, 0).unwrap();
        assert!(out[..4096].iter().all(|b| *b == 48) && out[4096..].iter().all(|b| *b == 49));
    }

    #[test]
    fn nothing_is_written_after_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let count = AtomicU64::new(0);
        let storage = Storage::gated(move |action, _| {
            let fails = action == "write" && count.fetch_add(1, Ordering::SeqCst) == 1;
            if fails { Err(io::Error::other("injected")) } else { Ok(()) }
        });
        let file = storage.open(&path, Access::Create).unwrap();
        let mut writer = WriteBehind::new(Arc::new(file), 4096).unwrap();
        let mut errors = Vec::new();
        for block in 0..6 {
            let submitted = writer.buffer().and_then(|mut buffer| {
                buffer.append(&[1; 4096]);
                writer.submit(buffer, block * 4096)
            });
            errors.extend(submitted.err().map(|e| e.to_string()));
        }
        errors.extend(writer.drain().err().map(|e| e.to_string()));
        assert!(errors.iter().any(|e| e.contains("injected")), "{errors:?}");
        assert!(writer.drain().is_err(), "the error stays");
        drop(writer);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096 + 2048);
    }
}
