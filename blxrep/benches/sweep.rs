//! Time to sweep the bitmap of a 1 TiB disk: nearly empty, and with 1 % of it changed at random.

use blxrep::model::bitmap::Bitmap;
use blxrep::model::granules::GranuleSet;
use blxrep::model::units::GranuleSize;
use blxrep_ebpf::bitmap_words;
use std::error::Error;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

const DISK: u64 = 1 << 40;
const ROUNDS: u32 = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let granules = u32::try_from(GranuleSize::default().count(DISK))?;
    let words = || (0..bitmap_words(u64::from(granules))).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let (completed, pending) = (words(), words());
    let from = Bitmap::new(&completed, granules).ok_or("too few words")?;
    let to = Bitmap::new(&pending, granules).ok_or("too few words")?;
    let cases = [("nearly empty (target: under 20 ms)", 1_000), ("1 % of it changed", granules / 100)];
    for (what, changed) in cases {
        // Multiples of a large prime lie scattered, and are the same in every run.
        let step = u64::from(granules) / u64::from(changed) * 7919 + 1;
        let place = |i: u32| u32::try_from(u64::from(i) * step % u64::from(granules));
        let set = (0..changed).map(place).collect::<Result<GranuleSet, _>>()?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            from.mark(&set);
            let start = Instant::now();
            let swept = from.sweep_into(&to);
            times.push(start.elapsed());
            if swept != set {
                return Err("the sweep lost granules".into());
            }
            to.clear(&set);
        }
        times.sort();
        println!("sweep of a 1 TiB bitmap, {what}: {:.1?} (target: under 20 ms)", times[times.len() / 2]);
    }
    Ok(())
}
