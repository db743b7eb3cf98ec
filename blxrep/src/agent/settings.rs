//! temp
use super::dialer::Dialer;
use crate::cli::start::AgentArgs;
use crate::io::random;
use crate::io::{
    host::{self, HostOptions},
    tracker::TrackerOptions,
};
use crate::wire::hello::Credentials;
use std::path::PathBuf;
pub struct Settings {
    pub dialer: Dialer,
    pub bandwidth_limit: Option<u64>,
    pub disks: Vec<PathBuf>,
    pub host: HostOptions,
    pub tracker: TrackerOptions,
    pub boot_id_text: String,
}
impl Settings {
    pub fn load(a: AgentArgs) -> anyhow::Result<Self> {
        let mut names = vec![];
        let mut disks = vec![];
        for d in &a.disks {
            if let Some((d, n)) = d.split_once('=') {
                names.push((PathBuf::from(d), n.to_owned()));
                disks.push(PathBuf::from(d));
            } else {
                disks.push(PathBuf::from(d));
            }
        }
        let agent = a.id.clone().unwrap();
        let mut tracker = TrackerOptions::for_agent(&agent);
        if let Some(p) = a.pin_dir {
            tracker.pin_dir = p;
        }
        let secret = std::fs::read(a.secret_file.unwrap())?;
        Ok(Self {
            dialer: Dialer {
                address: a.dispatcher_addr.unwrap(),
                agent,
                session: random::id(),
                boot_id: host::boot_id()?,
                credentials: Credentials(secret),
            },
            bandwidth_limit: a.bandwidth_limit,
            disks,
            host: HostOptions { names },
            tracker,
            boot_id_text: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        })
    }
}
