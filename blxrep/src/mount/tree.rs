//! The names that a mounted point shows, and what is behind each. Pure.
//!
//! ```text
//! about.txt            what lies on the disk, and why some of it is not shown
//! errors.txt           reads that failed
//! disk.img             the whole disk
//! partitions/<n>.img   one partition
//! files/<n>/           where the kernel mounts the filesystem of a partition; 0 is the whole disk
//! .scratch-<n>         not listed: a partition that can be written to, for the replay of its journal
//! ```

use crate::model::contents::Part;
use std::ops::Range;

/// Inode numbers of parts: the part's number is below.
const PART: u64 = 1 << 32;
const FOLDER: u64 = 2 << 32;
const SCRATCH: u64 = 3 << 32;

/// What is behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Root,
    Disk,
    Partitions,
    Files,
    About,
    Errors,
    Partition(u32),
    Folder(u32),
    Scratch(u32),
}

impl Node {
    #[must_use]
    pub fn inode(self) -> u64 {
        match self {
            Self::Root => 1,
            Self::Disk => 2,
            Self::Partitions => 3,
            Self::Files => 4,
            Self::About => 5,
            Self::Errors => 6,
            Self::Partition(n) => PART | u64::from(n),
            Self::Folder(n) => FOLDER | u64::from(n),
            Self::Scratch(n) => SCRATCH | u64::from(n),
        }
    }

    #[must_use]
    pub const fn is_folder(self) -> bool {
        matches!(self, Self::Root | Self::Partitions | Self::Files | Self::Folder(_))
    }
}

/// The names of one point.
#[derive(Clone, Debug)]
pub struct Tree {
    disk_bytes: u64,
    parts: Vec<Part>,
}

/// The name, within the mounted point, of a partition that can be written to.
#[must_use]
pub fn scratch_name(part: u32) -> String {
    format!(".scratch-{part}")
}

/// The name of a partition's image.
#[must_use]
pub fn partition_name(part: u32) -> String {
    format!("partitions/{part}.img")
}

/// The folder that the files of a part are mounted on.
#[must_use]
pub fn folder_name(part: u32) -> String {
    format!("files/{part}")
}

impl Tree {
    #[must_use]
    pub const fn new(disk_bytes: u64, parts: Vec<Part>) -> Self {
        Self { disk_bytes, parts }
    }

    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn part(&self, number: u32) -> Option<&Part> {
        self.parts.iter().find(|part| part.number == number)
    }

    /// The node with this inode number, if there is one.
    #[must_use]
    pub fn node(&self, inode: u64) -> Option<Node> {
        let fixed = [Node::Root, Node::Disk, Node::Partitions, Node::Files, Node::About, Node::Errors];
        let number = u32::try_from(inode & 0xffff_ffff).ok()?;
        let node = match inode & !0xffff_ffff {
            0 => return fixed.into_iter().find(|node| node.inode() == inode),
            PART => Node::Partition(number),
            FOLDER => Node::Folder(number),
            SCRATCH => Node::Scratch(number),
            _ => return None,
        };
        self.exists(node).then_some(node)
    }

    fn exists(&self, node: Node) -> bool {
        match node {
            Node::Partition(n) => n > 0 && self.part(n).is_some(),
            Node::Folder(n) => self.part(n).is_some_and(|part| part.mounting().is_some()),
            Node::Scratch(n) => self.part(n).and_then(Part::mounting).is_some_and(|mounting| mounting.replay),
            _ => true,
        }
    }

    /// What a folder lists, in order.
    #[must_use]
    pub fn children(&self, folder: Node) -> Vec<(String, Node)> {
        let name = |text: &str, node| (text.to_owned(), node);
        match folder {
            Node::Root => vec![
                name("about.txt", Node::About),
                name("disk.img", Node::Disk),
                name("errors.txt", Node::Errors),
                name("files", Node::Files),
                name("partitions", Node::Partitions),
            ],
            Node::Partitions => {
                let numbers = self.parts.iter().map(|part| part.number).filter(|number| *number > 0);
                numbers.map(|n| (format!("{n}.img"), Node::Partition(n))).collect()
            }
            Node::Files => {
                let shown = self.parts.iter().filter(|part| part.mounting().is_some());
                shown.map(|part| (part.number.to_string(), Node::Folder(part.number))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The node that a folder has under a name.
    #[must_use]
    pub fn lookup(&self, folder: Node, name: &str) -> Option<Node> {
        if folder == Node::Root
            && let Some(number) = name.strip_prefix(".scratch-")
        {
            let node = Node::Scratch(number.parse().ok()?);
            return self.exists(node).then_some(node);
        }
        self.children(folder).into_iter().find(|(known, _)| known == name).map(|(_, node)| node)
    }

    /// The bytes of the disk that a file shows; `None` for what is no part of the disk.
    #[must_use]
    pub fn range(&self, node: Node) -> Option<Range<u64>> {
        match node {
            Node::Disk => Some(0..self.disk_bytes),
            Node::Partition(n) | Node::Scratch(n) => self.part(n).map(|part| part.range.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::contents::{Access, Mounting};

    fn part(number: u32, start: u64, replay: Option<bool>) -> Part {
        let access = match replay {
            None => Access::Never("swap".to_owned()),
            Some(replay) => Access::Mount(Mounting {
                driver: "xfs".to_owned(),
                options: String::new(),
                replay,
                unreplayed: None,
            }),
        };
        Part { access, ..Part::unknown(number, start..start + 100) }
    }

    fn names(tree: &Tree, node: Node) -> Vec<String> {
        tree.children(node).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn every_name_leads_to_a_node_and_its_number_back() {
        let tree =
            Tree::new(1000, vec![part(1, 100, Some(false)), part(2, 200, None), part(5, 300, Some(true))]);
        assert_eq!(names(&tree, Node::Partitions), ["1.img", "2.img", "5.img"]);
        assert_eq!(names(&tree, Node::Files), ["1", "5"]);
        for folder in [Node::Root, Node::Partitions, Node::Files] {
            for (name, node) in tree.children(folder) {
                assert_eq!(tree.lookup(folder, &name), Some(node));
                assert_eq!(tree.node(node.inode()), Some(node));
            }
        }
        assert_eq!(tree.range(Node::Partition(2)), Some(200..300));
        assert_eq!(tree.lookup(Node::Root, &scratch_name(5)), Some(Node::Scratch(5)));
        assert_eq!(tree.lookup(Node::Root, &scratch_name(1)), None, "it needs no replay");
    }

    #[test]
    fn the_whole_disk_is_no_partition_but_may_have_files() {
        let tree = Tree::new(1000, vec![part(0, 0, Some(true))]);
        assert_eq!(names(&tree, Node::Partitions), [""; 0]);
        assert_eq!(names(&tree, Node::Files), ["0"]);
        assert_eq!(tree.lookup(Node::Root, ".scratch-0"), Some(Node::Scratch(0)));
        for inode in [0, 7, PART, SCRATCH | 1, 9 << 32, u64::MAX] {
            assert_eq!(tree.node(inode), None);
        }
    }
}
