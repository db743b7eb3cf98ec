//! temp
use super::backend::HouseFacts;
use crate::{
    cli::start::DispatcherArgs,
    config::{policy::PolicyBook, secret::Secret},
    io::host,
    model::ids::StoreId,
    store::recovery::OpenReport,
    wire::hello::KeptDisk,
};
use std::{net::SocketAddr, path::PathBuf};
pub struct Settings {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub policies: PolicyBook,
    pub secret: Secret,
    pub boot_id: [u8; 16],
    pub kept: Vec<KeptDisk>,
}
impl Settings {
    pub fn load(a: DispatcherArgs) -> anyhow::Result<Self> {
        Ok(Self {
            data_dir: a.data_dir,
            listen: a.listen.unwrap(),
            policies: PolicyBook,
            secret: Secret,
            boot_id: host::boot_id()?,
            kept: vec![],
        })
    }
    pub fn say_opened(&self, _: &OpenReport) {}
    pub fn write_address(&self, a: SocketAddr) -> anyhow::Result<()> {
        Ok(std::fs::write(self.data_dir.join("address"), a.to_string())?)
    }
    pub fn facts(&self, a: SocketAddr, s: StoreId) -> HouseFacts {
        HouseFacts { store: s, data_dir: self.data_dir.clone(), address: a, started: jiff::Timestamp::now() }
    }
    pub fn remove_address(&self) {}
}
