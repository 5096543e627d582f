//! How much memory this process may use: the machine's, or what a control group leaves of it; and giving back what it does not.
//!
//! A limit counts wherever it stands between the process's group and the root, in either version of control groups.
//! References: cgroups(7), proc_meminfo(5), the kernel's `admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.

use std::fs;
use std::path::{Path, PathBuf};

const GROUPS: &str = "/proc/self/cgroup";
const MACHINE: &str = "/proc/meminfo";
/// Where a hierarchy may be mounted, the limit's file, and the word for it in [`GROUPS`]: nothing for version 2.
const HIERARCHIES: [(&str, &str, &str); 3] = [
    ("/sys/fs/cgroup", "memory.max", ""),
    ("/sys/fs/cgroup/unified", "memory.max", ""),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory"),
];

/// In bytes; `None` where neither tells.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string(MACHINE).ok().and_then(|text| total(&text));
    let groups = fs::read_to_string(GROUPS).unwrap_or_default();
    machine.into_iter().chain(limits(Path::new("/"), &groups)).min()
}

/// Gives memory that nobody holds any more back to the kernel. The C library keeps what was freed in pieces or below something
/// that is still held, however much it is; it takes milliseconds, and is for when a rare and large use has ended.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and moves nothing that is allocated.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Every limit of the groups that `text` (proc's own) names, below `root`.
fn limits(root: &Path, text: &str) -> Vec<u64> {
    let mut found = Vec::new();
    for (mounted, file, word) in HIERARCHIES {
        let mounted = root.join(mounted.trim_start_matches('/'));
        let Some(group) = text.lines().find_map(|line| group_in(line, word)) else { continue };
        let own = mounted.join(group.trim_start_matches('/'));
        // Up to the place it is mounted at: what a namespace hides above has no file here.
        let ancestors = own.ancestors().take_while(|group| group.starts_with(&mounted));
        found.extend(ancestors.filter_map(|group| limit(&group.join(file))));
    }
    found
}

/// The path in a line such as `4:memory:/a/b` or `0::/a/b`.
fn group_in<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    controllers.split(',').any(|controller| controller == word).then_some(group)
}

/// `max` is no limit, and no number either.
fn limit(file: &PathBuf) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_some_memory() {
        assert!(available_bytes().unwrap() > 16 << 20);
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(total("nothing"), None);
    }

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/fs/cgroup/a/memory.max", "67108864\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1024\n");
        assert_eq!(limits(root.path(), "0::/a/b\n"), [67_108_864]);
        assert_eq!(limits(root.path(), "4:cpu,memory:/c\n3:pids:/a\n"), [1_024]);
        assert_eq!(limits(root.path(), "0::/elsewhere\n"), [] as [u64; 0]);
        assert_eq!(limits(root.path(), "garbage\n"), [] as [u64; 0]);
    }
}
