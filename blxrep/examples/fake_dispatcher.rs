//! Serves made-up agents, disks and points on `DIR/control.sock`, to try the command line and the screen on:
//!
//! `cargo run --example fake_dispatcher DIR`, then `blxrep tui --data-dir DIR`.

#[path = "../tests/fake/mod.rs"]
mod fake;

use blxrep::api::{server, socket::ControlSocket};
use std::path::Path;
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("name a directory"))?;
    let dir = Path::new(&dir);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let served = server::serve(ControlSocket::bind(dir)?, Arc::new(fake::Fake::new(dir)), stopped);
    let ended = async {
        tokio::signal::ctrl_c().await?;
        stop.send(true)?;
        anyhow::Ok(())
    };
    let (served, ended) = tokio::join!(served, ended);
    served?;
    ended
}
