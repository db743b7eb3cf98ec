//! The bytes of a pinned record: two copies that are written in turn, so that a SIGKILL while one is written leaves the
//! other.
//!
//! A copy is, little-endian: magic, sequence number, length, body, CRC-32C of all that. The valid copy with the
//! higher sequence number counts. The layout is fixed by hand and changes only with the ABI version.

use crate::model::ids::{DiskIdentity, Epoch, PointId};
use crate::model::tracking::{AGENT_WORDS, Accounting, Baseline, EpochRecord, PerClass};
use crate::model::units::GranuleSize;

/// Bytes of one copy; a record is at most half as long.
pub const COPY_BYTES: usize = 4096;
/// Longest text in a record: identities and boot ids are some tens of bytes.
const MAX_TEXT: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"BLXEPOCH");
/// Magic, sequence, length.
const HEADER: usize = 24;

/// One copy, ready to be stored.
pub fn encode(sequence: u64, record: &EpochRecord) -> Option<[u8; COPY_BYTES]> {
    let body = body(record)?;
    let mut copy = [0; COPY_BYTES];
    let end = HEADER + body.len();
    copy.get(end..end + 4)?;
    copy[..8].copy_from_slice(&MAGIC.to_le_bytes());
    copy[8..16].copy_from_slice(&sequence.to_le_bytes());
    copy[16..24].copy_from_slice(&u64::try_from(body.len()).ok()?.to_le_bytes());
    copy[HEADER..end].copy_from_slice(&body);
    let sum = crc32c::crc32c(&copy[..end]);
    copy[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    Some(copy)
}

/// Sequence number and record of a copy; `None` if it is not whole.
pub fn decode(copy: &[u8; COPY_BYTES]) -> Option<(u64, EpochRecord)> {
    let mut reader = Reader(copy);
    if reader.u64()? != MAGIC {
        return None;
    }
    let sequence = reader.u64()?;
    let end = usize::try_from(reader.u64()?).ok()?.checked_add(HEADER)?;
    let sum = copy.get(end..end.checked_add(4)?)?;
    if crc32c::crc32c(&copy[..end]).to_le_bytes() != sum {
        return None;
    }
    let mut body = Reader(&copy[HEADER..end]);
    let record = read_body(&mut body)?;
    body.0.is_empty().then_some((sequence, record))
}

fn body(record: &EpochRecord) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(1024);
    out.extend(record.epoch.0.to_le_bytes());
    let (kind, text) = identity_parts(&record.identity);
    put(&mut out, kind);
    put_text(&mut out, text)?;
    put(&mut out, u64::from(record.device.0));
    put(&mut out, u64::from(record.device.1));
    put(&mut out, record.disk_bytes);
    put(&mut out, u64::from(record.granule.shift()));
    put_text(&mut out, &record.boot_id)?;
    put_option(&mut out, record.diskseq);
    put_baseline(&mut out, &record.baseline);
    put_option(&mut out, record.acknowledged.map(|p| p.0));
    put_option(&mut out, record.open.map(|p| p.0));
    record.agent_words.iter().for_each(|word| put(&mut out, *word));
    put_text(&mut out, shortened(record.gap.as_deref().unwrap_or("")))?;
    put_option(&mut out, record.matched.map(|p| p.0));
    Some(out)
}

fn read_body(r: &mut Reader<'_>) -> Option<EpochRecord> {
    Some(EpochRecord {
        epoch: Epoch(u128::from(r.u64()?) | (u128::from(r.u64()?) << 64)),
        identity: read_identity(r)?,
        device: (u32::try_from(r.u64()?).ok()?, u32::try_from(r.u64()?).ok()?),
        disk_bytes: r.u64()?,
        granule: GranuleSize::from_shift(u32::try_from(r.u64()?).ok()?)?,
        boot_id: r.text()?,
        diskseq: r.option()?,
        baseline: read_baseline(r)?,
        acknowledged: r.option()?.map(PointId),
        open: r.option()?.map(PointId),
        agent_words: r.words::<AGENT_WORDS>()?,
        // Records from before there were rescans end here.
        gap: if r.0.is_empty() { None } else { Some(r.text()?).filter(|gap| !gap.is_empty()) },
        matched: if r.0.is_empty() { None } else { r.option()?.map(PointId) },
    })
}

/// As much of a reason as there is room for.
fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn put_baseline(out: &mut Vec<u8>, b: &Baseline) {
    let per_class: [&PerClass; 3] = [&b.offset, &b.stat_sectors, &b.orphan_sectors];
    per_class.into_iter().flatten().for_each(|word| put(out, *word));
    let words = [b.orphan_requests, b.unlocatable, b.table_full, b.beyond_end, b.disk_bytes];
    words.into_iter().for_each(|word| put(out, word));
    b.accounting.iter().for_each(|a| put(out, u64::from(*a == Accounting::NotAccounted)));
}

