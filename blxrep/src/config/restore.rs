//! `restore:` of the agent's section: what restores may overwrite on this server, and where they may write files.
//!
//! Only the agent's own configuration says it, and only the agent judges by it: nobody at the dispatcher can widen it.
//! What decides is what a device or folder *is*, never how the dispatcher spelled it.

use super::ConfigError;
use super::pattern::Pattern;
use crate::model::host::DeviceNames;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// Entries of either list; who has more devices than that writes patterns.
const MAX_ENTRIES: usize = 256;
/// What an entry of `devices` may begin with, besides a path: the kinds of identities.
const KINDS: [&str; 5] = ["wwn:", "serial:", "gpt:", "mbr:", "name:"];

/// What restores may touch; nothing, unless it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// Devices that may be overwritten: `/dev/disk/by-id/nvme-*`, `/dev/vdc`, `serial:*`.
    #[serde(default)]
    pub devices: Vec<Pattern>,
    /// Folders below which files may be written.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
}

impl RestoreConfig {
    /// Judges what could be read.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem| Err(ConfigError::Value { key, problem });
        if self.devices.len() > MAX_ENTRIES || self.paths.len() > MAX_ENTRIES {
            return wrong(
                "agent.restore",
                format!("more than {MAX_ENTRIES} entries in a list: use patterns"),
            );
        }
        let device =
            |text: &str| text.starts_with("/dev/") || KINDS.iter().any(|kind| text.starts_with(kind));
        if let Some(entry) = self.devices.iter().find(|entry| !device(entry.text())) {
            let problem = format!(
                "`{entry}` is neither a path of a device, such as /dev/disk/by-id/nvme-*, nor an identity, such as serial:S4EV*"
            );
            return wrong("agent.restore.devices", problem);
        }
        let plain =
            |path: &Path| path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        match self.paths.iter().find(|path| !plain(path)) {
            None => Ok(()),
            Some(path) => wrong(
                "agent.restore.paths",
                format!("`{}` is no absolute path of a folder without `..`", path.display()),
            ),
        }
    }
}

/// Why something may not be restored here. It says what to write where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is not among what restores may {action} on agent {agent}: if it shall be, let the section `agent` of \
     {} on that server have the line `{line}`, and start the agent again", file.display()
)]
pub struct Refusal {
    what: String,
    action: &'static str,
    agent: String,
    file: PathBuf,
    /// A line of the section `agent`, complete: what is allowed already, and this.
    pub line: String,
}

/// The agent's word on restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub allowed: RestoreConfig,
    /// Who refuses.
    pub agent: String,
    /// Where the agent's configuration is read from.
    pub file: PathBuf,
}

impl Authority {
    /// Whether this device may be overwritten: if one of its names, or of its disk's, is in the configuration.
    /// `asked` is what it was called, for the message alone.
    pub fn device(&self, asked: &str, names: &DeviceNames) -> Result<(), Refusal> {
        let disk = names.disk.iter().flat_map(|disk| disk.all());
        let mut all = names.all().chain(disk);
        if all.any(|name| self.allowed.devices.iter().any(|pattern| pattern.matches(name))) {
            return Ok(());
        }
        let new = names.lasting();
        let what = if asked == names.node { asked.to_owned() } else { format!("{asked} ({})", names.node) };
        let devices = self.devices().chain([new.to_owned()]).collect::<Vec<_>>();
        Err(self.refuse(what, "overwrite", &devices, &self.paths().collect::<Vec<_>>()))
    }

