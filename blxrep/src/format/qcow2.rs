//! The tables of a qcow2 image, version 3, as QEMU's `docs/interop/qcow2.rst` says: clusters of 64 KiB, nothing
//! compressed, no backing file, every cluster in use once. All integers are big-endian. Pure.

/// log2 of a cluster's bytes.
const CLUSTER_SHIFT: u32 = 16;
/// Bytes of a cluster.
pub const CLUSTER_BYTES: u64 = 1 << CLUSTER_SHIFT;
/// The same as a length.
pub const CLUSTER_LENGTH: usize = 1 << CLUSTER_SHIFT;
/// Entries of a table that fills a cluster.
const ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Bytes of the disk that one table of the second level maps.
pub const TABLE_SPAN: u64 = ENTRIES * CLUSTER_BYTES;
/// Clusters whose counts (16 bits each) fill a cluster.
const COUNTS: u64 = CLUSTER_BYTES / 2;
/// The cluster that an entry names is used nowhere else.
const COPIED: u64 = 1 << 63;
const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 104;

/// Where things are in an image, in clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub disk_bytes: u64,
    /// Entries of the first table, which is at cluster 1.
    pub first_entries: u64,
}

impl Layout {
    #[must_use]
    pub const fn new(disk_bytes: u64) -> Self {
        Self { disk_bytes, first_entries: disk_bytes.div_ceil(TABLE_SPAN) }
    }

    /// The first cluster behind header and first table.
    #[must_use]
    pub const fn body_at(&self) -> u64 {
        1 + self.first_entries.div_ceil(ENTRIES)
    }
}

/// An entry for a cluster of the file.
#[must_use]
pub const fn entry(cluster: u64) -> u64 {
    cluster << CLUSTER_SHIFT | COPIED
}

/// A table of entries, padded to whole clusters.
#[must_use]
pub fn table(entries: &[u64]) -> Vec<u8> {
    let mut out: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    out.resize(out.len().next_multiple_of(CLUSTER_LENGTH), 0);
    out
}

/// How the clusters of a file are counted that has `used` before its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The cluster of the table that names the blocks of counts; they follow it.
    pub table_at: u64,
    pub table_clusters: u64,
    pub blocks: u64,
}

impl Counts {
    #[must_use]
    pub const fn new(used: u64) -> Self {
        let (mut table_clusters, mut blocks) = (1, 1);
        // The counts count themselves.
        loop {
            let enough = (used + table_clusters + blocks).div_ceil(COUNTS);
            let clusters = enough.div_ceil(ENTRIES);
            if enough <= blocks && clusters <= table_clusters {
                return Self { table_at: used, table_clusters, blocks };
            }
            (table_clusters, blocks) = (clusters, enough);
        }
    }

    const fn blocks_at(&self) -> u64 {
        self.table_at + self.table_clusters
    }

    /// Clusters of the whole file.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.blocks_at() + self.blocks
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> Vec<u8> {
        let blocks: Vec<u64> = (self.blocks_at()..self.end()).map(|block| block << CLUSTER_SHIFT).collect();
        table(&blocks)
    }

    /// The block of counts at position `block`.
    #[must_use]
    pub fn block(&self, block: u64) -> Vec<u8> {
        let used = self.end().saturating_sub(block * COUNTS).min(COUNTS);
        let mut out = vec![0; CLUSTER_LENGTH];
        for count in out.as_chunks_mut::<2>().0.iter_mut().take(usize::try_from(used).unwrap_or(0)) {
            *count = 1u16.to_be_bytes();
        }
        out
    }
}

/// The cluster at the front of the file.
#[must_use]
pub fn header(layout: &Layout, counts: &Counts) -> Vec<u8> {
    let mut out = Vec::with_capacity(CLUSTER_LENGTH);
    let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_be_bytes());
    let long = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_be_bytes());
    word(&mut out, MAGIC);
    word(&mut out, VERSION);
    long(&mut out, 0); // no backing file
    word(&mut out, 0);
    word(&mut out, CLUSTER_SHIFT);
    long(&mut out, layout.disk_bytes);
    word(&mut out, 0); // not encrypted
    word(&mut out, u32::try_from(layout.first_entries).unwrap_or(u32::MAX));
    long(&mut out, CLUSTER_BYTES);
    long(&mut out, counts.table_at << CLUSTER_SHIFT);
    word(&mut out, u32::try_from(counts.table_clusters).unwrap_or(u32::MAX));
    word(&mut out, 0); // no snapshots
    long(&mut out, 0);
    for _ in 0..3 {
        long(&mut out, 0); // no features
    }
    word(&mut out, 4); // counts of 2^4 bits
    word(&mut out, HEADER_BYTES);
    out.resize(CLUSTER_LENGTH, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_count_every_cluster_and_themselves(used in 2u64..(1 << 34)) {
            let counts = Counts::new(used);
            prop_assert!(counts.blocks * COUNTS >= counts.end());
            prop_assert!(counts.table_clusters * ENTRIES >= counts.blocks);
            prop_assert!((counts.blocks - 1) * COUNTS < counts.end() + 2 * COUNTS, "not many too many");
        }
    }

    #[test]
    fn a_small_image_is_laid_out_so() {
        let layout = Layout::new(TABLE_SPAN + 512);
        assert_eq!((layout.first_entries, layout.body_at()), (2, 2));
        let counts = Counts::new(5);
        assert_eq!((counts.table_at, counts.end()), (5, 7));
        assert_eq!(counts.table()[..8], (6 * CLUSTER_BYTES).to_be_bytes());
        let block = counts.block(0);
        assert_eq!(block.as_chunks::<2>().0.iter().filter(|count| **count == [0, 1]).count(), 7);
        let header = header(&layout, &counts);
        assert_eq!(header[..8], *b"QFI\xfb\0\0\0\x03");
        assert_eq!(header[24..32], layout.disk_bytes.to_be_bytes());
        assert_eq!(header.len(), CLUSTER_LENGTH);
    }
}
