//! The process in the container that opens sockets for us (see [`crate::sys::socket::inner`]): how it comes to be,
//! and that it goes when we do.

use std::net::IpAddr;
use std::os::fd::AsFd;

use super::{Doing, RunError, confine_calls, die_with, waiver};
use crate::cli::Plan;
use crate::config::{Forwarding, LinkConfig};
use crate::sys::confined::{Confined, Sandboxed};
use crate::sys::daemon::{close_all_but, leave_standard_streams};
use crate::sys::host;
use crate::sys::namespace::Namespaces;
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::proc_net::PortTables;
use crate::sys::process;
use crate::sys::sandbox::{self, SandboxPlan};
use crate::sys::seccomp::Calls;
use crate::sys::socket::inner::{self, InnerSockets, Tables};
use crate::worker::loopback::LoopbackPaths;

/// Starts it, confined as the plan has it. What is open here by now is closed there.
pub fn start(plan: &Plan, namespaces: &Namespaces, link: &LinkConfig) -> Result<LoopbackPaths, RunError> {
    let (inside, line) = InnerSockets::pair().doing("make a line to the container")?;
    let host_tables = PortTables::own().doing("read which ports are bound")?;
    let ipv4 = link.ipv4.map(|ipv4| IpAddr::V4(ipv4.container));
    let own: Vec<IpAddr> = ipv4.into_iter().chain(link.ipv6.map(|ipv6| IpAddr::V6(ipv6.container))).collect();
    let parent = std::process::id();
    // It ends with the line, or with us, and nobody waits for it.
    let _child = process::fork_child(|| {
        let mut keep = vec![line.as_fd()];
        keep.extend(namespaces.descriptors());
        let served = close_all_but(&keep)
            .and_then(|()| leave_standard_streams())
            .map_err(|error| error.to_string())
            .and_then(|()| namespaces.enter().map_err(|error| error.to_string()))
            .and_then(|()| die_with(parent).map_err(|error| error.to_string()))
            .and_then(|()| loopback_up().map_err(|error| error.to_string()))
            .and_then(|()| Tables::open().map_err(|error| error.to_string()))
            .and_then(|tables| Ok((tables, confine(plan).map_err(|error| error.to_string())?)))
            .and_then(|(tables, confined)| {
                inner::serve(line.as_fd(), &own, &tables, confined).map_err(|error| error.to_string())
            });
        match served {
            Ok(()) => 0,
            // It has nobody to tell but the line, whose end tells it.
            Err(_) => 1,
        }
    })
    .doing("start a process")?;
    drop(line);
    // The first answer: from now on it is there.
    let container_tables = inside.tables().doing("read which ports are bound in the container")?;
    Ok(LoopbackPaths { inside, host_tables, container_tables, ephemeral: host::ephemeral_ports() })
}

/// Gives up what opening sockets of the container's loopback does not need.
fn confine(plan: &Plan) -> Result<Confined, RunError> {
    let sandboxed = if plan.confinement.has_sandbox() {
        // Servers of the host below port 1024 are listened for, where that takes the capability.
        let low_ports = plan.forwarding.outward != Forwarding::default();
        sandbox::enter(&SandboxPlan { low_ports, ..SandboxPlan::default() })?
    } else {
        Sandboxed::waived(waiver(plan))
    };
    confine_calls(plan, Calls::Inner, sandboxed)
}

/// Nothing goes from loopback to loopback while one of them is down.
fn loopback_up() -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let loopback = netlink.link_index("lo")?;
    netlink.set_up(loopback)
}
