//! A folder, page by page, in the order of its names' bytes. Memory does not grow with the folder.

use super::rows;
use super::stream::{MAX_UNREAD, PAGE_BYTES};
use crate::api::browse::{FileRow, Findings};
use crate::api::error::ApiError;
use crate::archive::{Name, shown};
use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::Dir;
use std::collections::BinaryHeap;

/// At most `limit` entries of the folder at `path` behind the name `after`; of something that is no folder, itself.
pub fn list(
    root: BorrowedFd<'_>,
    partition: &PartId,
    path: &[Name],
    limit: usize,
    after: Option<&[u8]>,
) -> Result<Findings<FileRow>, ApiError> {
    let mut page = Findings { items: Vec::new(), next: None, notes: Vec::new(), unread: Vec::new() };
    let (folder, name) = rows::enter(root, path)?;
    if let Some(name) = name {
        let above = &path[..path.len() - 1];
        let row = rows::file(partition, folder.as_fd(), above, &name).map_err(|e| rows::failed(path, &e))?;
        page.items.push(row);
        return Ok(page);
    }
    let (names, mut more) = first_names(folder.as_fd(), limit, after).map_err(|e| rows::failed(path, &e))?;
    let mut bytes = 0;
    let mut last = None;
    for name in names {
        if bytes > PAGE_BYTES || page.unread.len() >= MAX_UNREAD {
            more = true;
            break;
        }
        match rows::file(partition, folder.as_fd(), path, &name) {
            Ok(row) => {
                bytes += row.path.len() + row.raw.as_bytes().len();
                page.items.push(row);
            }
            Err(error) => page.unread.push(format!("cannot read {}: {error}", shown(name.as_bytes()))),
        }
        last = Some(ByteText::from(name.as_bytes()));
    }
    page.next = last.filter(|_| more).map(|name| name.to_string());
    Ok(page)
}

/// The first names behind `after`, in order, and whether there are more.
fn first_names(
    folder: BorrowedFd<'_>,
    limit: usize,
    after: Option<&[u8]>,
) -> std::io::Result<(Vec<Name>, bool)> {
    let mut first = BinaryHeap::new();
    let mut more = false;
    for found in Dir::read_from(folder)? {
        let found = found?;
        let Some(name) = Name::new(found.file_name().to_bytes()) else { continue };
        if after.is_some_and(|after| name.as_bytes() <= after) {
            continue;
        }
        first.push(name);
        if first.len() > limit {
            first.pop();
            more = true;
        }
    }
    Ok((first.into_sorted_vec(), more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn pages_make_up_the_folder_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<Vec<u8>> = (0..23).map(|i| format!("file {i}%").into_bytes()).collect();
        names.push(b"\xff\n\x80".to_vec());
        names.iter().for_each(|name| std::fs::write(dir.path().join(OsStr::from_bytes(name)), "x").unwrap());
        names.sort();
        let root = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for limit in [1, 5, 23, 24, 100] {
            let (mut found, mut after) = (Vec::new(), None::<ByteText>);
            loop {
                let page = list(
                    root.as_fd(),
                    &PartId::Partition(3),
                    &[],
                    limit,
                    after.as_ref().map(ByteText::as_bytes),
                )
                .unwrap();
                assert!(page.items.len() <= limit);
                found.extend(page.items.iter().map(|row| row.raw.as_bytes()[1..].to_vec()));
                match page.next {
                    Some(next) => after = Some(next.parse().unwrap()),
                    None => break,
                }
            }
            assert_eq!(found, names, "{limit}");
        }
        let one =
            list(root.as_fd(), &PartId::Partition(3), &[Name::new(b"file 7%").unwrap()], 10, None).unwrap();
        assert_eq!((one.items[0].name.as_str(), one.items[0].bytes), ("file 7%", 1));
        let none =
            list(root.as_fd(), &PartId::Partition(3), &[Name::new(b"none").unwrap()], 10, None).unwrap_err();
        assert!(none.message.contains("has no /none"), "{none}");
    }
}
