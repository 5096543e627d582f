//! The settings of a network namespace that a container wants and its owner may change.
//!
//! All of them are about the namespace of the calling process, so they are written from inside. Each is a
//! convenience: where `/proc/sys` is read-only or hidden, the container works without.

use std::fs;
use std::path::{Path, PathBuf};

const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
const LOW_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// The kernel's own bound on a group here.
const MAX_GROUP: u32 = i32::MAX as u32;

/// Lets every group of the container open ping sockets (a new namespace lets none, so that `ping` would need
/// a capability). As wide as our user namespace can name groups; answers whether it could be set at all.
pub fn permit_ping() -> bool {
    let gid_map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    ping_ranges(&gid_map).iter().any(|range| fs::write(PING_GROUPS, range).is_ok())
}

/// Lets servers in the container bind ports below 1024 whoever they run as; answers whether it could be set.
pub fn permit_low_ports() -> bool {
    fs::write(LOW_PORTS, "0").is_ok()
}

/// Makes IPv6 usable at once on an interface that has nobody else on it: enabled, without asking around
/// whether an address is taken. Router advertisements stay heard. Answers whether all could be set.
pub fn settle_ipv6(interface: &str) -> bool {
    let directory = PathBuf::from("/proc/sys/net/ipv6/conf").join(interface);
    let set = |name: &str, value: &str| write_in(&directory, name, value);
    // Not short-circuited: each one helps.
    [set("disable_ipv6", "0"), set("accept_dad", "0"), set("dad_transmits", "0")].iter().all(|&done| done)
}

fn write_in(directory: &Path, name: &str, value: &str) -> bool {
    fs::write(directory.join(name), value).is_ok()
}

/// What to try, widest first. The kernel takes only groups that the writer's user namespace maps.
fn ping_ranges(gid_map: &str) -> Vec<String> {
    let mut ranges = vec![format!("0 {MAX_GROUP}")];
    if let Some(highest) = highest_group(gid_map) {
        ranges.push(format!("0 {highest}"));
    }
    ranges.push("0 0".to_string());
    ranges
}

fn highest_group(gid_map: &str) -> Option<u32> {
    let last_of = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [inside, _, count] = *numbers.as_slice() else { return None };
        let last = inside.checked_add(count)?.checked_sub(1)?;
        Some(u32::try_from(last).unwrap_or(MAX_GROUP).min(MAX_GROUP))
    };
    gid_map.lines().filter_map(last_of).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_group_mapped_bounds_the_range() {
        let subordinate = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(ping_ranges(subordinate), ["0 2147483647", "0 65536", "0 0"]);
        assert_eq!(ping_ranges("0 1000 1\n"), ["0 2147483647", "0 0", "0 0"]);
        assert_eq!(highest_group("0 0 4294967295\n"), Some(MAX_GROUP));
    }

    #[test]
    fn an_unreadable_map_leaves_the_widest_and_the_narrowest() {
        assert_eq!(ping_ranges(""), ["0 2147483647", "0 0"]);
        assert_eq!(highest_group("x y z\n"), None);
    }
}