    /// Whether files may be written to a folder, whose path holds no symbolic links any more. `folders` are those of
    /// the configuration in the same form, without those that do not exist. The folder that allows it, the innermost
    /// of several, and the way from there.
    pub fn folder<'a>(
        &self,
        asked: &Path,
        resolved: &'a Path,
        folders: &[PathBuf],
    ) -> Result<(PathBuf, &'a Path), Refusal> {
        let plain = |path: &Path| {
            path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        };
        let holding = folders.iter().filter(|folder| plain(resolved) && resolved.starts_with(folder));
        let innermost = holding.max_by_key(|folder| folder.components().count());
        if let Some((folder, way)) =
            innermost.and_then(|folder| Some((folder, resolved.strip_prefix(folder).ok()?)))
        {
            return Ok((folder.clone(), way));
        }
        let shown = |path: &Path| crate::archive::shown(path.as_os_str().as_encoded_bytes());
        let what = match asked == resolved {
            true => shown(asked),
            false => format!("{} (which is {})", shown(asked), shown(resolved)),
        };
        // A folder whose name the configuration cannot say is allowed by one above it, which a person has to choose.
        let new = resolved.to_str().unwrap_or("FOLDER").to_owned();
        let paths = self.paths().chain([new]).collect::<Vec<_>>();
        Err(self.refuse(what, "write to", &self.devices().collect::<Vec<_>>(), &paths))
    }

    /// Devices that the configuration names in full.
    #[must_use]
    pub fn named_devices(&self) -> Vec<PathBuf> {
        let plain = self.allowed.devices.iter().filter(|entry| entry.is_plain());
        plain.map(|entry| entry.text().into()).filter(|path: &PathBuf| path.is_absolute()).collect()
    }

    fn devices(&self) -> impl Iterator<Item = String> {
        self.allowed.devices.iter().map(ToString::to_string)
    }

    fn paths(&self) -> impl Iterator<Item = String> {
        self.allowed.paths.iter().map(|path| path.display().to_string())
    }

    fn refuse(&self, what: String, action: &'static str, devices: &[String], paths: &[String]) -> Refusal {
        // Quoted as JSON has it, which is YAML too.
        let list = |entries: &[String]| serde_json::to_string(entries).unwrap_or_default();
        let keys = [("devices", devices), ("paths", paths)].into_iter().filter(|(_, list)| !list.is_empty());
        let keys: Vec<String> = keys.map(|(key, entries)| format!("{key}: {}", list(entries))).collect();
        let line = format!("restore: {{{}}}", keys.join(", "));
        Refusal { what, action, agent: self.agent.clone(), file: self.file.clone(), line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn authority(text: &str) -> Authority {
        let allowed: RestoreConfig = yaml::parse(text, Path::new("config.yaml")).unwrap();
        allowed.check().unwrap();
        Authority { allowed, agent: "web1".to_owned(), file: "/etc/blxrep/config.yaml".into() }
    }

    /// The authority after the line that a refusal names was written.
    fn after(refusal: &Refusal) -> Authority {
        authority(refusal.line.strip_prefix("restore: ").unwrap())
    }

    fn disk(node: &str, links: &[&str], identity: Option<&str>) -> DeviceNames {
        let links = links.iter().map(|link| (*link).to_owned()).collect();
        DeviceNames { node: node.to_owned(), links, identity: identity.map(str::to_owned), disk: None }
    }

    #[test]
    fn nothing_is_allowed_unless_it_is_said() {
        let none = authority("{}");
        assert_eq!(none.allowed, RestoreConfig::default());
        assert!(none.device("/dev/vdb", &disk("/dev/vdb", &[], None)).is_err());
        assert!(none.folder(Path::new("/"), Path::new("/"), &[]).is_err());
    }

    #[test]
    fn a_device_is_allowed_by_any_of_its_names() {
        let vdb = disk("/dev/vdb", &["/dev/disk/by-id/virtio-data1"], Some("serial:data1"));
        let part = DeviceNames {
            node: "/dev/vdb1".to_owned(),
            disk: Some(Box::new(vdb.clone())),
            ..DeviceNames::default()
        };
        for entry in ["/dev/vdb", "/dev/vd*", "/dev/disk/by-id/virtio-data[1-3]", "serial:data?"] {
            let authority = authority(&format!("devices: [\"{entry}\"]"));
            assert_eq!(authority.device("/dev/vdb", &vdb), Ok(()), "{entry}");
            assert_eq!(
                authority.device("/dev/vdb1", &part),
                Ok(()),
                "{entry}: with the disk go its partitions"
            );
        }
        let only = authority("devices: [/dev/vdb1]");
        assert_eq!(only.device("/dev/vdb1", &part), Ok(()));
        assert!(only.device("/dev/vdb", &vdb).is_err(), "a partition does not stand for its disk");
        let other = authority("devices: [/dev/vdb, \"serial:data1\"]");
        assert!(other.device("/dev/vda", &disk("/dev/vda", &[], Some("serial:data10"))).is_err());
    }

    #[test]
    fn what_a_device_is_called_by_who_asks_decides_nothing() {
        let authority = authority("devices: [\"/dev/disk/by-id/virtio-*\"]");
        let refused = authority.device("/dev/disk/by-id/virtio-x/../../vda", &disk("/dev/vda", &[], None));
        assert!(refused.unwrap_err().to_string().contains("/dev/vda"));
    }

    #[test]
    fn a_refusal_names_the_line_that_allows_it_and_keeps_what_was_allowed() {
        let links = ["/dev/disk/by-path/pci-1", "/dev/disk/by-id/nvme-A:1"];
        let nvme = disk("/dev/nvme0n1", &links, Some("wwn:eui.1"));
        let refused = authority("paths: [/srv]").device("/dev/nvme0n1", &nvme).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "/dev/nvme0n1 is not among what restores may overwrite on agent web1: if it shall be, let the section \
             `agent` of /etc/blxrep/config.yaml on that server have the line \
             `restore: {devices: [\"/dev/disk/by-id/nvme-A:1\"], paths: [\"/srv\"]}`, and start the agent again"
        );
        let allowed = after(&refused);
        assert_eq!(allowed.device("/dev/nvme0n1", &nvme), Ok(()));
        let refused =
            allowed.folder(Path::new("/t \"x\""), Path::new("/t \"x\""), &["/srv".into()]).unwrap_err();
        assert!(refused.to_string().contains("may write to on agent web1"), "{refused}");
        let allowed = after(&refused);
        assert_eq!(allowed.device("/dev/nvme0n1", &nvme), Ok(()));
        assert_eq!(allowed.allowed.paths, [Path::new("/srv"), Path::new("/t \"x\"")]);
        let without =
            after(&authority("{}").device("/dev/loop3", &disk("/dev/loop3", &[], None)).unwrap_err());
        assert_eq!(without.device("/dev/loop3", &disk("/dev/loop3", &[], None)), Ok(()));
    }

    #[test]
    fn a_folder_is_allowed_by_whole_components() {
        let authority = authority("paths: [/srv, /srv/a/b]");
        let folders = ["/srv".into(), "/srv/a/b".into()];
        let of = |path| authority.folder(Path::new(path), Path::new(path), &folders);
        assert_eq!(of("/srv"), Ok(("/srv".into(), Path::new(""))));
        assert_eq!(of("/srv/a/b/c/d"), Ok(("/srv/a/b".into(), Path::new("c/d"))), "the innermost");
        for bad in ["/srvx", "/", "/sr", "/srv/../etc", "srv/x", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let swapped = authority.folder(Path::new("/srv/link/x"), Path::new("/etc/x"), &folders).unwrap_err();
        assert!(swapped.to_string().starts_with("/srv/link/x (which is /etc/x) is not among"), "{swapped}");
        let root = authority.folder(Path::new("/etc"), Path::new("/etc"), &["/".into()]);
        assert_eq!(root, Ok(("/".into(), Path::new("etc"))));
    }

    #[test]
    fn a_mistake_is_named() {
        let said = |text: &str| {
            let read: Result<RestoreConfig, _> = yaml::parse(text, Path::new("config.yaml"));
            read.and_then(|config| config.check()).unwrap_err().to_string()
        };
        assert!(said("devices: [vdb]").starts_with("agent.restore.devices: `vdb` is neither"));
        assert!(said("devices: [\"*\"]").contains("`*` is neither"));
        assert!(said("paths: [srv]").starts_with("agent.restore.paths: `srv` is no absolute path"));
        assert!(said("paths: [/srv/../etc]").contains("without `..`"));
        assert!(said("folders: [/srv]").contains("unknown field `folders`"));
        let many = vec!["/dev/a"; MAX_ENTRIES + 1].join(", ");
        assert!(said(&format!("devices: [{many}]")).contains("more than 256"));
    }
}
