//! Which filesystems to freeze for a set of disks, and in which order.
//!
//! A filesystem is frozen before the one that holds its device or backing file: freezing writes back what is dirty,
//! and what has to go through a frozen filesystem waits, uninterruptibly, until somebody thaws it.

use crate::model::stack::{Backing, DeviceNumber, Obstacle, Stack, StackedDevice, StackedFilesystem};
use std::collections::{BTreeMap, BTreeSet};

/// Kinds that have no way to be frozen. It is no complete list: the kernel says so of others when it is asked.
const NEVER_FREEZE: [&str; 10] =
    ["exfat", "fuseblk", "hfs", "hfsplus", "minix", "msdos", "ntfs", "ntfs3", "udf", "vfat"];

/// What to freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Numbers of the filesystems, in the order of freezing; thawing goes the other way.
    pub order: Vec<DeviceNumber>,
    /// Why the disks will not be still although all of `order` is frozen.
    pub obstacles: Vec<Obstacle>,
    /// Active swap on the disks: not frozen, not part of what a point promises.
    pub swaps: Vec<String>,
}

/// Selects what has to be frozen so that nothing is written to `disks`.
#[must_use]
pub fn select(disks: &[DeviceNumber], stack: &Stack) -> Selection {
    let reach = Reach::of(disks, stack);
    let levels = levels(stack);
    let mut selection = Selection::default();
    let mut chosen = Vec::new();
    for filesystem in stack.filesystems.iter().filter(|f| f.writable) {
        match judge(filesystem, stack, &reach, levels.get(&filesystem.number).copied().flatten()) {
            Judgement::Elsewhere => {}
            Judgement::Freeze(level) => chosen.push((level, filesystem.number)),
            Judgement::Obstacle(reason) => {
                selection.obstacles.push(Obstacle { what: filesystem.place.clone(), reason });
            }
        }
    }
    chosen.sort_by_key(|(level, number)| (std::cmp::Reverse(*level), *number));
    selection.order = chosen.into_iter().map(|(_, number)| number).collect();
    let reached = |on| reach.devices.contains(on) || reach.filesystems.contains(on);
    selection.swaps = stack.swaps.iter().filter(|s| reached(&s.on)).map(|s| s.name.clone()).collect();
    selection
}

enum Judgement {
    Elsewhere,
    /// How many filesystems lie below it.
    Freeze(usize),
    Obstacle(String),
}

fn judge(filesystem: &StackedFilesystem, stack: &Stack, reach: &Reach, level: Option<usize>) -> Judgement {
    if !reach.filesystems.contains(&filesystem.number) {
        return match elsewhere_is_unsure(filesystem, stack, reach) {
            Some(reason) => Judgement::Obstacle(reason),
            None => Judgement::Elsewhere,
        };
    }
    if NEVER_FREEZE.contains(&filesystem.kind.as_str()) {
        return Judgement::Obstacle(format!("{} cannot be frozen; mount it read-only", filesystem.kind));
    }
    if !filesystem.mounted {
        return Judgement::Obstacle("it is in use, but mounted where no process can see it".to_owned());
    }
    match level {
        Some(level) => Judgement::Freeze(level),
        None => Judgement::Obstacle("it seems to lie on itself, so no order of freezing is safe".to_owned()),
    }
}

/// A filesystem that was not found on the disks might still lie there if what it lies on cannot be told.
fn elsewhere_is_unsure(filesystem: &StackedFilesystem, stack: &Stack, reach: &Reach) -> Option<String> {
    if filesystem.devices.is_empty() {
        let bare = stack.devices.iter().find(|d| reach.devices.contains(&d.number) && is_bare(d, stack))?;
        let (kind, name) = (&filesystem.kind, &bare.name);
        return Some(format!("nobody can tell whether this {kind} filesystem lies on {name}"));
    }
    below(&filesystem.devices, stack).find_map(|device| match &device.backing {
        Backing::Unknown(file) => {
            Some(format!("nobody can tell where `{file}`, the file behind {}, lies", device.name))
        }
        _ => None,
    })
}

/// Nothing that is known of uses the device.
fn is_bare(device: &StackedDevice, stack: &Stack) -> bool {
    let number = &device.number;
    !stack.devices.iter().any(|other| other.below.contains(number))
        && !stack.filesystems.iter().any(|filesystem| filesystem.devices.contains(number))
        && !stack.swaps.iter().any(|swap| swap.on == *number)
}

