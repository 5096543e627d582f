//! A container: a child in new user, network and mount namespaces.

use std::os::fd::OwnedFd;
use std::process::Command;

use netferry::sys::descriptor::{pair, receive_descriptor, send_descriptor};
use netferry::sys::id_map::{IdMapping, write_id_maps};
use netferry::sys::namespace::unshare_user_net_mount;
use netferry::sys::process::{Child, ExitKind, fork_child};

/// A running container and the socket to it.
pub struct Container {
    pub child: Child,
    pub socket: OwnedFd,
    /// What mapping identities had to say.
    pub note: Option<String>,
}

impl Container {
    /// Runs `body` in a container; the socket leads here.
    pub fn start(mapping: &IdMapping, body: impl FnOnce(OwnedFd)) -> Container {
        let (near, far) = pair().unwrap();
        let mut near = Some(near);
        let child = fork_child(|| {
            // The child's copy would keep it from seeing that ours is closed.
            drop(near.take());
            unshare_user_net_mount().unwrap();
            send_descriptor(&far, None, b"unshared").unwrap();
            receive_descriptor(&far, &mut [0; 16]).unwrap();
            body(far);
            0
        })
        .unwrap();
        let near = near.unwrap();
        assert_eq!(receive_descriptor(&near, &mut [0; 16]).unwrap().0, b"unshared".len());
        let note = write_id_maps(child.pid(), mapping).unwrap();
        send_descriptor(&near, None, b"mapped").unwrap();
        Container { child, socket: near, note }
    }

    /// Waits until it has ended well.
    pub fn finish(self) {
        drop(self.socket);
        assert_eq!(self.child.wait().unwrap(), ExitKind::Exited(0));
    }
}

/// Runs `body` in a container with the identities that `netferry run` would give, and waits for its good end.
pub fn contained(body: impl FnOnce()) {
    let mapping = IdMapping::root_with_ranges().unwrap();
    Container::start(&mapping, |_| body()).finish();
}

/// A container that does nothing until the socket to it is closed.
pub fn idle_container() -> Container {
    let mapping = IdMapping::root_with_ranges().unwrap();
    Container::start(&mapping, |socket| {
        receive_descriptor(&socket, &mut [0; 16]).unwrap();
    })
}

/// What a program prints; it must succeed.
pub fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {} {complaint}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
