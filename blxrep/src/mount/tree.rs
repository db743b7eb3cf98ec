//! The names that a mounted point shows, and what is behind each. Pure.
//!
//! ```text
//! about.txt            what lies on the disk, and why some of it is not shown
//! errors.txt           reads that failed
//! disk.img             the whole disk
//! partitions/<p>.img   one partition, by its number, or one volume, by its name
//! files/<p>/           where the kernel mounts the filesystem of a part; 0 is the whole disk
//! .scratch-<p>         not listed: a part that can be written to, for the replay of its journal
//! ```

use crate::model::contents::Part;
use crate::model::extents::Extents;
use crate::model::part_id::PartId;

/// Inode numbers of parts: the part's place in the list of all is below.
const PART: u64 = 1 << 32;
const FOLDER: u64 = 2 << 32;
const SCRATCH: u64 = 3 << 32;

/// What is behind a name. Parts are given by their place in the list of all.
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
    disk: Extents,
    parts: Vec<Part>,
}

/// The name, within the mounted point, of a part that can be written to.
#[must_use]
pub fn scratch_name(part: &PartId) -> String {
    format!(".scratch-{part}")
}

/// The name of a part's image.
#[must_use]
pub fn partition_name(part: &PartId) -> String {
    format!("partitions/{part}.img")
}

/// The folder that the files of a part are mounted on.
#[must_use]
pub fn folder_name(part: &PartId) -> String {
    format!("files/{part}")
}

impl Tree {
    #[must_use]
    pub fn new(disk_bytes: u64, parts: Vec<Part>) -> Self {
        Self { disk: Extents::from(0..disk_bytes), parts }
    }

    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn part(&self, number: u32) -> Option<&Part> {
        self.parts.get(usize::try_from(number).ok()?)
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
            Node::Partition(n) => self.part(n).is_some_and(has_image),
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
                let images = self.numbered().filter(|(_, part)| has_image(part));
                images.map(|(n, part)| (format!("{}.img", part.id), Node::Partition(n))).collect()
            }
            Node::Files => {
                let shown = self.numbered().filter(|(_, part)| part.mounting().is_some());
                shown.map(|(n, part)| (part.id.to_string(), Node::Folder(n))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The node that a folder has under a name.
    #[must_use]
    pub fn lookup(&self, folder: Node, name: &str) -> Option<Node> {
        if folder == Node::Root
            && let Some(id) = name.strip_prefix(".scratch-")
        {
            let (n, _) = self.numbered().find(|(_, part)| part.id.to_string() == id)?;
            let node = Node::Scratch(n);
            return self.exists(node).then_some(node);
        }
        self.children(folder).into_iter().find(|(known, _)| known == name).map(|(_, node)| node)
    }

    /// The bytes of the disk that a file shows; `None` for what is no part of the disk.
    #[must_use]
    pub fn extents(&self, node: Node) -> Option<&Extents> {
        match node {
            Node::Disk => Some(&self.disk),
            Node::Partition(n) | Node::Scratch(n) => self.part(n).map(|part| &part.extents),
            _ => None,
        }
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Part)> {
        (0..).zip(&self.parts)
    }
}

/// All of the disk has one of its own, and what cannot be opened has none.
fn has_image(part: &Part) -> bool {
    part.id != PartId::DISK && !part.extents.is_empty()
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
        Part { access, ..Part::unknown(PartId::Partition(number), start..start + 100) }
    }

    fn names(tree: &Tree, node: Node) -> Vec<String> {
        tree.children(node).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn every_name_leads_to_a_node_and_its_number_back() {
        let volume = |name: &str| PartId::Volume(name.to_owned());
        let closed = Part { bytes: 100, ..Part::unknown(volume("vg-thin"), Extents::default()) };
        let parts = vec![
            part(1, 100, Some(false)),
            part(2, 200, None),
            part(5, 300, Some(true)),
            Part { id: volume("vg-root"), ..part(0, 400, Some(true)) },
            closed,
        ];
        let tree = Tree::new(1000, parts);
        assert_eq!(names(&tree, Node::Partitions), ["1.img", "2.img", "5.img", "vg-root.img"]);
        assert_eq!(names(&tree, Node::Files), ["1", "5", "vg-root"]);
        for folder in [Node::Root, Node::Partitions, Node::Files] {
            for (name, node) in tree.children(folder) {
                assert_eq!(tree.lookup(folder, &name), Some(node));
                assert_eq!(tree.node(node.inode()), Some(node));
            }
        }
        assert_eq!(tree.extents(Node::Partition(1)), Some(&Extents::from(200..300)));
        let scratch = |id: &PartId| tree.lookup(Node::Root, &scratch_name(id));
        assert_eq!(scratch(&PartId::Partition(5)), Some(Node::Scratch(2)));
        assert_eq!(scratch(&volume("vg-root")), Some(Node::Scratch(3)));
        assert_eq!(scratch(&PartId::Partition(1)), None, "it needs no replay");
    }

    #[test]
    fn the_whole_disk_is_no_partition_but_may_have_files() {
        let tree = Tree::new(1000, vec![part(0, 0, Some(true))]);
        assert_eq!(names(&tree, Node::Partitions), [""; 0]);
        assert_eq!(names(&tree, Node::Files), ["0"]);
        assert_eq!(tree.lookup(Node::Root, ".scratch-0"), Some(Node::Scratch(0)));
        for inode in [0, 7, PART, PART | 1, SCRATCH | 1, 9 << 32, u64::MAX] {
            assert_eq!(tree.node(inode), None);
        }
    }
}
