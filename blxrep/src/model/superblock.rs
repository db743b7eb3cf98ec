//! What lies on a disk or partition, told by the magic numbers of its superblock. Names are those of `blkid`.
//!
//! Members of something larger (md, LVM, LUKS) come first: a mirror's member may look like the filesystem on it.
//! The bytes are hostile; only fixed places are read.

use super::partition_table::{Fetch, u32_at, uuid};
use super::{lvm, md};

/// A filesystem, swap area or member of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub kind: &'static str,
    /// Empty if it has none.
    pub uuid: String,
    pub label: String,
}

/// What lies in a space of `bytes`.
pub fn detect(fetch: &mut Fetch<'_>, bytes: u64) -> Option<Superblock> {
    // Every superblock but btrfs's and the md ones at the end lies in the first 8 KiB.
    let head = fetch(0, usize::try_from(bytes.min(8 << 10)).ok()?)?;
    md(fetch, bytes)
        .or_else(|| lvm(&head))
        .or_else(|| luks(&head))
        .or_else(|| xfs(&head))
        .or_else(|| ext(&head))
        .or_else(|| btrfs(fetch))
        .or_else(|| swap(fetch, &head))
        .or_else(|| vfat(&head))
}

fn found(kind: &'static str, uuid: String, label: &[u8]) -> Option<Superblock> {
    Some(Superblock { kind, uuid, label: text(label) })
}

/// Bytes up to the first NUL as text, without surrounding blanks or anything that would upset a terminal.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let clean: String = String::from_utf8_lossy(&bytes[..end]).chars().filter(|c| !c.is_control()).collect();
    clean.trim().to_owned()
}

fn ext(head: &[u8]) -> Option<Superblock> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    // What ext3 knew: filetype, recover, meta_bg; sparse_super, large_file, btree_dir.
    const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
    let sb = head.get(1024..2048)?;
    if sb.get(0x38..0x3a)? != [0x53, 0xef] {
        return None;
    }
    let (compat, incompat, ro_compat) = (u32_at(sb, 0x5c)?, u32_at(sb, 0x60)?, u32_at(sb, 0x64)?);
    let journal = compat & HAS_JOURNAL != 0;
    let kind = match (incompat & !EXT3_INCOMPAT, ro_compat & !EXT3_RO_COMPAT) {
        (bits, _) if bits & JOURNAL_DEVICE != 0 => "jbd",
        (0, 0) if journal => "ext3",
        (0, 0) => "ext2",
        _ => "ext4",
    };
    found(kind, uuid(sb.get(0x68..0x78)?), sb.get(0x78..0x88)?)
}

fn xfs(head: &[u8]) -> Option<Superblock> {
    if head.get(..4)? != b"XFSB" {
        return None;
    }
    found("xfs", uuid(head.get(32..48)?), head.get(108..120)?)
}

fn btrfs(fetch: &mut Fetch<'_>) -> Option<Superblock> {
    let sb = fetch(64 << 10, 4096)?;
    if sb.get(64..72)? != b"_BHRfS_M" {
        return None;
    }
    found("btrfs", uuid(sb.get(32..48)?), sb.get(0x12b..0x22b)?)
}

/// The signature ends the first page, and pages are of several sizes.
fn swap(fetch: &mut Fetch<'_>, head: &[u8]) -> Option<Superblock> {
    let signed = [4 << 10, 8 << 10, 16 << 10, 64 << 10].into_iter().any(|page: u64| {
        let end = fetch(page - 512, 512);
        end.is_some_and(|bytes| matches!(bytes.last_chunk(), Some(b"SWAPSPACE2" | b"SWAP-SPACE")))
    });
    if !signed {
        return None;
    }
    found("swap", uuid(head.get(1036..1052)?), head.get(1052..1068)?)
}

fn lvm(head: &[u8]) -> Option<Superblock> {
    let label = lvm::Label::find(head)?;
    // LVM's own grouping of its 32 characters.
    let ends = [6, 10, 14, 18, 22, 26, 32];
    let groups: Option<Vec<&str>> =
        ends.iter().zip([0].iter().chain(&ends)).map(|(end, start)| label.id.get(*start..*end)).collect();
    found("LVM2_member", groups.map(|groups| groups.join("-")).unwrap_or_default(), &[])
}

fn luks(head: &[u8]) -> Option<Superblock> {
    if head.get(..6)? != b"LUKS\xba\xbe" {
        return None;
    }
    let label = if head.get(6..8)? == [0, 2] { head.get(24..72)? } else { &[] };
    found("crypto_LUKS", text(head.get(168..208)?), label)
}

