//! Replays the corpora of the fuzz targets: what was once found stays found.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) -> Result<(), std::io::Error> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let bytes = std::fs::read(entry?.path())?;
        target(&bytes);
        // Every truncation and a flip in every byte, so that a corpus of good inputs tests bad ones too.
        for at in 0..bytes.len().min(4096) {
            target(&bytes[..at]);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            target(&damaged);
        }
        count += 1;
    }
    assert!(count > 0, "the corpus of {name} is empty");
    Ok(())
}

#[test]
fn corpora_do_no_harm() -> Result<(), std::io::Error> {
    replay("hello", targets::hello)?;
    replay("frame", targets::frame)?;
    replay("control", targets::control)?;
    replay("nbd", targets::nbd)?;
    replay("config", targets::config)?;
    replay("policy", targets::policy)?;
    replay("disk", targets::disk)?;
    replay("tree", targets::tree)
}