/// The disks and everything above them.
struct Reach {
    devices: BTreeSet<DeviceNumber>,
    filesystems: BTreeSet<DeviceNumber>,
}

impl Reach {
    fn of(disks: &[DeviceNumber], stack: &Stack) -> Self {
        let mut reach = Self { devices: disks.iter().copied().collect(), filesystems: BTreeSet::new() };
        // Each pass adds something or is the last.
        loop {
            let before = reach.devices.len() + reach.filesystems.len();
            for device in &stack.devices {
                let on_file = matches!(&device.backing, Backing::On(f) if reach.filesystems.contains(f));
                if on_file || device.below.iter().any(|below| reach.devices.contains(below)) {
                    reach.devices.insert(device.number);
                }
            }
            for filesystem in &stack.filesystems {
                if filesystem.devices.iter().any(|device| reach.devices.contains(device)) {
                    reach.filesystems.insert(filesystem.number);
                }
            }
            if reach.devices.len() + reach.filesystems.len() == before {
                return reach;
            }
        }
    }
}

/// How many filesystems lie below each one on its longest way down; `None` for what lies on itself.
fn levels(stack: &Stack) -> BTreeMap<DeviceNumber, Option<usize>> {
    let holders: BTreeMap<DeviceNumber, Vec<DeviceNumber>> = stack
        .filesystems
        .iter()
        .map(|filesystem| {
            let files = below(&filesystem.devices, stack).filter_map(|device| match device.backing {
                Backing::On(holder) => Some(holder),
                _ => None,
            });
            (filesystem.number, files.collect())
        })
        .collect();
    // No way down is longer than there are filesystems: who still rises after so many passes runs in a circle.
    let bound = holders.len();
    let mut levels: BTreeMap<DeviceNumber, usize> = holders.keys().map(|number| (*number, 0)).collect();
    for _ in 0..=bound {
        for (number, on) in &holders {
            let level = on.iter().filter_map(|holder| levels.get(holder)).max().map_or(0, |l| l + 1);
            levels.insert(*number, level);
        }
    }
    levels.into_iter().map(|(number, level)| (number, (level < bound).then_some(level))).collect()
}

