//! What the user is told of the core's events, and of the end.

use tracing::{debug, error, warn};

use crate::stack::boundary::StackEvent;

/// Says so when the driver ends by a panic, which may have been told of before it was fatal.
pub enum Obituary {
    /// The process ends with it.
    OfAll,
    /// Of several containers on a network, one has lost its driver.
    OfOne,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        match self {
            Obituary::OfAll => {
                error!("netferry ends by a fault of its own, and the container's network with it")
            }
            Obituary::OfOne => {
                error!("a container has lost its network by a fault of netferry's own; the others go on")
            }
        }
    }
}

/// Tells the user what he may want to know.
pub fn log_event(event: &StackEvent) {
    match event {
        StackEvent::FlowOpened { flow, protocol, container, remote, target } => {
            debug!(slot = flow.slot, protocol, %container, %remote, %target, "flow opened");
        }
        StackEvent::FlowClosed { flow } => debug!(slot = flow.slot, "flow closed"),
        StackEvent::EchoForbidden => warn!(
            "ping does not work: the host's sysctl net.ipv4.ping_group_range leaves this user's groups out; as its \
             administrator run `sysctl -w net.ipv4.ping_group_range='0 2147483647'`"
        ),
        StackEvent::Faulted { ended: Some((container, remote)) } => {
            error!(
                "the connection of {container} to {remote} was ended by a fault of netferry's own; all others go on"
            );
        }
        StackEvent::Faulted { ended: None } => {
            error!("a packet was lost by a fault of netferry's own; all connections go on");
        }
        StackEvent::NoResolver => warn!(
            "DNS does not work: /etc/resolv.conf of the host names no resolver; add one there or give --dns ADDRESS"
        ),
    }
}
