//! Where things are under a data directory. Names are made of random ids only, so that no agent's or device's
//! name can meet another's, and are never parsed back. Pure.

use crate::model::ids::{DiskId, GenerationId, PointId};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Ending of files that are not published.
pub const PART: &str = "part";

/// Paths under one data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// A file's name while it is written, and once it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub part: PathBuf,
    pub published: PathBuf,
}

impl Layout {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn mark(&self) -> PathBuf {
        self.root.join("STORE")
    }

    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        self.root.join("blxrep.redb")
    }

    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshot")
    }

    #[must_use]
    pub fn incrementals(&self) -> PathBuf {
        self.root.join("incremental")
    }

    #[must_use]
    pub fn all_indexes(&self) -> PathBuf {
        self.root.join("index")
    }

    /// The merged indexes of a generation.
    #[must_use]
    pub fn indexes(&self, generation: GenerationId) -> PathBuf {
        self.all_indexes().join(generation.to_string())
    }

    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.root.join("lease")
    }

    /// Where views of points of a generation hold their leases.
    #[must_use]
    pub fn lease(&self, generation: GenerationId) -> PathBuf {
        self.leases().join(generation.to_string())
    }

    #[must_use]
    pub fn images(&self, disk: DiskId) -> PathBuf {
        self.snapshots().join(disk.to_string())
    }

    #[must_use]
    pub fn image(&self, disk: DiskId, generation: GenerationId) -> Names {
        names(self.images(disk).join(format!("{generation}.img")))
    }

    #[must_use]
    pub fn sidecar(&self, disk: DiskId, generation: GenerationId, edition: u32) -> Names {
        names(self.images(disk).join(name(generation, edition, "sum")))
    }

    #[must_use]
    pub fn disk_deltas(&self, disk: DiskId) -> PathBuf {
        self.incrementals().join(disk.to_string())
    }

    #[must_use]
    pub fn deltas(&self, disk: DiskId, generation: GenerationId) -> PathBuf {
        self.disk_deltas(disk).join(generation.to_string())
    }

    #[must_use]
    pub fn delta(&self, disk: DiskId, generation: GenerationId, point: PointId, edition: u32) -> Names {
        names(self.deltas(disk, generation).join(name(point, edition, "bak")))
    }

    #[must_use]
    pub fn changes(&self, disk: DiskId, generation: GenerationId, point: PointId, edition: u32) -> Names {
        names(self.deltas(disk, generation).join(name(point, edition, "cst")))
    }
}

/// The edition in a file's name, for a file that has no header yet.
#[must_use]
pub fn edition_of(path: &Path) -> u32 {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    // An id has leading zeroes, or is longer than an edition.
    let edition =
        stem.rsplit_once('-').map(|(_, edition)| edition).filter(|edition| !edition.starts_with('0'));
    edition.and_then(|edition| edition.parse().ok()).unwrap_or(0)
}

/// The first edition of a file is called by its id alone.
fn name(id: impl Display, edition: u32, ending: &str) -> String {
    match edition {
        0 => format!("{id}.{ending}"),
        edition => format!("{id}-{edition}.{ending}"),
    }
}

fn names(published: PathBuf) -> Names {
    let part = published.with_added_extension(PART);
    Names { part, published }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ids() {
        let layout = Layout::new(Path::new("/data"));
        let names = layout.delta(DiskId(1), GenerationId(2), PointId(3), 0);
        let path = "/data/incremental/0000000000000001/0000000000000002/0000000000000003.bak";
        assert_eq!(names.published, Path::new(path));
        assert_eq!(names.part, PathBuf::from(format!("{path}.part")));
        let path = "/data/incremental/0000000000000001/0000000000000002/0000000000000003-12.bak";
        assert_eq!(layout.delta(DiskId(1), GenerationId(2), PointId(3), 12).published, Path::new(path));
        assert_eq!(edition_of(Path::new(path)), 12);
        for (name, edition) in [
            ("incremental-01-02-0000000000000003.bak", 0),
            ("incremental-01-02-0000000000000003-12.bak.1", 12),
            ("1234567890123456.sum", 0),
            ("x-1234567890123456.sum", 0),
        ] {
            assert_eq!(edition_of(Path::new(name)), edition, "{name}");
        }
        assert_eq!(
            layout.image(DiskId(1), GenerationId(2)).published,
            Path::new("/data/snapshot/0000000000000001/0000000000000002.img")
        );
    }
}