fn read_baseline(r: &mut Reader<'_>) -> Option<Baseline> {
    let (offset, stat_sectors, orphan_sectors) = (r.words()?, r.words()?, r.words()?);
    let [orphan_requests, unlocatable, table_full, beyond_end, disk_bytes] = r.words()?;
    let mut accounting = [Accounting::Accounted; blxrep_ebpf::class::COUNT];
    for class in &mut accounting {
        *class = if r.u64()? == 0 { Accounting::Accounted } else { Accounting::NotAccounted };
    }
    Some(Baseline {
        offset,
        stat_sectors,
        orphan_requests,
        orphan_sectors,
        unlocatable,
        table_full,
        beyond_end,
        accounting,
        disk_bytes,
    })
}

fn identity_parts(identity: &DiskIdentity) -> (u64, &str) {
    match identity {
        DiskIdentity::Wwn(v) => (1, v),
        DiskIdentity::Serial(v) => (2, v),
        DiskIdentity::Gpt(v) => (3, v),
        DiskIdentity::Mbr(v) => (4, v),
        DiskIdentity::Named(v) => (5, v),
    }
}

fn read_identity(r: &mut Reader<'_>) -> Option<DiskIdentity> {
    let kind = r.u64()?;
    let text = r.text()?;
    Some(match kind {
        1 => DiskIdentity::Wwn(text),
        2 => DiskIdentity::Serial(text),
        3 => DiskIdentity::Gpt(text),
        4 => DiskIdentity::Mbr(text),
        5 => DiskIdentity::Named(text),
        _ => return None,
    })
}

fn put(out: &mut Vec<u8>, word: u64) {
    out.extend(word.to_le_bytes());
}

fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    put(out, u64::from(value.is_some()));
    put(out, value.unwrap_or(0));
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    if text.len() > MAX_TEXT {
        return None;
    }
    put(out, u64::try_from(text.len()).ok()?);
    out.extend(text.as_bytes());
    Some(())
}

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u64(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.u64()?;
        }
        Some(words)
    }

    fn option(&mut self) -> Option<Option<u64>> {
        let (some, value) = (self.u64()?, self.u64()?);
        Some((some != 0).then_some(value))
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.u64()?).ok().filter(|len| *len <= MAX_TEXT)?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EpochRecord {
        EpochRecord {
            epoch: Epoch(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
            identity: DiskIdentity::Wwn("eui.0025388b01234567".into()),
            device: (259, 300),
            disk_bytes: 1 << 40,
            granule: GranuleSize::default(),
            boot_id: "5e2c1e7a-3c2b-4f0e-9f45-0a4f3c1d2b6e".into(),
            diskseq: Some(17),
            baseline: Baseline {
                offset: [1, u64::MAX],
                stat_sectors: [3, 4],
                orphan_requests: 5,
                orphan_sectors: [6, 7],
                unlocatable: 8,
                table_full: 9,
                beyond_end: 10,
                accounting: [Accounting::Accounted, Accounting::NotAccounted],
                disk_bytes: 1 << 40,
            },
            acknowledged: Some(PointId(7)),
            open: None,
            agent_words: [1, 2, 3, 4, 5, 6, 7, 8],
            gap: Some("the host was rebooted".to_owned()),
            matched: Some(PointId(7)),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let copy = encode(42, &record()).unwrap();
        assert_eq!(decode(&copy), Some((42, record())));
    }

    #[test]
    fn every_flipped_bit_and_every_half_written_copy_is_refused() {
        let copy = encode(42, &record()).unwrap();
        let used = HEADER + body(&record()).unwrap().len() + 4;
        for bit in 0..used * 8 {
            let mut bad = copy;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
        let newer = encode(43, &EpochRecord { open: Some(PointId(9)), ..record() }).unwrap();
        for cut in 1..used {
            let mut torn = copy;
            torn[..cut].copy_from_slice(&newer[..cut]);
            let read = decode(&torn);
            assert!(read.is_none() || read == decode(&copy) || read == decode(&newer), "cut at {cut}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = EpochRecord { identity: DiskIdentity::Named("x".repeat(MAX_TEXT + 1)), ..record() };
        assert!(encode(1, &long).is_none());
        let reason = EpochRecord { gap: Some("é".repeat(MAX_TEXT)), ..record() };
        let kept = decode(&encode(1, &reason).unwrap()).unwrap().1;
        assert_eq!(kept.gap, Some("é".repeat(MAX_TEXT / 2)));
        assert!(decode(&[0; COPY_BYTES]).is_none());
    }
}
