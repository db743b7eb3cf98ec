//! Partition tables as bytes: GPT, and MBR with its chain of extended tables.
//!
//! Kernels without a parser for a table show no partitions, and a table may lie on a disk that nobody partitioned
//! in this kernel's eyes; so it is read here too. The bytes are hostile: every count is bounded, every chain ends,
//! and every partition lies on the disk. Sources: UEFI specification 2.10, chapter 5; Linux `block/partitions/`.

use super::units::SECTOR_BYTES;

/// Reads `length` bytes at a byte offset; `None` if that cannot be read.
pub type Fetch<'a> = dyn FnMut(u64, usize) -> Option<Vec<u8>> + 'a;

/// Most entries of a GPT that are read. Tables have 128; the kernel's devices end at 255.
const MAX_GPT_ENTRIES: u32 = 256;
/// The longest GPT entry. The specification allows any power of two; 128 is what exists.
const MAX_GPT_ENTRY_BYTES: u32 = 1024;
/// Most logical partitions. A chain of extended tables may be a circle; Linux stops at 100.
const MAX_LOGICAL: u32 = 100;

/// What tells a disk from others, as its table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableId {
    /// The disk's GUID, in lower case.
    Gpt(String),
    /// Eight hex digits; `None` if it is zero.
    Mbr(Option<String>),
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub id: TableId,
    pub entries: Vec<Entry>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub number: u32,
    pub first_sector: u64,
    pub sectors: u64,
    /// GPT type GUID or MBR type byte as `0x83`.
    pub kind: String,
    pub name: String,
}

/// The table of a disk of `disk_bytes` with logical blocks of `block` bytes.
pub fn parse(fetch: &mut Fetch<'_>, disk_bytes: u64, block: u32) -> Option<Table> {
    if !(512..=4096).contains(&block) || !block.is_power_of_two() {
        return None;
    }
    let disk = Disk { blocks: disk_bytes / u64::from(block), block: u64::from(block) };
    let sector = fetch(0, 512)?;
    let records = mbr_records(&sector)?;
    if records.iter().any(|record| record.kind == 0xee) {
        let table = disk.gpt(fetch, 1).or_else(|| disk.gpt(fetch, disk.blocks.checked_sub(1)?));
        if table.is_some() {
            return table;
        }
    }
    Some(disk.mbr(fetch, &sector, &records))
}

/// Geometry that every entry must fit.
struct Disk {
    blocks: u64,
    block: u64,
}

impl Disk {
    /// An entry for a range of logical blocks; `None` unless it lies on the disk.
    fn entry(&self, number: u32, first: u64, blocks: u64, kind: String, name: String) -> Option<Entry> {
        let end = first.checked_add(blocks)?;
        if blocks == 0 || first == 0 || end > self.blocks {
            return None;
        }
        let per_block = self.block / SECTOR_BYTES;
        Some(Entry { number, first_sector: first * per_block, sectors: blocks * per_block, kind, name })
    }

    /// The GPT whose header lies at `lba`, if it and its entries are whole.
    fn gpt(&self, fetch: &mut Fetch<'_>, lba: u64) -> Option<Table> {
        let header = fetch(lba.checked_mul(self.block)?, 512)?;
        let length = usize::try_from(u32_at(&header, 12)?).ok().filter(|n| (92..=512).contains(n))?;
        if header.get(..8)? != b"EFI PART" || u64_at(&header, 24)? != lba {
            return None;
        }
        let mut summed = header.get(..length)?.to_vec();
        summed.get_mut(16..20)?.fill(0);
        if crc32(&summed) != u32_at(&header, 16)? {
            return None;
        }
        let (first, count, size) = (u64_at(&header, 72)?, u32_at(&header, 80)?, u32_at(&header, 84)?);
        if count > MAX_GPT_ENTRIES || !(128..=MAX_GPT_ENTRY_BYTES).contains(&size) || !size.is_power_of_two()
        {
            return None;
        }
        let size = usize::try_from(size).ok()?;
        let bytes = fetch(first.checked_mul(self.block)?, size * usize::try_from(count).ok()?)?;
        if crc32(&bytes) != u32_at(&header, 88)? {
            return None;
        }
        let entries = (1..)
            .zip(bytes.chunks_exact(size))
            .filter_map(|(number, raw)| self.gpt_entry(number, raw))
            .collect();
        Some(Table { id: TableId::Gpt(guid(header.get(56..72)?)?), entries })
    }

