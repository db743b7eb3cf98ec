//! Where the bytes of a part lie on its disk: a list of stretches, each in one piece or striped over several places.

use super::partition_table::Fetch;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Stretches of the disk, in the order of the part's bytes. All of them lie on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents(Vec<Extent>);

/// A stretch. None is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Extent {
    /// Its first byte in the part.
    at: u64,
    bytes: u64,
    way: Way,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    /// From this byte of the disk on.
    Straight(u64),
    /// Chunks of so many bytes, one from each column in turn.
    Striped {
        chunk: u64,
        /// First byte of each on the disk.
        columns: Vec<u64>,
        /// Bytes at the start of the columns that come before the stretch.
        skip: u64,
    },
}

impl Extent {
    const fn end(&self) -> u64 {
        self.at + self.bytes
    }

    /// The bytes of the disk from `at` on that lie in one piece, and are within this stretch.
    fn find(&self, at: u64) -> Range<u64> {
        let (within, left) = (at - self.at, self.end() - at);
        match &self.way {
            Way::Straight(start) => start + within..start + within + left,
            Way::Striped { chunk, columns, skip } => {
                let (number, offset) = ((skip + within) / chunk, (skip + within) % chunk);
                let count = columns.len() as u64;
                let column = usize::try_from(number % count).unwrap_or(0);
                let start = columns[column] + number / count * chunk + offset;
                start..start + left.min(chunk - offset)
            }
        }
    }

    /// What is left of it from `skip` bytes on, at most `bytes`, as the part's bytes from `at` on.
    fn cut(&self, skip: u64, bytes: u64, at: u64) -> Self {
        let way = match &self.way {
            Way::Straight(start) => Way::Straight(start + skip),
            Way::Striped { chunk, columns, skip: before } => {
                Way::Striped { chunk: *chunk, columns: columns.clone(), skip: before + skip }
            }
        };
        Self { at, bytes: bytes.min(self.bytes - skip), way }
    }
}

impl From<Range<u64>> for Extents {
    fn from(range: Range<u64>) -> Self {
        let mut extents = Self::default();
        extents.push(range.end.saturating_sub(range.start), Way::Straight(range.start));
        extents
    }
}

impl Extents {
    /// `columns`, all of one length and each in one piece, in chunks by turns. `None` if they are not so.
    #[must_use]
    pub fn striped(chunk: u64, columns: &[Self]) -> Option<Self> {
        if let [only] = columns {
            return Some(only.clone());
        }
        let bytes = columns.first()?.bytes();
        if chunk == 0 || !bytes.is_multiple_of(chunk) || columns.iter().any(|column| column.bytes() != bytes)
        {
            return None;
        }
        let starts = columns.iter().map(|column| match &column.0[..] {
            [Extent { way: Way::Straight(start), .. }] => Some(*start),
            _ => None,
        });
        let columns: Vec<u64> = starts.collect::<Option<_>>()?;
        let mut extents = Self::default();
        let bytes = bytes.checked_mul(columns.len() as u64)?;
        extents.push(bytes, Way::Striped { chunk, columns, skip: 0 });
        Some(extents)
    }

    /// Adds what follows.
    pub fn append(&mut self, more: Self) {
        for extent in more.0 {
            self.push(extent.bytes, extent.way);
        }
    }

