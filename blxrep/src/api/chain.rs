//! The files that a point is made of, for a process on the dispatcher's host that reads them itself.
//!
//! Paths are relative to the data directory: they are made of ids and are text whatever that is called.

use super::error::{ApiError, Result};
use crate::format::trailer::Digest;
use crate::model::holes::Holes;
use crate::model::ids::{AgentId, DiskId, GenerationId, PointId};
use crate::model::point::Point;
use crate::model::units::GranuleSize;
use crate::view::{BaseFiles, Chain, DeltaFiles, ViewPlace};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};
use utoipa::ToSchema;

/// `GET /api/v1/points/{point}/chain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointChain {
    pub point: PointId,
    pub agent: AgentId,
    pub disk: DiskId,
    pub generation: GenerationId,
    /// Position of the point in its generation: what a lease on its files is held for,
    pub sequence: u64,
    /// and how often files of the generation were replaced by others.
    pub revision: u32,
    /// Size of the disk at the point.
    pub bytes: u64,
    /// Bytes of a granule.
    pub granule: u64,
    pub base: BaseLink,
    /// Oldest first.
    pub deltas: Vec<DeltaLink>,
    /// Sectors that could not be read of the disk: a view gives an error there.
    #[schema(value_type = Vec<crate::api::types::SectorRange>)]
    pub holes: Holes,
    /// Folder of the generation's merged indexes; need not exist.
    pub indexes: String,
}

/// The base image of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BaseLink {
    pub image: String,
    pub sidecar: String,
    /// Root of the sidecar, 64 hex digits.
    pub root: String,
    /// Size of the disk when the image was made.
    pub bytes: u64,
}

/// A delta of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeltaLink {
    pub file: String,
    /// Root of the delta, 64 hex digits.
    pub root: String,
    /// Position of its point in the generation.
    pub position: u64,
}

impl PointChain {
    /// What is told of a point whose files are below `data_dir`.
    pub fn new(point: &Point, agent: AgentId, chain: &Chain, data_dir: &Path) -> Result<Self> {
        let file = |path: &Path| relative(path, data_dir);
        let delta = |delta: &DeltaFiles| {
            Ok::<_, ApiError>(DeltaLink {
                file: file(&delta.path)?,
                root: hex(&delta.root),
                position: delta.position,
            })
        };
        Ok(Self {
            point: point.id,
            agent,
            disk: point.disk,
            generation: point.generation,
            sequence: chain.place.sequence,
            revision: chain.place.revision,
            bytes: chain.bytes,
            granule: chain.granule.bytes(),
            base: BaseLink {
                image: file(&chain.base.image)?,
                sidecar: file(&chain.base.sidecar)?,
                root: hex(&chain.base.root),
                bytes: chain.base.bytes,
            },
            deltas: chain.deltas.iter().map(delta).collect::<Result<_>>()?,
            holes: chain.holes.clone(),
            indexes: file(&chain.indexes)?,
        })
    }

    /// The chain as a view opens it.
    pub fn files(&self, data_dir: &Path) -> Result<Chain> {
        let file = |text: &str| absolute(text, data_dir);
        let base = BaseFiles {
            image: file(&self.base.image)?,
            sidecar: file(&self.base.sidecar)?,
            root: digest(&self.base.root)?,
            bytes: self.base.bytes,
        };
        let delta = |delta: &DeltaLink| {
            Ok::<_, ApiError>(DeltaFiles {
                path: file(&delta.file)?,
                root: digest(&delta.root)?,
                position: delta.position,
            })
        };
        let deltas: Vec<DeltaFiles> = self.deltas.iter().map(delta).collect::<Result<_>>()?;
        if !deltas.is_sorted_by(|a, b| a.position < b.position) {
            return Err(strange("deltas out of order".to_owned()));
        }
        let granule = GranuleSize::from_shift(self.granule.trailing_zeros())
            .filter(|granule| granule.bytes() == self.granule)
            .ok_or_else(|| strange(format!("a granule of {} bytes", self.granule)))?;
        let (indexes, holes) = (file(&self.indexes)?, self.holes.clone());
        Ok(Chain { base, deltas, bytes: self.bytes, granule, holes, place: self.place(), indexes })
    }

    /// Where the lease on its files is held.
    #[must_use]
    pub const fn place(&self) -> ViewPlace {
        ViewPlace { generation: self.generation, revision: self.revision, sequence: self.sequence }
    }
}

