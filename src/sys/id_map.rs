//! Who the users and groups of a new user namespace are outside of it.
//!
//! Written by the parent of the process that made the namespace, because only outside of it can the helpers
//! `newuidmap` and `newgidmap` give away the user's subordinate ranges. Three ways, best first:
//!
//! - with `CAP_SETUID` and `CAP_SETGID` (root, or root of a surrounding user namespace): everything we have
//!   ourselves, unchanged;
//! - with ranges in `/etc/subuid` and `/etc/subgid` and the helpers installed: the user becomes root inside,
//!   and the ranges follow from 1 on;
//! - else the user becomes root inside, and nobody else exists there.
//!
//! References: user_namespaces(7), subuid(5), newuidmap(1).

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{getegid, geteuid};

/// The kernel takes this many lines (since Linux 4.15; five before).
const MAX_RANGES: usize = 340;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Why the identities could not be given.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// The kernel refused a map.
    #[error("cannot write {path}: {source}; a security module may forbid user namespaces to this program")]
    Write {
        /// The file in `/proc`.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Our own maps could not be read.
    #[error("cannot read {path}: {source}; is /proc mounted?")]
    Read {
        /// The file in `/proc`.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// `count` identities from `inside` on are those from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First identity in the new namespace.
    pub inside: u32,
    /// First identity in ours.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The identities of a new user namespace, and by which way they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMapping {
    /// Ours, unchanged; written with our own capabilities.
    Identity {
        /// Users.
        users: Vec<IdRange>,
        /// Groups.
        groups: Vec<IdRange>,
    },
    /// Root and subordinate ranges; written by the helpers.
    Subordinate {
        /// Users.
        users: Vec<IdRange>,
        /// Groups.
        groups: Vec<IdRange>,
    },
    /// Root alone; needs nothing.
    RootOnly {
        /// Our user.
        user: u32,
        /// Our group.
        group: u32,
    },
}

impl IdMapping {
    /// The widest mapping that this process may hope to write.
    pub fn root_with_ranges() -> Result<IdMapping, IdMapError> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        if user == 0 && may_set_ids() {
            return Ok(IdMapping::Identity {
                users: identity(&read_own("/proc/self/uid_map")?),
                groups: identity(&read_own("/proc/self/gid_map")?),
            });
        }
        let name = user_name(user);
        let ranges = |path: &str, own: u32| {
            let text = fs::read_to_string(path).unwrap_or_default();
            root_then(own, &subordinate_ranges(&text, name.as_deref(), user))
        };
        let users = ranges("/etc/subuid", user);
        let groups = ranges("/etc/subgid", group);
        let helpers = has_program("newuidmap") && has_program("newgidmap");
        if users.len() > 1 && groups.len() > 1 && helpers {
            return Ok(IdMapping::Subordinate { users, groups });
        }
        Ok(IdMapping::RootOnly { user, group })
    }

    /// How many users there are inside.
    pub fn user_count(&self) -> u64 {
        match self {
            IdMapping::Identity { users, .. } | IdMapping::Subordinate { users, .. } => {
                users.iter().map(|range| u64::from(range.count)).sum()
            }
            IdMapping::RootOnly { .. } => 1,
        }
    }
}

/// Gives the process `child`, which has made a user namespace and waits, its identities. If the wider mapping
/// is refused the user becomes root alone, and the answer says why, for a log.
pub fn write_id_maps(child: i32, mapping: &IdMapping) -> Result<Option<String>, IdMapError> {
    let note = match mapping {
        IdMapping::RootOnly { user, group } => return write_root_only(child, *user, *group).map(|()| None),
        IdMapping::Identity { users, groups } => {
            let written = write_file(child, "uid_map", &map_text(users))
                .and_then(|()| write_file(child, "gid_map", &map_text(groups)));
            match written {
                Ok(()) => return Ok(None),
                Err(error) => error.to_string(),
            }
        }
        IdMapping::Subordinate { users, groups } => {
            let written =
                run_helper("newuidmap", child, users).and_then(|()| run_helper("newgidmap", child, groups));
            match written {
                Ok(()) => return Ok(None),
                Err(note) => note,
            }
        }
    };
    write_root_only(child, geteuid().as_raw(), getegid().as_raw())?;
    Ok(Some(format!("only root exists in the new user namespace: {note}")))
}

/// A map may be written once. What an earlier attempt managed to write stays, and is good.
fn write_root_only(child: i32, user: u32, group: u32) -> Result<(), IdMapError> {
    if is_unwritten(child, "uid_map") {
        write_file(child, "uid_map", &format!("0 {user} 1"))?;
    }
    if is_unwritten(child, "gid_map") {
        // user_namespaces(7): without privilege a group map may be written only once setgroups(2) is given up.
        write_file(child, "setgroups", "deny")?;
        write_file(child, "gid_map", &format!("0 {group} 1"))?;
    }
    Ok(())
}

