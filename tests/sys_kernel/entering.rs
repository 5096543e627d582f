//! Entering the namespaces of a container that exists.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use netferry::sys::namespace::{NamespaceError, NamespaceTarget, enter};
use netferry::sys::netlink::Netlink;
use netferry::sys::process::{ExitKind, fork_child};
use netferry::sys::tap::{Tap, TapFeatures};

use crate::Case;
use crate::container::{contained, idle_container};

pub const CASES: &[Case] = &[
    ("entering_by_process_number_gives_every_right_over_its_network", by_number),
    ("entering_by_path_finds_the_owning_user_namespace", by_path),
    ("entering_by_both_paths_uses_the_one_given", by_both_paths),
    ("entering_our_own_namespace_changes_nothing_for_its_owner", our_own),
    ("entering_a_namespace_of_somebody_outside_is_refused", outside),
    ("entering_a_process_that_has_ended_is_refused", ended),
];

fn identity(path: &str) -> (u64, u64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

/// A child enters the target, must find itself in namespace `expected`, and can make and configure a device there.
fn enters(target: &NamespaceTarget, expected: (u64, u64)) {
    let child = fork_child(|| {
        enter(target).unwrap();
        assert_eq!(identity("/proc/self/ns/net"), expected);
        let _tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap0").unwrap();
        netlink.set_up(index).unwrap();
        0
    });
    assert_eq!(child.unwrap().wait().unwrap(), ExitKind::Exited(0));
}

fn by_number() {
    let container = idle_container();
    let pid = container.child.pid();
    enters(&NamespaceTarget::Pid(pid), identity(&format!("/proc/{pid}/ns/net")));
    container.finish();
}

fn by_path() {
    let container = idle_container();
    let netns = format!("/proc/{}/ns/net", container.child.pid());
    let target = NamespaceTarget::Paths { netns: PathBuf::from(&netns), userns: None };
    assert!(target.open().unwrap().changes_user());
    assert!(target.open().unwrap().into_user().is_some());
    enters(&target, identity(&netns));
    container.finish();
}

fn by_both_paths() {
    let container = idle_container();
    let file = |kind: &str| format!("/proc/{}/ns/{kind}", container.child.pid());
    let target = NamespaceTarget::Paths { netns: file("net").into(), userns: Some(file("user").into()) };
    enters(&target, identity(&file("net")));
    // The other way round neither is what it should be.
    let swapped = NamespaceTarget::Paths { netns: file("user").into(), userns: Some(file("net").into()) };
    assert!(matches!(swapped.open().unwrap_err(), NamespaceError::WrongKind { wanted: "network", .. }));
    container.finish();
}

fn our_own() {
    contained(|| {
        let target = NamespaceTarget::Pid(i32::try_from(std::process::id()).unwrap());
        assert!(!target.open().unwrap().changes_user());
        enters(&target, identity("/proc/self/ns/net"));
    });
}

fn outside() {
    // Opened here, where it may be; passed on by its number in our table of descriptors.
    let ours = fs::File::open("/proc/self/ns/net").unwrap();
    contained(|| {
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/self/fd/{}", ours.as_raw_fd()));
        let error = enter(&NamespaceTarget::Paths { netns: path, userns: None }).unwrap_err();
        assert!(matches!(error, NamespaceError::ForeignOwner { .. }), "{error}");
        let parent = NamespaceTarget::Pid(nix::unistd::getppid().as_raw());
        let error = enter(&parent).unwrap_err();
        assert!(
            matches!(error, NamespaceError::ForeignOwner { .. } | NamespaceError::NotReadable { .. }),
            "{error}"
        );
    });
}

fn ended() {
    let child = fork_child(|| 0).unwrap();
    let pid = child.pid();
    child.wait().unwrap();
    let error = NamespaceTarget::Pid(pid).open().unwrap_err();
    assert!(matches!(error, NamespaceError::NoSuchProcess { .. }), "{error}");
}
