//! The kernel's own account of a disk: `/sys/block/<disk>/stat` and `inflight`.
//!
//! The files stay open: a sample is taken in microseconds, or nothing stands still for as long.

use super::TrackerError;
use crate::model::tracking::KernelStat;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Longest `stat` line: 17 numbers of at most 20 digits.
const MAX_LINE: usize = 512;

/// Open files of one disk.
#[derive(Debug)]
pub struct StatFiles {
    stat: File,
    inflight: File,
    size: File,
}

impl StatFiles {
    pub fn open(sysfs: &Path) -> Result<Self, TrackerError> {
        let open = |name: &str| {
            let path = sysfs.join(name);
            File::open(&path).map_err(TrackerError::io("open", &path))
        };
        Ok(Self { stat: open("stat")?, inflight: open("inflight")?, size: open("size")? })
    }

    pub fn stat(&self) -> io::Result<KernelStat> {
        parse_stat(&numbers(&self.stat)?).ok_or_else(|| invalid("stat"))
    }

    /// Changing requests in flight: the second number, `rq_data_dir` being "write" for all of them.
    pub fn inflight(&self) -> io::Result<u64> {
        numbers(&self.inflight)?.get(1).copied().ok_or_else(|| invalid("inflight"))
    }

    /// Size in bytes; the file has it in sectors of 512 bytes.
    pub fn bytes(&self) -> io::Result<u64> {
        let sectors = numbers(&self.size)?.first().copied().ok_or_else(|| invalid("size"))?;
        sectors.checked_mul(crate::model::units::SECTOR_BYTES).ok_or_else(|| invalid("size"))
    }
}

fn invalid(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's `{file}` file is not what it should be"))
}

fn numbers(file: &File) -> io::Result<Vec<u64>> {
    let mut line = [0; MAX_LINE];
    let len = file.read_at(&mut line, 0)?;
    let text =
        std::str::from_utf8(&line[..len]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(text.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect())
}

/// Fields as in `Documentation/block/stat.rst`: writes and their sectors are the 5th and 7th, discards (since 4.18) and
/// theirs the 12th and 14th.
fn parse_stat(fields: &[u64]) -> Option<KernelStat> {
    let field = |index: usize| fields.get(index).copied();
    Some(KernelStat { requests: [field(4)?, field(11)?], sectors: [field(6)?, field(13)?] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_where_the_kernel_puts_them() {
        let fields: Vec<u64> = (1..=17).collect();
        assert_eq!(parse_stat(&fields), Some(KernelStat { requests: [5, 12], sectors: [7, 14] }));
        assert_eq!(parse_stat(&fields[..11]), None);
    }

    #[test]
    fn a_missing_disk_is_named() {
        let error = StatFiles::open(Path::new("/sys/block/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("/sys/block/nonexistent/stat"), "{error}");
    }
}