fn is_unwritten(child: i32, file: &str) -> bool {
    fs::read_to_string(format!("/proc/{child}/{file}")).map_or(true, |text| text.trim().is_empty())
}

fn write_file(child: i32, file: &str, text: &str) -> Result<(), IdMapError> {
    let path = format!("/proc/{child}/{file}");
    fs::write(&path, text).map_err(|source| IdMapError::Write { path, source })
}

fn run_helper(helper: &str, child: i32, ranges: &[IdRange]) -> Result<(), String> {
    let mut command = Command::new(helper);
    command.arg(child.to_string()).stdin(Stdio::null());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    let output = command.output().map_err(|error| format!("{helper}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{helper}: {}: {}", output.status, complaint.trim()))
}

fn map_text(ranges: &[IdRange]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

fn read_own(path: &'static str) -> Result<String, IdMapError> {
    fs::read_to_string(path).map_err(|source| IdMapError::Read { path, source })
}

/// Each identity of ours (the first column of our own map) as itself.
fn identity(own_map: &str) -> Vec<IdRange> {
    let lines = own_map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, _, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(IdRange { inside, outside: inside, count })
    });
    lines.take(MAX_RANGES).collect()
}

/// Lines `owner:start:count` of subuid(5) whose owner is `name` or the number `id`: (start, count).
fn subordinate_ranges(text: &str, name: Option<&str>, id: u32) -> Vec<(u32, u32)> {
    let id = id.to_string();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        if owner != id && Some(owner) != name {
            return None;
        }
        let (start, count) = (start.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        (count > 0 && start.checked_add(count).is_some()).then_some((start, count))
    });
    lines.collect()
}

/// Root is `own`, and the ranges follow from 1 on without a gap.
fn root_then(own: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = vec![IdRange { inside: 0, outside: own, count: 1 }];
    let mut next: u32 = 1;
    for &(outside, count) in ranges.iter().take(MAX_RANGES - 1) {
        let Some(after) = next.checked_add(count) else { break };
        map.push(IdRange { inside: next, outside, count });
        next = after;
    }
    map
}

/// The name of a user from /etc/passwd; the environment's word for it where it is kept elsewhere (newuidmap
/// checks it).
fn user_name(user: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in_passwd(&passwd, user).or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty())
}

fn name_in_passwd(passwd: &str, user: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == user).then(|| name.to_string())
    })
}

fn has_program(name: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|directory| is_file(&directory.join(name)))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Whether this process may map identities at will.
fn may_set_ids() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status)
        .is_some_and(|set| set & (1 << CAP_SETUID) != 0 && set & (1 << CAP_SETGID) != 0)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "other:1:9\nnf:100000:65536\n# nf:5:5\n1000:300000:10\n10000:7:7\nnf:bad:1\nnf:1:0\nnf:4294967295:2\n";
        assert_eq!(subordinate_ranges(text, Some("nf"), 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(subordinate_ranges(text, None, 1000), [(300_000, 10)]);
        assert_eq!(subordinate_ranges("", Some("nf"), 1000), []);
    }

    #[test]
    fn root_comes_first_and_the_ranges_follow_without_a_gap() {
        let map = root_then(1000, &[(100_000, 65_536), (300_000, 10)]);
        assert_eq!(map_text(&map), "0 1000 1\n1 100000 65536\n65537 300000 10\n");
    }

    #[test]
    fn ranges_beyond_what_there_can_be_are_left_out() {
        let map = root_then(1000, &[(1, u32::MAX - 1), (5, 10)]);
        assert_eq!(map.len(), 2);
        assert_eq!(root_then(1000, &[(1, 1); 400]).len(), MAX_RANGES);
    }

    #[test]
    fn the_identity_of_a_nested_namespace_has_its_own_numbers() {
        let map = identity("         0       1000          1\n         1     100000      65536\n");
        assert_eq!(map_text(&map), "0 0 1\n1 1 65536\n");
        assert_eq!(map_text(&identity("0 0 4294967295\n")), "0 0 4294967295\n");
    }

    #[test]
    fn users_are_named_by_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nnf:x:1000:1000::/home/nf:/bin/sh\n";
        assert_eq!(name_in_passwd(passwd, 1000).as_deref(), Some("nf"));
        assert_eq!(name_in_passwd(passwd, 7), None);
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = "Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t00000000000000c0\n";
        assert_eq!(effective_capabilities(status), Some(0xc0));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
