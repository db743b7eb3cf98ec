//! What is in a point of the fake dispatcher: an EFI partition, a small root filesystem, swap.

use blxrep::api::backend::{DiffRequest, FilesRequest, FindRequest};
use blxrep::api::browse::{ChangeRow, FileKind, FileRow, Findings, How, PartitionRow};
use blxrep::api::error::{ApiError, Result};
use blxrep::archive::{glob, shown};
use blxrep::model::part_id::PartId;

/// The partition with the root filesystem.
pub const ROOT: PartId = PartId::Partition(2);

/// Paths, kinds and lengths. Names are bytes.
const FILES: [(&[u8], FileKind, u64); 16] = [
    (b"/etc", FileKind::Folder, 4096),
    (b"/etc/fstab", FileKind::File, 512),
    (b"/etc/nginx", FileKind::Folder, 4096),
    (b"/etc/nginx/nginx.conf", FileKind::File, 1490),
    (b"/etc/nginx/sites-enabled", FileKind::Folder, 4096),
    (b"/etc/nginx/sites-enabled/default", FileKind::Symlink, 34),
    (b"/home", FileKind::Folder, 4096),
    (b"/home/ada", FileKind::Folder, 4096),
    (b"/home/ada/100%.txt", FileKind::File, 3),
    (b"/home/ada/budget.ods", FileKind::File, 48_213),
    (b"/home/ada/caf\xc3\xa9.jpg", FileKind::File, 2_204_113),
    (b"/home/ada/new\nline", FileKind::File, 12),
    (b"/home/ada/old \xff name", FileKind::File, 7),
    (b"/srv", FileKind::Folder, 4096),
    (b"/srv/dump.sql", FileKind::File, 9 << 30),
    (b"/srv/run.sock", FileKind::Socket, 0),
];

pub fn partitions() -> Findings<PartitionRow> {
    let row = |partition: u32, start: u64, bytes: u64, kind: &str, label: &str, note: &str| PartitionRow {
        partition: partition.into(),
        start,
        bytes,
        kind: kind.into(),
        label: label.into(),
        uuid: format!("0a3c-{partition}"),
        type_code: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        name: if partition == 1 { "EFI system partition".into() } else { String::new() },
        browsable: note.is_empty(),
        note: note.into(),
    };
    let rows = vec![
        row(1, 1 << 20, 512 << 20, "vfat", "EFI", ""),
        row(2, 513 << 20, 90 << 30, "ext4", "root", ""),
        row(3, (90 << 30) + (513 << 20), 8 << 30, "swap", "", "a swap area: it has no files"),
    ];
    page(rows, 0, 100)
}

/// A page of rows.
pub fn page<T>(rows: Vec<T>, after: u64, limit: usize) -> Findings<T> {
    let after = usize::try_from(after).unwrap();
    let more = rows.len() > after + limit;
    let items = rows.into_iter().skip(after).take(limit).collect();
    let next = more.then(|| (after + limit).to_string());
    Findings { items, next, notes: Vec::new(), unread: Vec::new() }
}

fn row((path, kind, bytes): (&[u8], FileKind, u64)) -> FileRow {
    let name = path.rsplit(|b| *b == b'/').next().unwrap();
    FileRow {
        partition: ROOT,
        name: shown(name),
        path: shown(path),
        raw: path.into(),
        kind,
        mode: if kind == FileKind::Folder { "0755" } else { "0644" }.into(),
        uid: if path.starts_with(b"/home/ada") { 1000 } else { 0 },
        gid: if path.starts_with(b"/home/ada") { 1000 } else { 0 },
        bytes,
        modified: "2026-11-02T09:30:00Z".into(),
        target: (kind == FileKind::Symlink).then(|| "/etc/nginx/sites-available/default".into()),
    }
}

fn refuse_others(partition: Option<&PartId>) -> Result<()> {
    match partition {
        Some(&ROOT) => Ok(()),
        Some(PartId::Partition(1)) => {
            Err(ApiError::failed("the kernel does not mount it as vfat: try a virtual machine"))
        }
        Some(PartId::Partition(3)) => {
            Err(ApiError::refused("partition 3 has no files: a swap area: it has no files"))
        }
        Some(id) => Err(ApiError::not_found(format!("the point has no {}", id.described()))),
        None => Err(ApiError::refused("say which partition, as PARTITION:PATH; those with files: 1, 2")),
    }
}

pub fn list(request: &FilesRequest) -> Result<Findings<FileRow>> {
    refuse_others(request.partition.as_ref())?;
    let asked = request.path.as_bytes();
    let asked = asked.strip_suffix(b"/").unwrap_or(asked);
    let found = FILES.iter().find(|(path, ..)| *path == asked);
    match found {
        None if !asked.is_empty() => {
            return Err(ApiError::not_found(format!("the point has no {}", shown(asked))));
        }
        Some(file) if file.1 != FileKind::Folder => return Ok(page(vec![row(*file)], 0, 1)),
        _ => {}
    }
    let name = |path: &'static [u8]| {
        let rest = path.strip_prefix(asked)?.strip_prefix(b"/")?;
        (!rest.contains(&b'/')).then_some(rest)
    };
    let after = request.after.as_ref().map(|after| after.as_bytes());
    let mut rows: Vec<_> =
        FILES.iter().filter(|(path, ..)| name(path) > after).map(|file| row(*file)).collect();
    rows.sort_by(|a, b| a.raw.cmp(&b.raw));
    let mut page = page(rows, 0, request.limit);
    if page.next.is_some() {
        let last = page.items.last().unwrap().raw.as_bytes();
        page.next = Some(blxrep::model::byte_text::ByteText::from(name_of(last)).to_string());
    }
    Ok(page)
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap()
}

pub fn find(request: &FindRequest) -> Result<Findings<FileRow>> {
    if request.partition.is_some() {
        refuse_others(request.partition.as_ref())?;
    }
    let pattern = request.pattern.as_bytes();
    let fits = |path: &[u8]| {
        let name = if pattern.contains(&b'/') { path } else { name_of(path) };
        glob::matches(pattern, name)
    };
    let rows = FILES.iter().filter(|(path, ..)| fits(path)).map(|file| row(*file)).collect();
    Ok(page(rows, request.after, request.limit))
}

pub fn diff(request: &DiffRequest) -> Findings<ChangeRow> {
    let change = |index: usize, change, what: &[&str]| {
        let row = row(FILES[index]);
        let what = what.iter().map(|text| (*text).to_owned()).collect();
        ChangeRow { partition: ROOT, path: row.path, raw: row.raw, kind: Some(row.kind), change, what }
    };
    let rows = vec![
        change(3, How::Changed, &[]),
        change(4, How::Metadata, &["mode", "mtime"]),
        change(9, How::Removed, &[]),
        change(12, How::Added, &[]),
    ];
    page(rows, request.after, request.limit)
}
