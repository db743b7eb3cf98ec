//! Extended attributes of one name in an open folder, whatever it is, a symbolic link too.

use super::entry::{MAX_VALUE_BYTES, MAX_XATTRS_BYTES, Xattr};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;

/// Marks a folder whose restore has not ended yet. It is of the host that restores, so it is never carried along.
pub const UNFINISHED: &CStr = c"trusted.blxrep.unfinished";
/// The times of a target from before a restore made its staging folder in it; of the staging folder.
const TIMES: &CStr = c"trusted.blxrep.times";
/// Marks a staging folder that a restore has made: only who may administer the host can set it.
const STAGING: &CStr = c"trusted.blxrep.staging";
/// All of these.
const OWN: &[u8] = b"trusted.blxrep.";

/// Whether an attribute is carried along. Of those that the kernel makes up itself only ACLs are; what belongs to one
/// kind of filesystem stays with it.
fn is_carried(name: &[u8]) -> bool {
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        // xfs shows ACLs under these names too.
        b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT" => false,
        _ if name.starts_with(OWN) => false,
        _ => !name.starts_with(b"system.") && !name.starts_with(b"btrfs."),
    }
}

/// A path to a name that follows no link but the kernel's own to the folder.
fn path(folder: impl AsFd, name: &[u8]) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend(name);
    Ok(CString::new(path)?)
}

/// The attributes of a name that are carried along, in order.
pub fn read(folder: impl AsFd, name: &[u8]) -> io::Result<Vec<Xattr>> {
    let path = path(folder, name)?;
    let mut found = Vec::new();
    for name in list(&path)? {
        if let Some(value) = get(&path, &name)? {
            found.push(Xattr { name: name.into_bytes(), value });
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn list(path: &CStr) -> io::Result<Vec<CString>> {
    let mut names = vec![0u8; MAX_XATTRS_BYTES];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| is_carried(name) && !name.is_empty());
    Ok(names.map(CString::new).collect::<Result<_, _>>()?)
}

/// `None` if it is gone.
fn get(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; MAX_VALUE_BYTES];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            value.shrink_to_fit();
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a name exactly these attributes. The error names the one that could not be set.
pub fn write(folder: impl AsFd, name: &[u8], wanted: &[Xattr]) -> Result<(), (Vec<u8>, io::Error)> {
    let path = path(folder, name).map_err(|e| (Vec::new(), e))?;
    for old in list(&path).map_err(|e| (Vec::new(), e))? {
        // What this host's security modules put there is theirs.
        let theirs = old.as_bytes().starts_with(b"security.");
        if !theirs && !wanted.iter().any(|xattr| xattr.name == old.as_bytes()) {
            match rustix::fs::lremovexattr(&path, &old) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err((old.into_bytes(), error.into())),
            }
        }
    }
    for Xattr { name, value } in wanted {
        let failed = |error: io::Error| (name.clone(), error);
        let text = CString::new(name.clone()).map_err(|e| failed(e.into()))?;
        rustix::fs::lsetxattr(&path, &text, value, XattrFlags::empty()).map_err(|e| failed(e.into()))?;
    }
    Ok(())
}

/// Sets or removes the mark of a folder. A filesystem without attributes just has no mark.
pub fn mark(folder: impl AsFd, unfinished: bool) {
    let _ = match unfinished {
        true => rustix::fs::fsetxattr(folder, UNFINISHED, b"1", XattrFlags::empty()),
        false => rustix::fs::fremovexattr(folder, UNFINISHED),
    };
}

/// Whose a staging folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// A restore has made it.
    Restore,
    Another,
    /// The filesystem keeps no such attributes, or this process may not set them.
    Unknown,
}

/// Marks a staging folder that was just made, if that is possible.
pub fn mark_staging(staging: impl AsFd) {
    let _ = rustix::fs::fsetxattr(staging, STAGING, b"1", XattrFlags::empty());
}

/// Who has made a staging folder.
pub fn maker(staging: impl AsFd) -> Maker {
    // Who may not set one is told that there is none when he reads it.
    match rustix::fs::fsetxattr(staging, STAGING, b"1", XattrFlags::REPLACE) {
        Ok(()) => Maker::Restore,
        Err(Errno::NODATA) => Maker::Another,
        Err(_) => Maker::Unknown,
    }
}

/// Keeps the times of a target with its staging folder, or forgets them.
pub fn keep_times(staging: impl AsFd, times: Option<&Timestamps>) {
    let _ = match times {
        Some(Timestamps { last_access: a, last_modification: m }) => {
            let fields = [a.tv_sec, a.tv_nsec, m.tv_sec, m.tv_nsec].map(i64::to_le_bytes);
            rustix::fs::fsetxattr(staging, TIMES, fields.as_flattened(), XattrFlags::empty())
        }
        None => rustix::fs::fremovexattr(staging, TIMES),
    };
}

/// The times that were kept.
pub fn kept_times(staging: impl AsFd) -> Option<Timestamps> {
    let mut bytes = [0u8; 32];
    let length = rustix::fs::fgetxattr(staging, TIMES, &mut bytes[..]).ok()?;
    let [(a, an), (m, mn)] = [0, 16].map(|at| {
        let field = |at: usize| bytes[at..].first_chunk().map_or(0, |field| i64::from_le_bytes(*field));
        (field(at), field(at + 8))
    });
    (length == bytes.len()).then_some(Timestamps {
        last_access: Timespec { tv_sec: a, tv_nsec: an },
        last_modification: Timespec { tv_sec: m, tv_nsec: mn },
    })
}

/// Whether a folder has the mark.
pub fn is_marked(folder: impl AsFd) -> bool {
    let mut value = [0u8; 8];
    rustix::fs::fgetxattr(folder, UNFINISHED, &mut value[..]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_filesystem_stays_with_it() {
        for name in [&b"user.x"[..], b"security.capability", b"trusted.y", b"system.posix_acl_access"] {
            assert!(is_carried(name));
        }
        for name in
            [&b"btrfs.compression"[..], b"system.ntfs_attrib", b"trusted.SGI_ACL_FILE", UNFINISHED.to_bytes()]
        {
            assert!(!is_carried(name));
        }
    }
}
