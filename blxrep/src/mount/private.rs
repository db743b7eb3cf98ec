//! A point mounted where only this process and its server see it: in a mount namespace of its own, which is gone with
//! them, however they end.

use super::session::Session;
use super::{MountError, files};
use crate::model::contents::{Access, Part};
use crate::model::part_id::PartId;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;
use std::path::{Path, PathBuf};

/// A folder that every host has and that is not needed while a point is looked at. It is covered in this namespace
/// only, so nothing is made that could be left behind.
const COVERED: &str = "/sys/fs";

/// Points that this process has mounted for itself.
#[derive(Debug)]
pub struct Private {
    next: u32,
}

/// A point that only this process sees.
#[derive(Debug)]
pub struct PrivatePoint {
    session: Session,
    dir: PathBuf,
}

impl Private {
    /// Leaves the mount namespace of the host. Only this thread, and what it starts from now on, is in the new one.
    pub fn enter() -> Result<Self, MountError> {
        if !rustix::process::geteuid().is_root() {
            return Err(MountError::NotRoot);
        }
        let root = Path::new("/");
        // SAFETY: the new namespace concerns names of files only; memory and descriptors stay shared as they are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(MountError::errno("make a mount namespace at", root))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change(root, private).map_err(MountError::errno("make private", root))?;
        let covered = Path::new(COVERED);
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("blxrep", covered, "tmpfs", flags, c"mode=0700,size=1m")
            .map_err(MountError::errno("mount on", covered))?;
        Ok(Self { next: 0 })
    }

    /// Mounts a point.
    pub fn open(&mut self, data_dir: &Path, point: &str) -> Result<PrivatePoint, MountError> {
        self.next += 1;
        let dir = Path::new(COVERED).join(self.next.to_string());
        std::fs::create_dir(&dir).map_err(MountError::path("make", &dir))?;
        Ok(PrivatePoint { session: Session::start(data_dir, point, &dir)?, dir })
    }
}

impl PrivatePoint {
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.session.ready.parts
    }

    /// What could not be read while the disk was looked through.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.session.ready.problems
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.session.ready.point
    }

    /// The part that is meant: the one with the name, or the only one that has files.
    pub fn part(&self, id: Option<&PartId>) -> Result<Part, MountError> {
        choose(self.parts(), id).cloned()
    }

    /// The root folder of a part's files, and what one should know about them.
    pub fn root(&self, part: &Part) -> Result<(OwnedFd, String), MountError> {
        let named = format!("{} of point {}", part.id.described(), self.id());
        let how = match &part.access {
            Access::Mount(how) => how,
            Access::Never(why) => {
                return Err(MountError::Refused(format!("{named} has no files: {why}")));
            }
        };
        let shown = files::show(&self.dir, part, how)
            .map_err(|why| MountError::Refused(format!("{named} cannot be shown: {why}")))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&shown.folder, flags, Mode::empty())
            .map_err(MountError::errno("open", &shown.folder))?;
        Ok((root, if shown.note.is_empty() { shown.note } else { format!("{named}: {}", shown.note) }))
    }
}

fn choose<'a>(parts: &'a [Part], id: Option<&PartId>) -> Result<&'a Part, MountError> {
    let with_files = || parts.iter().filter(|part| part.mounting().is_some());
    let list = || {
        let all = with_files().map(|part| format!("{} ({})", part.id, part.kind));
        let all: Vec<String> = all.collect();
        if all.is_empty() {
            "none has files".to_owned()
        } else {
            format!("those with files: {}", all.join(", "))
        }
    };
    match id {
        Some(id) => parts
            .iter()
            .find(|part| part.id == *id)
            .ok_or_else(|| MountError::NotFound(format!("the point has no {}; {}", id.described(), list()))),
        None => {
            let mut found = with_files();
            match (found.next(), found.next()) {
                (Some(only), None) => Ok(only),
                (None, _) => {
                    let why = parts.iter().map(|part| match &part.access {
                        Access::Never(why) => format!("{}: {why}", part.id.described()),
                        Access::Mount(_) => part.id.described(),
                    });
                    let why: Vec<String> = why.collect();
                    Err(MountError::Refused(format!("the point has no files: {}", why.join("; "))))
                }
                _ => Err(MountError::Refused(format!("say which partition, as PARTITION:PATH; {}", list()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::contents::Mounting;

    fn part(number: u32, files: bool) -> Part {
        let mounting =
            Mounting { driver: String::new(), options: String::new(), replay: false, unreplayed: None };
        let access = if files { Access::Mount(mounting) } else { Access::Never("swap".to_owned()) };
        Part { kind: "ext4".to_owned(), access, ..Part::unknown(PartId::Partition(number), 0..1) }
    }

    #[test]
    fn a_partition_need_not_be_named_where_only_one_has_files() {
        let parts = [part(1, false), part(2, true)];
        assert_eq!(choose(&parts, None).unwrap().id, PartId::Partition(2));
        let named = |number| choose(&parts, Some(&PartId::Partition(number)));
        assert_eq!(named(1).unwrap().id, PartId::Partition(1));
        let error = named(3).unwrap_err().to_string();
        assert!(error.contains("no partition 3") && error.contains("2 (ext4)"), "{error}");
        let two = [part(1, true), part(2, true)];
        assert!(choose(&two, None).unwrap_err().to_string().contains("PARTITION:PATH"));
        assert!(choose(&[part(0, false)], None).unwrap_err().to_string().contains("the disk: swap"));
    }
}
