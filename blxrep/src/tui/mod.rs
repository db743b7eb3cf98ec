//! tmp
pub async fn run(client: crate::api::client::Client) -> std::io::Result<()> { let _ = client; Ok(()) }
