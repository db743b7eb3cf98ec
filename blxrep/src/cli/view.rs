//! A point opened in this process: what every command does that shows or serves its content.
//!
//! The dispatcher tells which files the point is made of; they are read here, so that a view that dies, hangs or
//! is slow takes nothing else with it.

use super::error::CliError;
use crate::api::chain::PointChain;
use crate::api::client::Client;
use crate::io::storage::Storage;
use crate::view::PointReader;

/// An open point. Its files stay as they are for as long as this is held.
#[derive(Debug)]
pub struct PointView {
    pub chain: PointChain,
    pub reader: PointReader,
}

/// Opens the point that a person named.
pub async fn open(client: &Client, point: &str) -> Result<PointView, CliError> {
    let seen = client.chain(point).await?;
    // The lease on the point's files belongs here, held by what is returned. Only what is told after it is taken
    // stays true: the chain may have been consolidated in between.
    let chain = client.chain(&seen.point.to_string()).await?;
    let files = chain.files(client.data_dir()).map_err(|e| CliError::Failed(e.to_string()))?;
    let opened = tokio::task::spawn_blocking(move || PointReader::open(&Storage::default(), &files));
    let reader = opened.await.map_err(|e| CliError::Failed(e.to_string()))?;
    let reader = reader.map_err(|e| CliError::Failed(format!("cannot open point {}: {e}", chain.point)))?;
    Ok(PointView { chain, reader })
}
