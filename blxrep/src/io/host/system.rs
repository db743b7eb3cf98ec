//! The host without its disks: names, processors, memory, network.

use super::{HostError, sysfs};
use crate::model::host::{Footprint, Interface};
use nix::ifaddrs::getifaddrs;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Interfaces and addresses that are told; a host of containers has thousands.
const MAX_INTERFACES: usize = 64;
const MAX_ADDRESSES: usize = 16;

/// Everything but the disks.
pub(super) fn describe() -> Result<Footprint, HostError> {
    let system = rustix::system::uname();
    let lossy = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Ok(Footprint {
        hostname: lossy(system.nodename()),
        distribution: distribution(),
        kernel: lossy(system.release()),
        architecture: lossy(system.machine()),
        cpus: processors()?,
        cpu_model: cpu_model(&sysfs::proc_file("/proc/cpuinfo")?),
        memory_bytes: memory(&sysfs::proc_file("/proc/meminfo")?),
        boot_id: sysfs::proc_file(BOOT_ID)?.trim().to_owned(),
        interfaces: interfaces()?,
        disks: Vec::new(),
    })
}

/// The id of this boot of the kernel, the same in every container on it.
pub fn boot_id() -> Result<[u8; 16], HostError> {
    let text = sysfs::proc_file(BOOT_ID)?.trim().to_owned();
    u128::from_str_radix(&text.replace('-', ""), 16)
        .map(u128::to_be_bytes)
        .map_err(|_| HostError::Malformed { path: BOOT_ID.into(), text })
}

/// Processors that are online.
fn processors() -> Result<u32, HostError> {
    let path = "/sys/devices/system/cpu/online";
    let text = sysfs::proc_file(path)?.trim().to_owned();
    count(&text).ok_or_else(|| HostError::Malformed { path: path.into(), text })
}

/// Members of a list such as `0-3,6`.
fn count(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn cpu_model(cpuinfo: &str) -> String {
    let value = |line: &str| {
        line.strip_prefix("model name").and_then(|l| l.split_once(':')).map(|(_, v)| v.to_owned())
    };
    cpuinfo.lines().find_map(value).unwrap_or_default().trim().to_owned()
}

fn memory(meminfo: &str) -> u64 {
    let kib =
        |line: &str| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok();
    meminfo.lines().find_map(kib).unwrap_or(0).saturating_mul(1024)
}

/// `PRETTY_NAME` of os-release; empty if there is no such file.
fn distribution() -> String {
    ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| pretty_name(&sysfs::proc_file(path).ok()?))
        .unwrap_or_default()
}

/// The value is quoted as in a shell.
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let inner = quote.map_or(value, |quote| value.trim_matches(quote));
    Some(inner.replace("\\\"", "\"").replace("\\$", "$").replace("\\`", "`").replace("\\\\", "\\"))
}

/// Every interface but the loopback, with its addresses.
fn interfaces() -> Result<Vec<Interface>, HostError> {
    let net = Path::new("/sys/class/net");
    let mut addresses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let listed = getifaddrs().map_err(|errno| HostError::Read { path: net.into(), source: errno.into() })?;
    for entry in listed {
        let address = entry.address.as_ref().and_then(ip);
        let mask = entry.netmask.as_ref().and_then(ip);
        if let (Some(address), Some(mask)) = (address, mask) {
            addresses.entry(entry.interface_name).or_default().push(format!("{address}/{}", prefix(mask)));
        }
    }
    let names = sysfs::names(net).into_iter().filter(|name| name != "lo").take(MAX_INTERFACES);
    Ok(names
        .map(|name| {
            let mut addresses = addresses.remove(&name).unwrap_or_default();
            addresses.truncate(MAX_ADDRESSES);
            Interface { mac: sysfs::text(&net.join(&name), "address").unwrap_or_default(), addresses, name }
        })
        .collect())
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

fn prefix(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_ranges() {
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-3,6,8-9"), Some(7));
        assert_eq!(count(""), None);
        assert_eq!(count("3-1"), None);
        assert_eq!(count("0-4294967295"), None);
    }

    #[test]
    fn os_release_is_quoted_as_in_a_shell() {
        assert_eq!(
            pretty_name("ID=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").unwrap(),
            "Debian GNU/Linux 12"
        );
        assert_eq!(pretty_name("PRETTY_NAME=Arch").unwrap(), "Arch");
        assert_eq!(pretty_name("PRETTY_NAME='a \"b\"'").unwrap(), "a \"b\"");
        assert_eq!(pretty_name("NAME=x"), None);
    }

    #[test]
    fn memory_and_model_are_found_or_nothing() {
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:       24684096 kB\n"), 24_684_096 * 1024);
        assert_eq!(memory("garbage"), 0);
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Xeon(R) : 9\n"), "Xeon(R) : 9");
        assert_eq!(cpu_model("Hardware: BCM"), "");
    }
}
