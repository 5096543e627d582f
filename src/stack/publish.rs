//! Published ports: which there are, and finding a name for a client's flow.

pub mod watch;

use std::net::SocketAddr;

use super::boundary::{FlowId, ListenerId};
use super::flow::{FlowKey, FlowProtocol, Way};
use super::forward::{self, Inbound};
use super::{Flow, Stack};
use crate::config::PublishRule;

/// First port tried for a client whose own is taken; below are ports that services listen on.
const FIRST_SUBSTITUTE_PORT: u16 = 1_024;

/// Ports tried before a client is refused.
const PORTS_TRIED: u16 = 256;

/// Why a port is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishRefusal {
    /// `Limits::published_ports`.
    #[error("{0} ports are published, and that is the limit; remove some first")]
    TooMany(usize),
    /// The server's address is not one that the container can have.
    #[error("the container cannot have that address; give one of its subnet, or none")]
    NotTheContainers,
}

impl Stack {
    /// Publishes one more port, whose listener the driver has open or will open at once.
    pub fn publish(&mut self, rule: PublishRule) -> Result<ListenerId, PublishRefusal> {
        let limit = self.config.limits.published_ports;
        if self.published.len() >= limit {
            return Err(PublishRefusal::TooMany(limit));
        }
        if !forward::can_publish(&self.config.link, &rule) {
            return Err(PublishRefusal::NotTheContainers);
        }
        let listener = self.next_listener;
        self.next_listener = listener.checked_add(1).ok_or(PublishRefusal::TooMany(limit))?;
        self.published.insert(listener, rule);
        self.watch_port(listener);
        Ok(ListenerId(listener))
    }

    /// Publishes a port no longer; the driver closes its listener. Connections that exist go on; exchanges of
    /// datagrams end, since they live by the listener's socket. `None` if there is no such port.
    pub fn unpublish(&mut self, listener: ListenerId) -> Option<PublishRule> {
        let rule = self.published.remove(&listener.0)?;
        self.unwatch_port(listener.0);
        self.flows.ledger_mut().forget(Way::Published(listener));
        let over: Vec<FlowId> =
            self.clients.iter().filter(|((via, ..), _)| *via == listener).map(|(_, flow)| *flow).collect();
        for flow in over {
            self.close_datagram_flow(flow);
        }
        Some(rule)
    }

    /// What a published port leads to.
    #[must_use]
    pub fn rule(&self, listener: ListenerId) -> Option<&PublishRule> {
        self.published.get(&listener.0)
    }

    /// The ports that are published now, in the order of their publication.
    pub fn published(&self) -> impl Iterator<Item = (ListenerId, &PublishRule)> {
        self.published.iter().map(|(listener, rule)| (ListenerId(*listener), rule))
    }

    /// The key of a new flow from a client: its own address and port, unless another flow has them.
    ///
    /// Only a client that appears as the gateway may get another port, because only there two different clients
    /// can look alike. A flow in TIME-WAIT gives way (RFC 6191).
    pub(super) fn free_key(&mut self, protocol: FlowProtocol, inbound: &Inbound) -> Option<FlowKey> {
        let wanted = FlowKey { protocol, container: inbound.server, remote: inbound.client };
        if self.is_free(&wanted) {
            return Some(wanted);
        }
        if !inbound.masked {
            return None;
        }
        let base = inbound.client.port().max(FIRST_SUBSTITUTE_PORT);
        (1..PORTS_TRIED)
            .map(|step| {
                let port = base.checked_add(step).unwrap_or(FIRST_SUBSTITUTE_PORT + step);
                FlowKey { remote: SocketAddr::new(inbound.client.ip(), port), ..wanted }
            })
            .find(|key| self.share.is_mine(key) && self.is_free(key))
    }

    fn is_free(&mut self, key: &FlowKey) -> bool {
        let Some(flow) = self.flows.find(key) else { return true };
        if matches!(self.flows.get(flow), Some(Flow::TimeWait(_))) {
            self.flows.remove(flow);
            return true;
        }
        false
    }
}