/// The devices, and everything that they are made of.
fn below<'a>(devices: &[DeviceNumber], stack: &'a Stack) -> impl Iterator<Item = &'a StackedDevice> {
    let mut seen: BTreeSet<DeviceNumber> = devices.iter().copied().collect();
    let mut open: Vec<DeviceNumber> = devices.to_vec();
    let mut found = Vec::new();
    while let Some(number) = open.pop() {
        for device in stack.devices.iter().filter(|device| device.number == number) {
            open.extend(device.below.iter().filter(|below| seen.insert(**below)));
            found.push(device);
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stack::SwapArea;

    const DISK: DeviceNumber = (8, 0);
    const OTHER: DeviceNumber = (8, 16);

    fn device(number: DeviceNumber, below: &[DeviceNumber]) -> StackedDevice {
        let name = format!("b{}-{}", number.0, number.1);
        StackedDevice { number, name, below: below.to_vec(), backing: Backing::None }
    }

    fn looped(number: DeviceNumber, backing: Backing) -> StackedDevice {
        StackedDevice { backing, ..device(number, &[]) }
    }

    fn filesystem(number: DeviceNumber, kind: &str, devices: &[DeviceNumber]) -> StackedFilesystem {
        StackedFilesystem {
            number,
            kind: kind.to_owned(),
            place: format!("/{}:{}", number.0, number.1),
            devices: devices.to_vec(),
            writable: true,
            mounted: true,
        }
    }

    fn stack(devices: Vec<StackedDevice>, filesystems: Vec<StackedFilesystem>) -> Stack {
        Stack { devices, filesystems, swaps: Vec::new() }
    }

    #[test]
    fn partitions_and_volumes_belong_to_their_disk() {
        let stack = stack(
            vec![
                device(DISK, &[]),
                device((8, 1), &[DISK]),
                device((8, 2), &[DISK]),
                device(OTHER, &[]),
                device((8, 17), &[OTHER]),
                device((253, 0), &[(8, 2), (8, 17)]),
            ],
            vec![
                filesystem((8, 1), "ext4", &[(8, 1)]),
                filesystem((253, 0), "xfs", &[(253, 0)]),
                filesystem((9, 9), "ext4", &[(9, 9)]),
            ],
        );
        assert_eq!(select(&[DISK], &stack).order, [(8, 1), (253, 0)]);
        assert_eq!(select(&[OTHER], &stack).order, [(253, 0)]);
        assert!(select(&[DISK], &stack).obstacles.is_empty());
    }

    #[test]
    fn what_lies_on_a_file_is_frozen_before_what_holds_the_file() {
        let stack = stack(
            vec![
                device(DISK, &[]),
                looped((7, 0), Backing::On(DISK)),
                device((253, 5), &[(7, 0)]),
                looped((7, 1), Backing::On((253, 5))),
            ],
            vec![
                filesystem(DISK, "ext4", &[DISK]),
                filesystem((253, 5), "xfs", &[(253, 5)]),
                filesystem((0, 40), "btrfs", &[(7, 1)]),
            ],
        );
        let selection = select(&[DISK], &stack);
        assert_eq!(selection.order, [(0, 40), (253, 5), DISK]);
        // The order also holds when the lowest lies elsewhere.
        assert_eq!(select(&[(7, 0)], &stack).order, [(0, 40), (253, 5)]);
    }

    #[test]
    fn a_filesystem_on_several_disks_belongs_to_each() {
        let both = filesystem((0, 50), "btrfs", &[DISK, OTHER]);
        let stack = stack(vec![device(DISK, &[]), device(OTHER, &[])], vec![both]);
        assert_eq!(select(&[DISK], &stack).order, [(0, 50)]);
        assert_eq!(select(&[OTHER], &stack).order, [(0, 50)]);
    }

    #[test]
    fn what_cannot_be_frozen_or_seen_is_an_obstacle_unless_it_is_read_only() {
        let mut stack = stack(
            vec![device(DISK, &[]), device((8, 1), &[DISK]), device((8, 2), &[DISK])],
            vec![filesystem((8, 1), "vfat", &[(8, 1)]), filesystem((8, 2), "ext4", &[(8, 2)])],
        );
        stack.filesystems[1].mounted = false;
        let selection = select(&[DISK], &stack);
        assert!(selection.order.is_empty());
        assert_eq!(selection.obstacles.len(), 2);
        assert!(selection.obstacles[0].reason.contains("vfat"));
        stack.filesystems.iter_mut().for_each(|f| f.writable = false);
        assert_eq!(select(&[DISK], &stack), Selection::default());
    }

    #[test]
    fn what_cannot_be_placed_is_an_obstacle() {
        let mut stack = stack(
            vec![device(DISK, &[]), looped((7, 3), Backing::Unknown("/gone".to_owned()))],
            vec![filesystem((7, 3), "ext4", &[(7, 3)]), filesystem((0, 60), "zfs", &[])],
        );
        let selection = select(&[DISK], &stack);
        assert_eq!(selection.obstacles.len(), 2);
        assert!(selection.obstacles[0].reason.contains("/gone"));
        // A disk that is known to be used by something else is not the pool's.
        stack.filesystems.push(filesystem(DISK, "ext4", &[DISK]));
        assert_eq!(select(&[DISK], &stack).obstacles.len(), 1);
    }

    #[test]
    fn a_circle_is_not_frozen() {
        let stack = stack(
            vec![device(DISK, &[]), looped((7, 0), Backing::On((7, 1))), looped((7, 1), Backing::On((7, 0)))],
            vec![filesystem((7, 0), "ext4", &[(7, 0), DISK]), filesystem((7, 1), "ext4", &[(7, 1)])],
        );
        let selection = select(&[DISK], &stack);
        assert!(selection.order.is_empty());
        assert_eq!(selection.obstacles.len(), 2);
    }

    #[test]
    fn swap_on_the_disk_is_named() {
        let mut stack = stack(
            vec![device(DISK, &[]), device((8, 1), &[DISK])],
            vec![filesystem((8, 1), "ext4", &[(8, 1)])],
        );
        let swap = |name: &str, on| SwapArea { name: name.to_owned(), on };
        stack.swaps = vec![swap("/dev/sda2", DISK), swap("/swapfile", (8, 1)), swap("/dev/zram0", (252, 0))];
        assert_eq!(select(&[DISK], &stack).swaps, ["/dev/sda2", "/swapfile"]);
    }
}
