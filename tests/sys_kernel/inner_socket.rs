//! Sockets of a container's network, used from outside.

use std::os::fd::AsFd;

use netferry::sys::namespace::{NamespaceTarget, enter};
use netferry::sys::process::{ExitKind, fork_child};
use netferry::sys::sandbox::{self, SandboxPlan};
use netferry::sys::seccomp::{Calls, install};
use netferry::sys::socket::inner::{InnerSockets, Tables, serve};
use netferry::sys::socket::{SocketError, StreamListener};

use crate::Case;
use crate::container::idle_container;

pub const CASES: &[Case] = &[("sockets_opened_inside_belong_to_the_container_and_are_used_outside", inside)];

fn inside() {
    let container = idle_container();
    let target = NamespaceTarget::Pid(container.child.pid());
    let (sockets, line) = InnerSockets::pair().unwrap();
    // The child must not hold our end, or it would never see it closed.
    let mut ours = Some(sockets);
    let helper = fork_child(|| {
        drop(ours.take());
        enter(&target).unwrap();
        let tables = Tables::open().unwrap();
        let sandboxed = sandbox::enter(&SandboxPlan::default()).unwrap();
        assert_eq!(std::fs::read_dir("/").unwrap().count(), 0);
        let confined = install(Calls::Inner, sandboxed).unwrap();
        serve(line.as_fd(), &[], &tables, confined).map_or(1, |()| 0)
    })
    .unwrap();
    let sockets = ours.take().unwrap();
    drop(line);
    // The port is free on both sides: two namespaces, two ports.
    let outer = StreamListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = outer.local_address().unwrap();
    let inner = sockets.listen(address).unwrap();
    assert_eq!(inner.local_address().unwrap(), address);
    let mut found = Vec::new();
    sockets.tables().unwrap().for_each(true, |port| found.push(port)).unwrap();
    assert_eq!(found, [address.port()]);
    // Its loopback is down, so that nobody inside can be reached: not our listener, above all.
    assert_eq!(sockets.connect(address).map(|_| ()), Err(SocketError::NetworkUnreachable));
    drop(sockets);
    assert_eq!(helper.wait().unwrap(), ExitKind::Exited(0));
    container.finish();
}