fn md(fetch: &mut Fetch<'_>, bytes: u64) -> Option<Superblock> {
    let superblock = md::Superblock::find(fetch, bytes)?;
    found("linux_raid_member", superblock.uuid(), superblock.label())
}

fn vfat(head: &[u8]) -> Option<Superblock> {
    if head.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let (serial, label) = match (head.get(82..87)?, head.get(54..58)?) {
        (b"FAT32", _) => (67, 71),
        (_, b"FAT1" | b"FAT ") => (39, 43),
        _ => return None,
    };
    let id = u32_at(head, serial)?;
    let label = head.get(label..label + 11).filter(|label| *label != b"NO NAME    ").unwrap_or_default();
    found("vfat", format!("{:04X}-{:04X}", id >> 16, id & 0xffff), label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found_in(image: &[u8]) -> Option<Superblock> {
        let mut fetch = |at, length| {
            let start = usize::try_from(at).ok()?;
            image.get(start..)?.get(..length).map(<[u8]>::to_vec)
        };
        detect(&mut fetch, image.len() as u64)
    }

    fn with(size: usize, pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; size];
        for (at, bytes) in pieces {
            image[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    const STARTS: &[&[u8]] =
        &[b"XFSB", b"LUKS\xba\xbe\0\x02", b"LABELONE", &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]];

    // The filesystems that can be made without privileges are compared with blkid in `tests/host.rs`.

    #[test]
    fn members_of_arrays_come_before_what_they_hold() {
        let id: Vec<u8> = (1..17).collect();
        let magic = 0xa92b_4efcu32.to_le_bytes();
        let ext = [0x53, 0xef];
        for at in [0, 4096, (1 << 20) - 8192] {
            let image = with(
                1 << 20,
                &[(1080, &ext), (at, &magic), (at + 4, &[1]), (at + 16, &id), (at + 32, b"host:0")],
            );
            let member = found_in(&image).unwrap();
            assert_eq!((member.kind, member.label.as_str()), ("linux_raid_member", "host:0"));
            assert_eq!(member.uuid, "01020304-0506-0708-090a-0b0c0d0e0f10");
        }
        let at = (1 << 20) - 65536;
        let image = with(1 << 20, &[(at, &magic), (at + 20, &id[..4]), (at + 52, &id[4..])]);
        assert_eq!(found_in(&image).unwrap().uuid, "01020304-0506-0708-090a-0b0c0d0e0f10");
    }

    #[test]
    fn lvm_and_luks_are_known() {
        let uuid = b"abcdefGHIJklmnOPQRstuvWXYZ012345";
        let image = with(
            1 << 20,
            &[(512, b"LABELONE"), (512 + 20, &[32]), (512 + 24, b"LVM2 001"), (512 + 32, uuid)],
        );
        let member = found_in(&image).unwrap();
        assert_eq!(
            (member.kind, member.uuid.as_str()),
            ("LVM2_member", "abcdef-GHIJ-klmn-OPQR-stuv-WXYZ-012345")
        );
        let image = with(1 << 20, &[(0, b"LUKS\xba\xbe\0\x02"), (24, b"vault"), (168, b"1234-abcd")]);
        let luks = found_in(&image).unwrap();
        assert_eq!(
            (luks.kind, luks.uuid.as_str(), luks.label.as_str()),
            ("crypto_LUKS", "1234-abcd", "vault")
        );
    }

    #[test]
    fn fat_is_known_and_its_missing_label_is_none() {
        let end: &[u8] = &[0x55, 0xaa];
        let serial = 0xabcd_1234u32.to_le_bytes();
        let fat32 = with(65536, &[(510, end), (82, b"FAT32   "), (67, &serial), (71, b"NO NAME    ")]);
        let found = found_in(&fat32).unwrap();
        assert_eq!((found.kind, found.uuid.as_str(), found.label.as_str()), ("vfat", "ABCD-1234", ""));
        let fat16 = with(65536, &[(510, end), (54, b"FAT16   "), (39, &serial), (43, b"EFI        ")]);
        assert_eq!(found_in(&fat16).unwrap().label, "EFI");
    }

    #[test]
    fn a_label_cannot_upset_a_terminal() {
        let image = with(1 << 20, &[(0, b"XFSB"), (108, b"a\x1b[31mb\xff")]);
        assert_eq!(found_in(&image).unwrap().label, "a[31mb\u{fffd}");
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(found_in(&[]), None);
        assert_eq!(found_in(&[0; 512]), None);
        assert_eq!(found_in(&vec![0; 1 << 20]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            start in prop::sample::select(STARTS),
        ) {
            let _ = found_in(&[start, &bytes].concat());
        }
    }
}
