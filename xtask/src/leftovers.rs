//! What a test run left behind: anything that still carries the run's tag or uses its folder.

use crate::support::fixture::RUN_VARIABLE;
use std::fs;
use std::path::Path;

/// One line per thing left behind by the run with this tag, whose temporary files went to `folder`.
pub fn find(tag: &str, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(processes(tag));
    found.extend(mounts(tag, folder));
    found.extend(loop_devices(tag, folder));
    for place in ["/dev/shm", "/sys/fs/bpf", "/sys/fs/bpf/blxrep"] {
        found.extend(names(Path::new(place)).filter(|n| n.contains(tag)).map(|n| format!("{place}/{n}")));
    }
    found.extend(names(folder).map(|name| format!("{}/{name}", folder.display())));
    found
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Processes that inherited the run's tag, this one excepted.
fn processes(tag: &str) -> Vec<String> {
    let variable = format!("{RUN_VARIABLE}={tag}");
    let own = std::process::id().to_string();
    let tagged = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|entry| entry == variable.as_bytes())
    };
    let pids = names(Path::new("/proc")).filter(|n| n.bytes().all(|b| b.is_ascii_digit()) && *n != own);
    let describe = |pid: String| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid}: {}", String::from_utf8_lossy(&command).replace('\0', " "))
    };
    pids.filter(tagged).map(describe).collect()
}

fn mounts(tag: &str, folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let ours = points.filter(|point| point.contains(tag) || Path::new(point).starts_with(folder));
    ours.map(|point| format!("mount {point}")).collect()
}

fn loop_devices(tag: &str, folder: &Path) -> Vec<String> {
    let devices = names(Path::new("/sys/block")).filter(|name| name.starts_with("loop"));
    let backed = devices.filter_map(|name| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        (file.contains(tag) || Path::new(&file).starts_with(folder))
            .then(|| format!("/dev/{name} over {file}"))
    });
    backed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_and_a_file_are_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let tag = format!("leftovers-{}", std::process::id());
        assert_eq!(find(&tag, folder.path()), Vec::<String>::new());
        fs::write(folder.path().join("forgotten"), "").unwrap();
        let mut sleeper =
            Command::new("sleep").arg("60").env(RUN_VARIABLE, &tag).stdout(Stdio::null()).spawn().unwrap();
        // Between fork and exec the child still has our environment.
        let seen = (0..100).map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            find(&tag, folder.path())
        });
        let seen = seen.into_iter().find(|found| found.len() == 2);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let seen = seen.expect("a process and a file");
        assert!(seen[0].starts_with(&format!("process {}: sleep 60", sleeper.id())), "{seen:?}");
        assert!(seen[1].ends_with("/forgotten"), "{seen:?}");
    }
}
