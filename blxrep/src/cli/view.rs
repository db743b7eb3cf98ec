//! A point opened in this process: what every command does that shows or serves its content.
//!
//! The dispatcher tells which files the point is made of; they are read here, so that a view that dies, hangs or
//! is slow takes nothing else with it.

use super::error::CliError;
use crate::api::chain::PointChain;
use crate::api::client::Client;
use crate::io::storage::Storage;
use crate::store::lease::ViewLease;
use crate::view::PointReader;

/// How often the files of a point may be replaced while it is being opened: once is rare.
const MAX_MOVES: u32 = 16;

/// An open point. Its files stay as they are for as long as this is held.
#[derive(Debug)]
pub struct PointView {
    pub chain: PointChain,
    pub reader: PointReader,
}

/// Opens the point that a person named.
pub async fn open(client: &Client, point: &str) -> Result<PointView, CliError> {
    let (chain, lease) = held(client, point).await?;
    let files = chain.files(client.data_dir()).map_err(|e| CliError::Failed(e.to_string()))?;
    let opened = tokio::task::spawn_blocking(move || PointReader::open(&Storage::default(), &files));
    let reader = opened.await.map_err(|e| CliError::Failed(e.to_string()))?;
    let reader = reader.map_err(|e| CliError::Failed(format!("cannot open point {}: {e}", chain.point)))?;
    Ok(PointView { chain, reader: reader.under(lease) })
}

/// The files of a point, with the lease that keeps them.
async fn held(client: &Client, point: &str) -> Result<(PointChain, ViewLease), CliError> {
    let mut seen = client.chain(point).await?;
    let id = seen.point.to_string();
    for _ in 0..MAX_MOVES {
        let lease = ViewLease::take_in(client.data_dir(), seen.place());
        let lease = lease.map_err(|e| CliError::Failed(format!("cannot hold point {id}: {e}")))?;
        // Only what is told after the lease was taken stays true: files may have been replaced in between.
        let now = client.chain(&id).await?;
        if now.place() == seen.place() {
            return Ok((now, lease));
        }
        seen = now;
    }
    Err(CliError::Failed(format!("the files of point {id} were replaced {MAX_MOVES} times; try again")))
}
