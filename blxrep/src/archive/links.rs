//! Where files with several names were restored to: their other names are made as links to the first one.

use super::MAX_LINKS;
use std::collections::HashMap;

/// The kernel takes no longer path, its last byte 0 included.
const MAX_PATH_BYTES: usize = 4096;
/// All paths together. Whoever sends the tree says how many there are and how long.
const MAX_PATHS_BYTES: usize = 64 << 20;

/// Where the first name of a file with several ended up.
#[derive(Debug)]
pub(super) struct Placed {
    /// Relative to the root.
    pub path: Vec<u8>,
    /// Device and inode; `None` if what is there is not the file.
    pub identity: Option<(u64, u64)>,
}

/// What is kept in mind of them.
#[derive(Debug, Default)]
pub(super) struct Links {
    placed: HashMap<u64, Placed>,
    /// Of all paths.
    bytes: usize,
    /// There was no room for one.
    full: bool,
}

impl Links {
    /// Keeps a file in mind, if there is room.
    pub fn add(&mut self, number: u64, placed: Placed) {
        let length = placed.path.len();
        if length >= MAX_PATH_BYTES || self.placed.len() >= MAX_LINKS || self.bytes + length > MAX_PATHS_BYTES
        {
            self.full = true;
            return;
        }
        self.bytes += length;
        if let Some(old) = self.placed.insert(number, placed) {
            self.bytes -= old.path.len();
        }
    }

    /// The file with this number. The error says why it is not known.
    pub fn find(&self, number: u64) -> Result<&Placed, String> {
        self.placed.get(&number).ok_or_else(|| match self.full {
            false => "the file that it is another name of was not restored".to_owned(),
            true => format!(
                "the file that it is another name of is not kept in mind: at most {MAX_LINKS} are, with paths of \
                 {MAX_PATH_BYTES} bytes each and {MAX_PATHS_BYTES} together; restore its folder by itself"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(length: usize) -> Placed {
        Placed { path: vec![b'x'; length], identity: None }
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let mut links = Links::default();
        assert!(links.find(1).unwrap_err().contains("was not restored"));
        links.add(1, placed(MAX_PATH_BYTES));
        assert!(links.find(1).unwrap_err().contains("not kept in mind"), "no path is so long");
        let most = (MAX_PATHS_BYTES / (MAX_PATH_BYTES - 1)) as u64;
        (1..=most + 5).for_each(|number| links.add(number, placed(MAX_PATH_BYTES - 1)));
        assert!(links.bytes <= MAX_PATHS_BYTES);
        assert!(links.find(most).is_ok());
        assert!(links.find(most + 1).unwrap_err().contains("67108864 together"));
    }

    #[test]
    fn a_number_that_is_used_twice_counts_once() {
        let mut links = Links::default();
        (0..3).for_each(|length| links.add(7, placed(10 + length)));
        assert_eq!((links.bytes, links.placed.len()), (12, 1));
    }
}
