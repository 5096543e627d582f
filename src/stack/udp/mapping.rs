//! Which UDP flows share a port of the host: those of one endpoint of the container.
//!
//! RFC 4787 REQ-1: all peers see an endpoint of the container at the same address and port, whoever was asked first. The
//! driver binds the second socket to the port of the first; this only knows which flows there are.

use std::collections::HashMap;
use std::net::SocketAddr;

use ahash::RandomState;

use crate::stack::boundary::FlowId;

/// Flows with connected sockets of their own, by the container's endpoint.
#[derive(Debug)]
pub struct Mappings {
    flows: HashMap<SocketAddr, Vec<FlowId>, RandomState>,
}

impl Mappings {
    /// None yet. The container cannot aim for one bucket, by the hasher's secret.
    #[must_use]
    pub fn new(hasher: RandomState) -> Mappings {
        Mappings { flows: HashMap::with_hasher(hasher) }
    }

    /// Adds a flow of `container`; another whose port it is to share. The flow that is one too many shares none.
    pub fn join(&mut self, container: SocketAddr, flow: FlowId, most: usize) -> Option<FlowId> {
        let flows = self.flows.entry(container).or_default();
        let beside = flows.first().copied();
        if flows.len() >= most {
            return None;
        }
        flows.push(flow);
        beside
    }

    /// A flow is over.
    pub fn leave(&mut self, container: SocketAddr, flow: FlowId) {
        let Some(flows) = self.flows.get_mut(&container) else { return };
        if let Some(place) = flows.iter().position(|other| *other == flow) {
            flows.swap_remove(place);
        }
        if flows.is_empty() {
            self.flows.remove(&container);
        }
    }

    /// Keeps what `is_alive` says.
    pub fn retain(&mut self, is_alive: impl Fn(FlowId) -> bool) {
        self.flows.retain(|_, flows| {
            flows.retain(|flow| is_alive(*flow));
            !flows.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_an_endpoint_share_as_long_as_there_is_one_and_only_so_many() {
        let mut mappings = Mappings::new(RandomState::with_seeds(1, 2, 3, 4));
        let (one, other) = (SocketAddr::from(([10, 0, 2, 100], 7)), SocketAddr::from(([10, 0, 2, 101], 7)));
        let flow = |slot| FlowId { slot, generation: 0 };
        assert_eq!(mappings.join(one, flow(0), 3), None);
        assert_eq!(mappings.join(one, flow(1), 3), Some(flow(0)));
        assert_eq!(mappings.join(other, flow(2), 3), None, "another endpoint");
        mappings.leave(one, flow(0));
        assert_eq!(mappings.join(one, flow(3), 3), Some(flow(1)));
        assert_eq!(mappings.join(one, flow(4), 3), Some(flow(1)));
        assert_eq!(mappings.join(one, flow(5), 3), None, "one too many");
        for slot in [1, 3, 4, 5, 2] {
            mappings.leave(if slot == 2 { other } else { one }, flow(slot));
        }
        assert!(mappings.flows.is_empty());
    }
}
