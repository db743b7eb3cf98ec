//! The request to stop: SIGTERM or SIGINT; for a process that must not outlive another, the end of its input, too.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for all of them.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// A pipe, of which whoever started this process has the other end.
    input: Option<Receiver>,
}

impl Stop {
    /// From now on the signals no longer end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, input: None })
    }

    /// The same, and the end of standard input, which has to be a pipe.
    pub fn listen_with_input() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self { input: Some(Receiver::from_owned_fd(input)?), ..Self::listen()? })
    }

    /// Returns when one has come. Cancel-safe.
    pub async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = ended(self.input.as_ref()) => {}
        }
    }
}

/// Returns when nothing can come through a pipe any more; what comes says nothing.
async fn ended(input: Option<&Receiver>) {
    let Some(input) = input else { return pending().await };
    while input.readable().await.is_ok() {
        match input.try_read(&mut [0; 64]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
