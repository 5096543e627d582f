//! What the container's mount namespace shows.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use netferry::sys::mounts::{MountError, bind_resolv_conf, make_private, show_own_sysfs};
use netferry::sys::netlink::Netlink;
use netferry::sys::tap::{Tap, TapFeatures};
use nix::mount::{MsFlags, mount};

use crate::Case;
use crate::container::contained;

pub const CASES: &[Case] = &[
    ("mounts_give_the_container_its_own_resolv_conf_and_leave_nothing_behind", own_resolv_conf),
    ("mounts_without_a_resolv_conf_to_replace_say_so", no_resolv_conf),
    ("mounts_show_the_container_its_own_interfaces", own_sysfs),
];

const CONTENT: &str = "nameserver 10.0.2.3\nsearch example.org\n";

fn entries(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn mount_points() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().map(|line| line.split(' ').nth(4).unwrap().to_string()).collect()
}

fn own_resolv_conf() {
    let before = fs::read("/etc/resolv.conf").unwrap();
    let target = fs::canonicalize("/etc/resolv.conf").unwrap();
    contained(|| {
        let (points, in_tmp) = (mount_points(), entries("/tmp"));
        make_private().unwrap();
        bind_resolv_conf(CONTENT).unwrap();
        assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), CONTENT);
        assert_eq!(fs::metadata("/etc/resolv.conf").unwrap().permissions().mode() & 0o777, 0o644);
        // Once more, over the first.
        bind_resolv_conf("nameserver 192.0.2.1\n").unwrap();
        assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), "nameserver 192.0.2.1\n");
        let mut expected = points;
        expected.insert(target.to_str().unwrap().to_string());
        assert_eq!(mount_points(), expected);
        assert_eq!(entries("/tmp"), in_tmp);
    });
    assert_eq!(fs::read("/etc/resolv.conf").unwrap(), before);
}

fn no_resolv_conf() {
    contained(|| {
        make_private().unwrap();
        // An empty /etc.
        mount(None::<&str>, "/etc", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert!(matches!(bind_resolv_conf(CONTENT), Err(MountError::NoResolvConf)));
        std::os::unix::fs::symlink("/nowhere", "/etc/resolv.conf").unwrap();
        assert!(matches!(bind_resolv_conf(CONTENT), Err(MountError::NoResolvConf)));
        // A link is followed.
        fs::create_dir("/etc/resolver").unwrap();
        fs::write("/etc/resolver/stub", "").unwrap();
        fs::remove_file("/etc/resolv.conf").unwrap();
        std::os::unix::fs::symlink("resolver/stub", "/etc/resolv.conf").unwrap();
        bind_resolv_conf(CONTENT).unwrap();
        assert_eq!(fs::read_to_string("/etc/resolver/stub").unwrap(), CONTENT);
    });
}

fn own_sysfs() {
    contained(|| {
        let (points, groups) = (mount_points(), entries("/sys/fs/cgroup"));
        make_private().unwrap();
        let _tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        assert!(Netlink::open().unwrap().link_exists("tap0").unwrap());
        assert!(show_own_sysfs());
        assert_eq!(entries("/sys/class/net"), BTreeSet::from(["lo".to_string(), "tap0".to_string()]));
        assert_eq!(entries("/sys/fs/cgroup"), groups);
        assert_eq!(mount_points(), points);
    });
}