    fn gpt_entry(&self, number: u32, raw: &[u8]) -> Option<Entry> {
        let kind = raw.get(..16).filter(|kind| **kind != [0; 16]).and_then(guid)?;
        let (first, last) = (u64_at(raw, 32)?, u64_at(raw, 40)?);
        let units: Vec<u16> =
            raw.get(56..128)?.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
        let blocks = last.checked_sub(first)?.checked_add(1)?;
        self.entry(number, first, blocks, kind, String::from_utf16_lossy(&units[..end]))
    }

    fn mbr(&self, fetch: &mut Fetch<'_>, sector: &[u8], records: &[Record]) -> Table {
        let signature = u32_at(sector, 440).filter(|id| *id != 0).map(|id| format!("{id:08x}"));
        let mut entries = Vec::new();
        for (number, record) in (1..).zip(records) {
            entries.extend(self.mbr_entry(number, 0, record));
        }
        if let Some(extended) = records.iter().find(|record| record.is_extended()) {
            self.logical(fetch, u64::from(extended.first), &mut entries);
        }
        Table { id: TableId::Mbr(signature), entries }
    }

    fn mbr_entry(&self, number: u32, base: u64, record: &Record) -> Option<Entry> {
        let kind = (record.kind != 0).then(|| format!("{:#04x}", record.kind))?;
        let first = base.checked_add(u64::from(record.first))?;
        self.entry(number, first, u64::from(record.blocks), kind, String::new())
    }

    /// Follows the chain of extended tables: each holds one partition and a link, the link relative to the first.
    fn logical(&self, fetch: &mut Fetch<'_>, start: u64, entries: &mut Vec<Entry>) {
        let mut at = start;
        let mut number = 5;
        for _ in 0..MAX_LOGICAL {
            if at == 0 || at >= self.blocks {
                return;
            }
            let Some(sector) = fetch(at * self.block, 512) else {
                return;
            };
            let Some(records) = mbr_records(&sector) else {
                return;
            };
            for record in records.iter().filter(|record| !record.is_extended()) {
                if let Some(entry) = self.mbr_entry(number, at, record) {
                    entries.push(entry);
                    number += 1;
                }
            }
            match records.iter().find(|record| record.is_extended()) {
                Some(link) => at = start + u64::from(link.first),
                None => return,
            }
        }
    }
}

/// One of the four records of an MBR.
struct Record {
    kind: u8,
    first: u32,
    blocks: u32,
}