fn strange(what: String) -> ApiError {
    ApiError::failed(format!("the dispatcher's answer cannot be: {what}; are both of the same version?"))
}

fn relative(path: &Path, data_dir: &Path) -> Result<String> {
    let below = path.strip_prefix(data_dir).ok().and_then(Path::to_str);
    let below = below
        .ok_or_else(|| ApiError::failed(format!("{} is not below {}", path.display(), data_dir.display())))?;
    Ok(below.to_owned())
}

fn absolute(text: &str, data_dir: &Path) -> Result<PathBuf> {
    let path = Path::new(text);
    let below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !below || text.is_empty() {
        return Err(strange(format!("a file called `{text}`")));
    }
    Ok(data_dir.join(path))
}

fn hex(digest: &Digest) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn digest(text: &str) -> Result<Digest> {
    let mut digest = Digest::default();
    let pairs = text.as_bytes().as_chunks::<2>().0;
    let whole = text.len() == 2 * digest.len() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !whole {
        return Err(strange(format!("a digest of `{text}`")));
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let pair = std::str::from_utf8(pair).ok();
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::CutId;
    use crate::model::point::{Consistency, Coverage, CutSummary, PointDigests, PointKind};

    fn chain() -> Chain {
        let root = std::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap());
        let base = BaseFiles {
            image: "/data/snapshot/d/g.img".into(),
            sidecar: "/data/snapshot/d/g.sum".into(),
            root,
            bytes: 1 << 20,
        };
        let delta = DeltaFiles { path: "/data/incremental/d/g/p.bak".into(), root: [0xfe; 32], position: 5 };
        let place = ViewPlace { generation: GenerationId(3), revision: 7, sequence: 5 };
        let mut holes = Holes::new();
        holes.add(3..5);
        let (granule, indexes) = (GranuleSize::default(), "/data/index/g".into());
        Chain { base, deltas: vec![delta], bytes: 2 << 20, granule, holes, place, indexes }
    }

    fn point() -> Point {
        Point {
            id: PointId(1),
            disk: DiskId(2),
            generation: GenerationId(3),
            kind: PointKind::Delta,
            parent: Some(PointId(4)),
            sequence: 5,
            number: 6,
            epoch: crate::model::ids::Epoch(6),
            published: jiff::Timestamp::UNIX_EPOCH,
            summary: CutSummary {
                cut: CutId(1),
                at: jiff::Timestamp::UNIX_EPOCH,
                consistency: Consistency::Quiet,
                coverage: Coverage::Proven,
                notes: Vec::new(),
                rounds: Vec::new(),
                freeze_ms: None,
                hooks: Vec::new(),
                group: Vec::new(),
                holes: Default::default(),
            },
            bytes: 0,
            stored: 0,
            disk_bytes: 2 << 20,
            digests: PointDigests::Delta { delta: [0xfe; 32], changes: [0; 32] },
            edition: 0,
            half_restored: None,
        }
    }

    fn told() -> PointChain {
        PointChain::new(&point(), "web1".parse().unwrap(), &chain(), Path::new("/data")).unwrap()
    }

    #[test]
    fn a_chain_survives_the_way() {
        let told = told();
        assert_eq!(told.deltas[0].file, "incremental/d/g/p.bak");
        let text = serde_json::to_string(&told).unwrap();
        let told: PointChain = serde_json::from_str(&text).unwrap();
        let elsewhere = told.files(Path::new("/mnt")).unwrap();
        assert_eq!(elsewhere.base.image, Path::new("/mnt/snapshot/d/g.img"));
        let back = told.files(Path::new("/data")).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", chain()));
    }

    #[test]
    fn an_answer_that_leads_elsewhere_is_refused() {
        for file in ["", "/etc/passwd", "../x", "a/../../x", "."] {
            let mut told = told();
            told.deltas[0].file = file.to_owned();
            assert!(told.files(Path::new("/data")).is_err(), "{file}");
        }
        for root in ["", "fe", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            let told = PointChain { base: BaseLink { root: root.to_owned(), ..told().base }, ..told() };
            assert!(told.files(Path::new("/data")).is_err(), "{root}");
        }
        for granule in [0, 1, 4095, 2 << 20] {
            assert!(PointChain { granule, ..told() }.files(Path::new("/data")).is_err(), "{granule}");
        }
    }

    #[test]
    fn a_file_that_is_not_in_the_data_directory_is_not_told() {
        let told = PointChain::new(&point(), "web1".parse().unwrap(), &chain(), Path::new("/other"));
        assert!(told.is_err());
    }
}
