//! Users and groups of a new user namespace, and systems that have none.

use std::fs;

use netferry::sys::descriptor::receive_descriptor;
use netferry::sys::id_map::{IdMapping, IdRange};
use netferry::sys::namespace::{NamespaceError, unshare_user_net_mount};
use nix::unistd::{getegid, geteuid};

use crate::Case;
use crate::container::{Container, contained};

pub const CASES: &[Case] = &[
    ("identities_widest_mapping_is_written_as_it_is_meant", widest_mapping),
    ("identities_root_alone_needs_nothing", root_alone),
    ("identities_that_may_not_be_given_leave_root_and_a_note", fall_back),
    ("identities_can_be_given_once_more_in_a_nested_container", nested),
    ("namespaces_forbidden_by_a_setting_are_told_by_its_name", forbidden_by_setting),
];

fn numbers(path: &str) -> Vec<Vec<u32>> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect()
}

/// What a container says of its own maps: the outside is as seen from the parent of its namespace.
fn mapped(container: &Container, file: &str) -> Vec<IdRange> {
    let lines = numbers(&format!("/proc/{}/{file}", container.child.pid()));
    lines.iter().map(|line| IdRange { inside: line[0], outside: line[1], count: line[2] }).collect()
}

fn start(mapping: &IdMapping) -> Container {
    Container::start(mapping, |socket| {
        assert!(geteuid().is_root());
        assert_eq!(getegid().as_raw(), 0);
        receive_descriptor(&socket, &mut [0; 16]).unwrap();
    })
}

fn widest_mapping() {
    let mapping = IdMapping::root_with_ranges().unwrap();
    let container = start(&mapping);
    assert_eq!(container.note, None);
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let (users, groups) = match mapping.clone() {
        IdMapping::Identity { users, groups } | IdMapping::Subordinate { users, groups } => (users, groups),
        IdMapping::RootOnly { user, group } => (one(user), one(group)),
    };
    assert_eq!((users[0].outside, groups[0].outside), (user, group));
    assert_eq!(mapping.user_count(), users.iter().map(|range| u64::from(range.count)).sum::<u64>());
    assert_eq!(mapped(&container, "uid_map"), users);
    assert_eq!(mapped(&container, "gid_map"), groups);
    container.finish();
}

fn one(outside: u32) -> Vec<IdRange> {
    vec![IdRange { inside: 0, outside, count: 1 }]
}

fn root_alone() {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let container = start(&IdMapping::RootOnly { user, group });
    assert_eq!(container.note, None);
    assert_eq!(mapped(&container, "uid_map"), one(user));
    assert_eq!(mapped(&container, "gid_map"), one(group));
    container.finish();
}

fn fall_back() {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    // Overlapping ranges are refused to everybody.
    let range = |outside| IdRange { inside: 0, outside, count: 2 };
    let refused = vec![range(user), range(user)];
    for mapping in [
        IdMapping::Subordinate { users: refused.clone(), groups: refused.clone() },
        IdMapping::Identity { users: refused.clone(), groups: refused.clone() },
    ] {
        let container = start(&mapping);
        let note = container.note.clone().unwrap();
        assert!(note.starts_with("only root exists in the new user namespace: "), "{note}");
        assert_eq!(mapped(&container, "uid_map"), one(user));
        assert_eq!(mapped(&container, "gid_map"), one(group));
        container.finish();
    }
}

fn nested() {
    contained(|| {
        let mapping = IdMapping::root_with_ranges().unwrap();
        assert!(matches!(mapping, IdMapping::Identity { .. }));
        let container = start(&mapping);
        assert_eq!(container.note, None);
        let insides =
            |ranges: &[IdRange]| ranges.iter().map(|range| (range.inside, range.count)).collect::<Vec<_>>();
        let own: Vec<_> = numbers("/proc/self/uid_map").iter().map(|line| (line[0], line[2])).collect();
        assert_eq!(insides(&mapped(&container, "uid_map")), own);
        container.finish();
    });
}

fn forbidden_by_setting() {
    contained(|| {
        // Counts in this user namespace and below only.
        fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
        let error = unshare_user_net_mount().unwrap_err();
        assert!(
            matches!(error, NamespaceError::Disabled { setting: "user.max_user_namespaces", .. }),
            "{error}"
        );
    });
}