impl Record {
    const fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The records of an MBR; `None` if the sector is none, but a filesystem's boot sector, say.
fn mbr_records(sector: &[u8]) -> Option<Vec<Record>> {
    let is_boot_sector =
        sector.get(54..57)? == b"FAT" || sector.get(82..85)? == b"FAT" || sector.get(3..7)? == b"NTFS";
    if sector.get(510..512)? != [0x55, 0xaa] || is_boot_sector {
        return None;
    }
    let raw = sector.get(446..510)?.as_chunks::<16>().0;
    if raw.iter().any(|record| !matches!(record[0], 0 | 0x80)) {
        return None;
    }
    raw.iter()
        .map(|record| {
            Some(Record { kind: record[4], first: u32_at(record, 8)?, blocks: u32_at(record, 12)? })
        })
        .collect()
}

/// A GUID as text. Its first three fields are little-endian.
fn guid(bytes: &[u8]) -> Option<String> {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes else {
        return None;
    };
    let rest: [u8; 8] = rest.try_into().ok()?;
    let head = [*d, *c, *b, *a, *f, *e, *h, *g];
    Some(uuid(&[head, rest].concat()))
}

/// Sixteen bytes as 8-4-4-4-12 hex digits.
#[must_use]
pub fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The CRC of IEEE 802.3, which GPT uses.
fn crc32(bytes: &[u8]) -> u32 {
    !crc(u32::MAX, bytes)
}

/// The same without its first and last step. Tables are small and read once: bit by bit is fast enough.
pub(super) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = seed;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    crc
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: usize = 8 << 20;
    const LINUX: [u8; 16] =
        [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

    fn read(image: &[u8]) -> impl FnMut(u64, usize) -> Option<Vec<u8>> {
        |at, length| image.get(usize::try_from(at).ok()?..)?.get(..length).map(<[u8]>::to_vec)
    }

    fn parsed(image: &[u8], block: u32) -> Option<Table> {
        parse(&mut read(image), image.len() as u64, block)
    }

    fn record(image: &mut [u8], sector: usize, index: usize, kind: u8, first: u32, blocks: u32) {
        let at = sector * 512 + 446 + index * 16;
        image[at + 4] = kind;
        image[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        image[at + 12..at + 16].copy_from_slice(&blocks.to_le_bytes());
        image[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    /// A GPT as `sgdisk` writes it: header at LBA 1, its copy at the end, entries at LBA 2 and before the copy.
    fn gpt(block: usize) -> Vec<u8> {
        let mut image = vec![0; DISK];
        record(&mut image, 0, 0, 0xee, 1, u32::MAX);
        let mut entries = vec![0; 128 * 128];
        for (index, (first, last, name)) in
            [(64u64, 127u64, "boot"), (128, 1023, "data ü")].iter().enumerate()
        {
            let entry = &mut entries[index * 2 * 128..][..128];
            entry[..16].copy_from_slice(&LINUX);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            entry[56..56 + name.len()].copy_from_slice(&name);
        }
        let last = DISK / block - 1;
        let entry_blocks = entries.len() / block;
        for (at, table) in [(1, 2), (last, last - entry_blocks)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[8..12].copy_from_slice(&0x1_0000u32.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(1 + last as u64 - at as u64).to_le_bytes());
            header[40..48].copy_from_slice(&(2 + entry_blocks as u64).to_le_bytes());
            header[48..56].copy_from_slice(&((last - entry_blocks - 1) as u64).to_le_bytes());
            header[56..72].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
            header[72..80].copy_from_slice(&(table as u64).to_le_bytes());
            header[80..84].copy_from_slice(&128u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let crc = crc32(&header);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            image[at * block..][..92].copy_from_slice(&header);
            image[table * block..][..entries.len()].copy_from_slice(&entries);
        }
        image
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_gpt_is_read_with_small_and_large_blocks() {
        for block in [512, 4096] {
            let table = parsed(&gpt(block), block as u32).unwrap();
            assert_eq!(table.id, TableId::Gpt("04030201-0605-0807-090a-0b0c0d0e0f10".to_owned()));
            let per_block = block as u64 / 512;
            let found: Vec<_> = table
                .entries
                .iter()
                .map(|e| (e.number, e.first_sector, e.sectors, e.name.as_str()))
                .collect();
            assert_eq!(
                found,
                [
                    (1, 64 * per_block, 64 * per_block, "boot"),
                    (3, 128 * per_block, 896 * per_block, "data ü")
                ]
            );
            assert_eq!(table.entries[0].kind, "0fc63daf-8483-4772-8e79-3d69d8477de4");
        }
    }

    #[test]
    fn util_linux_reads_the_same() {
        let mut mbr = vec![0; DISK];
        mbr[440..444].copy_from_slice(&0xdead_beefu32.to_le_bytes());
        record(&mut mbr, 0, 0, 0x83, 2048, 1000);
        record(&mut mbr, 0, 1, 0x05, 4000, 4000);
        record(&mut mbr, 4000, 0, 0x83, 63, 100);
        record(&mut mbr, 4000, 1, 0x05, 500, 200);
        record(&mut mbr, 4500, 0, 0x82, 63, 90);
        for image in [gpt(512), mbr] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            std::fs::write(&path, &image).unwrap();
            let told = std::process::Command::new("partx")
                .args(["--raw", "-g", "-o", "NR,START,SECTORS,TYPE"])
                .arg(&path)
                .output()
                .unwrap();
            let told = String::from_utf8(told.stdout).unwrap();
            let ours: Vec<String> = parsed(&image, 512)
                .unwrap()
                .entries
                .iter()
                .map(|e| {
                    format!("{} {} {} {}", e.number, e.first_sector, e.sectors, e.kind.replace("0x0", "0x"))
                })
                .collect();
            assert_eq!(told.lines().collect::<Vec<_>>(), ours);
        }
    }

    #[test]
    fn the_copy_at_the_end_stands_in_for_a_damaged_gpt() {
        let good = parsed(&gpt(512), 512);
        for at in [512 + 60, 1024 + 40] {
            let mut image = gpt(512);
            image[at] ^= 1;
            assert_eq!(parsed(&image, 512), good);
            let end = image.len() - 512 + 60;
            image[end] ^= 1;
            assert_eq!(
                parsed(&image, 512).unwrap().id,
                TableId::Mbr(None),
                "only the protective MBR is left"
            );
        }
    }

    #[test]
    fn an_mbr_is_read_with_its_logical_partitions() {
        let mut image = vec![0; DISK];
        image[440..444].copy_from_slice(&0xdead_beefu32.to_le_bytes());
        record(&mut image, 0, 0, 0x83, 2048, 1000);
        record(&mut image, 0, 1, 0x05, 4000, 4000);
        record(&mut image, 4000, 0, 0x83, 63, 100);
        record(&mut image, 4000, 1, 0x05, 500, 200);
        record(&mut image, 4500, 0, 0x82, 63, 90);
        let table = parsed(&image, 512).unwrap();
        assert_eq!(table.id, TableId::Mbr(Some("deadbeef".to_owned())));
        let found: Vec<_> =
            table.entries.iter().map(|e| (e.number, e.first_sector, e.sectors, e.kind.as_str())).collect();
        assert_eq!(
            found,
            [(1, 2048, 1000, "0x83"), (2, 4000, 4000, "0x05"), (5, 4063, 100, "0x83"), (6, 4563, 90, "0x82")]
        );
    }

    #[test]
    fn a_circle_of_extended_tables_ends() {
        let mut image = vec![0; DISK];
        record(&mut image, 0, 0, 0x0f, 100, 4000);
        record(&mut image, 100, 0, 0x83, 10, 10);
        record(&mut image, 100, 1, 0x05, 0, 4000);
        assert_eq!(parsed(&image, 512).unwrap().entries.len(), 101);
    }

    #[test]
    fn partitions_beyond_the_disk_are_left_out() {
        let mut image = vec![0; DISK];
        record(&mut image, 0, 0, 0x83, 2048, u32::MAX);
        record(&mut image, 0, 1, 0x83, u32::MAX, 10);
        record(&mut image, 0, 2, 0x83, 0, 10);
        assert_eq!(parsed(&image, 512).unwrap().entries, []);
    }

    #[test]
    fn a_fat_boot_sector_and_noise_are_no_tables() {
        let mut image = vec![0; DISK];
        record(&mut image, 0, 0, 0x83, 2048, 10);
        image[82..90].copy_from_slice(b"FAT32   ");
        assert_eq!(parsed(&image, 512), None);
        assert_eq!(parsed(&vec![0; DISK], 512), None);
        assert_eq!(parsed(&vec![0xff; DISK], 512), None);
        assert_eq!(parsed(&[0; 100], 512), None);
    }

    proptest! {
        #[test]
        fn a_damaged_table_gives_an_answer_within_the_disk(
            edits in prop::collection::vec((0usize..20_000, any::<u8>()), 1..20), mbr in any::<bool>()
        ) {
            let mut image = gpt(512);
            for (at, value) in edits {
                image[if mbr { at % 512 } else { at }] = value;
            }
            for entry in parsed(&image, 512).into_iter().flat_map(|table| table.entries) {
                prop_assert!((entry.first_sector + entry.sectors) * 512 <= DISK as u64);
            }
        }
    }
}
