//! Members of md arrays as bytes: superblocks of version 0.90 and of 1.0, 1.1 and 1.2.
//!
//! A member of a mirror has all of the array's content by itself. The bytes are hostile: a superblock with a wrong
//! checksum or at another place than it says opens nothing. Sources: Linux `include/uapi/linux/raid/md_p.h`,
//! `drivers/md/md.c`.

use super::partition_table::{Fetch, u32_at, u64_at, uuid};
use super::superblock::text;
use std::ops::Range;

const MAGIC: u32 = 0xa92b_4efc;
/// Both kinds are read in this length.
const SUPERBLOCK: usize = 4096;
const SECTOR_BYTES: u64 = super::units::SECTOR_BYTES;
/// Of a superblock 1: what the kernel does not take for plain content.
const RECOVERING: u32 = 0x2;
const RESHAPING: u32 = 0x4;
const BAD_BLOCKS: u32 = 0x8;
/// Roles from here on are those of spares, of faulty members and of journals.
const NO_ROLE: u16 = 0xff00;

/// A superblock of md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    raw: Vec<u8>,
    /// Where it was found.
    at: u64,
    old: bool,
}

/// A member of an array, as its superblock has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Of the array.
    pub uuid: String,
    /// The array's name without the host's. Empty if it has none.
    pub name: String,
    /// Grows with every change of the array: a member with less was left behind.
    pub events: u64,
    /// The member's bytes that are the content of the array, or why they are not.
    pub content: Result<Range<u64>, String>,
}

impl Superblock {
    /// Looks for a superblock of a member of `bytes` bytes.
    pub fn find(fetch: &mut Fetch<'_>, bytes: u64) -> Option<Self> {
        // 1.1 at the start, 1.2 after 4 KiB, 1.0 at least 8 KiB before the end, on a multiple of 4 KiB.
        let near_end = (bytes / SECTOR_BYTES).checked_sub(16).map(|sector| (sector & !7) * SECTOR_BYTES);
        // 0.90 in the last whole 64 KiB.
        let old = (bytes & !0xffff).checked_sub(0x1_0000);
        let new = [Some(0), Some(4096), near_end].into_iter().flatten().map(|at| (at, 1));
        new.chain(old.map(|at| (at, 0))).find_map(|(at, version)| {
            let raw = fetch(at, SUPERBLOCK)?;
            let matches = u32_at(&raw, 0)? == MAGIC && u32_at(&raw, 4)? == version;
            matches.then_some(Self { raw, at, old: version == 0 })
        })
    }

    /// Of the array.
    #[must_use]
    pub fn uuid(&self) -> String {
        let field = |range: Range<usize>| self.raw.get(range).unwrap_or_default();
        // The old one has it in two pieces.
        if self.old { uuid(&[field(20..24), field(52..64)].concat()) } else { uuid(field(16..32)) }
    }

    /// Bytes of the array's name, with the host's before it.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        if self.old { &[] } else { self.raw.get(32..64).unwrap_or_default() }
    }

    /// What it says of its member, which has `bytes` bytes.
    #[must_use]
    pub fn member(&self, bytes: u64) -> Member {
        let damaged = || Err("its superblock is damaged".to_owned());
        let label = text(self.label());
        Member {
            uuid: self.uuid(),
            name: label.split_once(':').map_or(label.as_str(), |(_, name)| name).to_owned(),
            events: u64_at(&self.raw, if self.old { 156 } else { 200 }).unwrap_or(0),
            content: if self.old { self.old_content() } else { self.content() }
                .unwrap_or_else(damaged)
                .and_then(|content| if content.end <= bytes { Ok(content) } else { damaged() }),
        }
    }

    fn content(&self) -> Option<Result<Range<u64>, String>> {
        let field = |at| u32_at(&self.raw, at);
        let roles = usize::try_from(field(220)?).ok()?;
        let summed = self.raw.get(..256 + 2 * roles)?;
        if self.sum(summed, 216) != field(216)?
            || u64_at(&self.raw, 144)?.checked_mul(SECTOR_BYTES)? != self.at
        {
            return None;
        }
        if let Some(why) = other_level(field(72)?) {
            return Some(Err(why));
        }
        let features = field(8)?;
        let number = usize::try_from(field(160)?).ok().filter(|number| *number < roles)?;
        let role = summed.get(256 + 2 * number..)?.first_chunk().map(|b| u16::from_le_bytes(*b))?;
        let unfit = [
            (role >= NO_ROLE, "a spare or faulty member of its array: it has no content of it"),
            (features & RECOVERING != 0, "its array was still being copied to it"),
            (features & RESHAPING != 0, "its array was being given another shape"),
            (features & BAD_BLOCKS != 0, "its array knows blocks of it that are bad"),
        ];
        if let Some((_, why)) = unfit.into_iter().find(|(is, _)| *is) {
            return Some(Err(why.to_owned()));
        }
        let start = u64_at(&self.raw, 128)?.checked_mul(SECTOR_BYTES)?;
        let length = u64_at(&self.raw, 80)?.checked_mul(SECTOR_BYTES).filter(|length| *length > 0)?;
        Some(Ok(start..start.checked_add(length)?))
    }

    fn old_content(&self) -> Option<Result<Range<u64>, String>> {
        const ACTIVE_AND_IN_SYNC: u32 = 0b110;
        const FAULTY: u32 = 1;
        let field = |word: usize| u32_at(&self.raw, 4 * word);
        if self.sum(&self.raw, 4 * 38) != field(38)? {
            return None;
        }
        if let Some(why) = other_level(field(7)?) {
            return Some(Err(why));
        }
        // The member's own number, and its state among those of all members.
        let number = usize::try_from(field(992)?).ok().filter(|number| *number < 27)?;
        let state = field(128 + 32 * number + 4)?;
        if state & ACTIVE_AND_IN_SYNC != ACTIVE_AND_IN_SYNC || state & FAULTY != 0 {
            return Some(Err("a spare or faulty member of its array: it has no content of it".to_owned()));
        }
        let length = u64::from(field(8)?) << 10;
        (length > 0 && length <= self.at).then_some(Ok(0..length))
    }

    /// The sum over all words, the one at `hole` being zero.
    fn sum(&self, bytes: &[u8], hole: usize) -> u32 {
        let (words, rest) = bytes.as_chunks::<4>();
        let last = rest.first_chunk().map_or(0, |b| u64::from(u16::from_le_bytes(*b)));
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum::<u64>() + last;
        let sum = sum - u64::from(u32_at(&self.raw, hole).unwrap_or(0));
        let [a, b, c, d, rest @ ..] = sum.to_le_bytes();
        let [e, f, g, h] = rest;
        u32::from_le_bytes([a, b, c, d]).wrapping_add(u32::from_le_bytes([e, f, g, h]))
    }
}

/// Why the content of an array of this level is not that of one member; `None` for a mirror.
fn other_level(level: u32) -> Option<String> {
    let name = match level.cast_signed() {
        1 => return None,
        -1 => "linear".to_owned(),
        -4 => "multipath".to_owned(),
        level @ 0..=10 => format!("raid{level}"),
        level => format!("level {level}"),
    };
    Some(format!("its array is a {name}: only those of mirrors (raid1) are opened"))
}
