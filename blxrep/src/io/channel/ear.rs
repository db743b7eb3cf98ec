//! A stream that knows when the last byte came in. A message of a mebibyte takes minutes on a slow link, and its peer is
//! not silent meanwhile.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When the last byte came in; shared with the [`Ear`].
#[derive(Clone, Debug)]
pub struct Heard {
    began: Instant,
    /// Milliseconds after that.
    last: Arc<AtomicU64>,
}

impl Heard {
    fn new() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }

    fn note(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// The beginning, if nothing came in yet.
    pub fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// A stream with its [`Heard`].
#[derive(Debug)]
pub struct Ear<T> {
    stream: T,
    heard: Heard,
}

impl<T> Ear<T> {
    pub fn new(stream: T) -> Self {
        Self { stream, heard: Heard::new() }
    }

    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Ear<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.note();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Ear<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
