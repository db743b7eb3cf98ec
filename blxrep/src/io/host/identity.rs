//! What makes a disk the same disk after a reboot. See [`DiskIdentity`].

use super::sysfs;
use crate::model::ids::DiskIdentity;
use crate::model::partition_table::TableId;
use std::path::Path;

/// Characters of an identity; the longest in use are NVMe names made of serial and model, about 150.
const MAX_IDENTITY: usize = 200;

/// The identity of the disk whose directory is `/sys/block/NAME`. A name from the configuration goes before
/// everything, because it is how the operator tells apart what the hardware does not.
pub(super) fn of(block: &Path, table: Option<&TableId>, name: Option<&str>) -> Option<DiskIdentity> {
    if let Some(name) = name {
        return Some(DiskIdentity::Named(name.to_owned()));
    }
    if let Some(wwn) = wwn(block) {
        return Some(DiskIdentity::Wwn(wwn));
    }
    if let Some(serial) = serial(block) {
        return Some(DiskIdentity::Serial(serial));
    }
    match table? {
        TableId::Gpt(guid) => {
            guid.chars().any(|c| !matches!(c, '0' | '-')).then(|| DiskIdentity::Gpt(guid.clone()))
        }
        TableId::Mbr(signature) => signature.clone().map(DiskIdentity::Mbr),
    }
}

/// NVMe has it at the disk, SCSI at the device.
fn wwn(block: &Path) -> Option<String> {
    ["wwid", "device/wwid"].iter().find_map(|name| clean(&sysfs::bytes(block, name)?))
}

fn serial(block: &Path) -> Option<String> {
    // dm and md: the id that their own metadata carries.
    let own = ["dm/uuid", "md/uuid", "serial"].iter().find_map(|name| clean(&sysfs::bytes(block, name)?));
    own.or_else(|| clean(page_80(&sysfs::bytes(block, "device/vpd_pg80")?)?)).or_else(|| {
        let serial = clean(&sysfs::bytes(block, "device/serial")?)?;
        // An NVMe controller's serial is shared by its namespaces.
        Some(match sysfs::number::<u32>(block, "nsid") {
            Some(namespace) => format!("{serial}-ns{namespace}"),
            None => serial,
        })
    })
}

/// The serial number in SCSI's vital product data, page 80h: a header of four bytes, the last two a length.
fn page_80(page: &[u8]) -> Option<&[u8]> {
    let (header, rest) = page.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    (header[1] == 0x80).then(|| rest.get(..length).unwrap_or(rest))
}

/// An identity as printable ASCII: blanks and the rest become `_`, as udev has it. `None` if it says nothing, as
/// the all-zero serials of cheap USB bridges do.
fn clean(raw: &[u8]) -> Option<String> {
    let words = raw.split(|byte| !byte.is_ascii_graphic()).filter(|word| !word.is_empty());
    let joined = words.map(String::from_utf8_lossy).collect::<Vec<_>>().join("_");
    let says = joined.chars().any(|c| c.is_alphanumeric() && c != '0');
    says.then(|| joined.chars().take(MAX_IDENTITY).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as the kernel would show it.
    fn block(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    fn identity(files: &[(&str, &[u8])]) -> Option<String> {
        let gpt = TableId::Gpt("04030201-0605".to_owned());
        of(block(files).path(), Some(&gpt), None).map(|identity| identity.to_string())
    }

    #[test]
    fn the_first_that_exists_is_taken() {
        let nvme: &[(&str, &[u8])] = &[("wwid", b"eui.0025385b21404e1c\n"), ("device/serial", b"S4EVNX0N\n")];
        assert_eq!(identity(nvme).unwrap(), "wwn:eui.0025385b21404e1c");
        let scsi: &[(&str, &[u8])] = &[
            ("device/wwid", b"t10.ATA     QEMU HARDDISK                 QM00001 \n"),
            ("device/vpd_pg80", b"\0\x80\0\x04ABCD"),
        ];
        assert_eq!(identity(scsi).unwrap(), "wwn:t10.ATA_QEMU_HARDDISK_QM00001");
        assert_eq!(identity(&scsi[1..]).unwrap(), "serial:ABCD");
        assert_eq!(identity(&[("serial", b"vol-0123")]).unwrap(), "serial:vol-0123");
        assert_eq!(identity(&[("dm/uuid", b"LVM-abc\n")]).unwrap(), "serial:LVM-abc");
        assert_eq!(identity(&[("serial", b"\n")]).unwrap(), "gpt:04030201-0605");
    }

    #[test]
    fn namespaces_of_one_controller_differ() {
        let files: &[(&str, &[u8])] = &[("device/serial", b"S4EVNX0N"), ("nsid", b"2\n")];
        assert_eq!(identity(files).unwrap(), "serial:S4EVNX0N-ns2");
    }

    #[test]
    fn what_says_nothing_is_no_identity() {
        assert_eq!(identity(&[("serial", b"000000000000\n")]).unwrap(), "gpt:04030201-0605");
        let empty = block(&[]);
        assert_eq!(of(empty.path(), Some(&TableId::Mbr(None)), None), None);
        assert_eq!(of(empty.path(), Some(&TableId::Gpt("00000000-0000".to_owned())), None), None);
        assert_eq!(of(empty.path(), None, None), None);
        let mbr = TableId::Mbr(Some("deadbeef".to_owned()));
        assert_eq!(of(empty.path(), Some(&mbr), None), Some(DiskIdentity::Mbr("deadbeef".to_owned())));
    }

    #[test]
    fn a_name_from_the_configuration_goes_first() {
        let dir = block(&[("serial", b"abc")]);
        assert_eq!(of(dir.path(), None, Some("data")), Some(DiskIdentity::Named("data".to_owned())));
    }

    #[test]
    fn hostile_pages_are_cut() {
        assert_eq!(page_80(b"\0\x80\xff\xffAB"), Some(&b"AB"[..]));
        assert_eq!(page_80(b"\0\x83\0\x02AB"), None);
        assert_eq!(page_80(b"\0"), None);
        assert_eq!(clean(&vec![b'x'; 5000]).unwrap().len(), MAX_IDENTITY);
        assert_eq!(clean(b"a\x1b[0m\xffb").unwrap(), "a_[0m_b");
    }
}
