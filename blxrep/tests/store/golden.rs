//! Files of released versions stay readable, and this version writes them as it did.

use crate::fixture::*;
use blxrep::io::storage::Storage;
use blxrep::model::encoding::Encoding;
use blxrep::model::ids::{CutId, GenerationId, PointId};
use blxrep::model::point::{Consistency, Coverage, CutSummary};
use blxrep::model::units::GranuleSize;
use blxrep::store::delta::DeltaSpec;
use blxrep::store::{Seed, Store};
use blxrep::view::{BaseFiles, Chain, DeltaFiles, PointReader, ViewPlace};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DISK: usize = 4 * 4096 + 512;
/// 4096 times `a`, packed by the zstd of the day.
const PACKED: [u8; 19] = [40, 181, 47, 253, 96, 0, 15, 77, 0, 0, 16, 97, 97, 1, 0, 251, 247, 1, 22];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/files-v1").join(name)
}

/// A file ends with its root.
fn root(name: &str) -> [u8; 32] {
    *std::fs::read(golden(name)).unwrap().last_chunk().unwrap()
}

fn cut(number: u64) -> CutSummary {
    CutSummary {
        hooks: Vec::new(),
        cut: CutId(number),
        at: "2026-11-21T12:00:00.5Z".parse().unwrap(),
        consistency: Consistency::Quiet,
        coverage: Coverage::Proven,
        notes: Vec::new(),
        rounds: Vec::new(),
        freeze_ms: None,
        group: Vec::new(),
        holes: Default::default(),
    }
}

/// The disk at the base and at the delta.
fn contents() -> [Vec<u8>; 2] {
    let mut base = noise(1, DISK);
    base[4096..8192].fill(0);
    let mut next = base.clone();
    next[..4096].fill(b'a');
    next[8192..12288].fill(0);
    next[DISK - 512..].copy_from_slice(&noise(2, 512));
    [base, next]
}

/// Writes the golden files with this version.
fn write(folder: &Folder) {
    let next = AtomicU64::new(0xb1);
    let seed: Seed = Arc::new(move || next.fetch_add(1, Ordering::Relaxed));
    let (store, _) = Store::open(&folder.path(), seed).unwrap();
    let [base, changed] = contents();
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let mut writer = store.begin_base(disk, spec(DISK as u64)).unwrap();
    writer.write(0, &base[..4096]).unwrap();
    writer.write_zeroes(4096..8192).unwrap();
    writer.write(8192, &base[8192..]).unwrap();
    let base = publish(&store, writer.seal(cut(1)).unwrap()).unwrap();
    let spec = DeltaSpec { point: PointId(0xd1), parent: base.id, epoch: EPOCH };
    let mut writer = store.begin_delta(disk, spec).unwrap();
    writer.append(0..4096, Encoding::Zstd, &PACKED, crc32c::crc32c(&PACKED)).unwrap();
    writer.append(8192..12288, Encoding::Zero, &[], 0).unwrap();
    append(&mut writer, &changed, 16384..DISK as u64, Encoding::Raw).unwrap();
    publish(&store, writer.finish(cut(2), 3).unwrap()).unwrap();
}

#[test]
fn files_are_written_as_they_always_were() {
    let folder = Folder::new();
    write(&folder);
    for ending in ["img", "sum", "bak", "cst"] {
        let written = std::fs::read(folder.files(&format!(".{ending}")).remove(0)).unwrap();
        let kept = std::fs::read(golden(&format!("point.{ending}"))).unwrap();
        assert!(written == kept, ".{ending} changed: a new format needs a new version and new golden files");
    }
}

#[test]
fn files_of_version_1_are_read() {
    let base = BaseFiles {
        image: golden("point.img"),
        sidecar: golden("point.sum"),
        root: root("point.sum"),
        bytes: DISK as u64,
    };
    let deltas = vec![DeltaFiles { path: golden("point.bak"), root: root("point.bak"), position: 1 }];
    for (deltas, content) in [Vec::new(), deltas].into_iter().zip(contents()) {
        let place = ViewPlace { generation: GenerationId(1), revision: 0, sequence: 0 };
        let (granule, indexes) = (GranuleSize::default(), "none".into());
        let (holes, bytes) = (Default::default(), DISK as u64);
        let chain = Chain { base: base.clone(), deltas, bytes, granule, holes, place, indexes };
        let mut reader = PointReader::open(&Storage::default(), &chain).unwrap();
        let mut found = vec![0; DISK];
        reader.read_at(0, &mut found).unwrap();
        assert!(found == content);
    }
}