    fn push(&mut self, bytes: u64, way: Way) {
        let at = self.bytes();
        match (self.0.last_mut(), &way) {
            _ if bytes == 0 => {}
            (Some(Extent { bytes: before, way: Way::Straight(last), .. }), Way::Straight(start))
                if *last + *before == *start =>
            {
                *before += bytes;
            }
            _ => self.0.push(Extent { at, bytes, way }),
        }
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.last().map_or(0, Extent::end)
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many places of the disk it is made of.
    #[must_use]
    pub fn count(&self) -> usize {
        let places = self.0.iter().map(|extent| match &extent.way {
            Way::Straight(_) => 1,
            Way::Striped { columns, .. } => columns.len(),
        });
        places.sum()
    }

    /// Where on the disk the bytes from `at` on lie, as far as they do so in one piece. `None` at the end.
    #[must_use]
    pub fn find(&self, at: u64) -> Option<Range<u64>> {
        let behind = self.0.partition_point(|extent| extent.at <= at);
        let extent = self.0.get(behind.checked_sub(1)?).filter(|extent| at < extent.end())?;
        Some(extent.find(at))
    }

    /// A part of this part. `None` unless it is within.
    #[must_use]
    pub fn slice(&self, range: Range<u64>) -> Option<Self> {
        if range.start > range.end || range.end > self.bytes() {
            return None;
        }
        let mut slice = Self::default();
        let first = self.0.partition_point(|extent| extent.end() <= range.start);
        for extent in self.0[first..].iter().take_while(|extent| extent.at < range.end) {
            let skip = range.start.saturating_sub(extent.at);
            let piece = extent.cut(skip, range.end - extent.at - skip, 0);
            slice.push(piece.bytes, piece.way);
        }
        Some(slice)
    }

    /// Reads `length` bytes of the part through what reads the disk.
    pub fn fetch(&self, fetch: &mut Fetch<'_>, at: u64, length: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.bytes())?;
        let (mut at, mut bytes) = (at, Vec::new());
        while at < end {
            let place = self.find(at)?;
            let piece = (place.end - place.start).min(end - at);
            bytes.extend(fetch(place.start, usize::try_from(piece).ok()?)?);
            at += piece;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The places of all bytes, one by one.
    fn places(extents: &Extents) -> Vec<u64> {
        (0..extents.bytes()).map(|at| extents.find(at).unwrap().start).collect()
    }

    #[test]
    fn stripes_take_turns() {
        let columns = [Extents::from(100..106), Extents::from(200..206)];
        let striped = Extents::striped(2, &columns).unwrap();
        assert_eq!(places(&striped), [100, 101, 200, 201, 102, 103, 202, 203, 104, 105, 204, 205]);
        assert_eq!(striped.find(1), Some(101..102));
        assert_eq!(striped.find(12), None);
        assert_eq!(Extents::striped(4, &columns), None, "a chunk would be cut");
        assert_eq!(Extents::striped(0, &columns), None);
        assert_eq!(Extents::striped(2, &[Extents::from(0..4), Extents::from(8..16)]), None);
        assert_eq!(Extents::striped(9, &columns[..1]), Some(columns[0].clone()), "one column is no stripe");
    }

    #[test]
    fn neighbours_are_one_stretch() {
        let mut extents = Extents::from(10..20);
        extents.append(Extents::from(20..30));
        extents.append(Extents::from(5..5));
        assert_eq!((extents.count(), extents.find(3)), (1, Some(13..30)));
    }

    proptest! {
        #[test]
        fn slices_have_the_bytes_of_the_whole(
            stretches in prop::collection::vec((1u64..9, 0u64..50, 1u64..4), 0..6),
            from in 0u64..70, length in 0u64..70,
        ) {
            let mut all = Extents::default();
            for (units, start, columns) in stretches {
                let columns: Vec<_> =
                    (0..columns).map(|n| Extents::from(start + 100 * n..start + 100 * n + 3 * units)).collect();
                all.append(Extents::striped(3, &columns).unwrap());
            }
            let (places_of_all, end) = (places(&all), from + length);
            match all.slice(from..end) {
                Some(slice) => {
                    let wanted = &places_of_all[from as usize..end as usize];
                    prop_assert_eq!(&places(&slice), wanted);
                    let mut read = |at: u64, n: usize| Some((at..at + n as u64).map(|at| at as u8).collect());
                    let wanted: Vec<u8> = wanted.iter().map(|at| *at as u8).collect();
                    prop_assert_eq!(all.fetch(&mut read, from, length as usize), Some(wanted));
                }
                None => prop_assert!(end > all.bytes()),
            }
        }
    }
}
