//! What a core has to leave to another worker's: the driver carries it there.
//!
//! With all flows in one hand there is nothing to leave. See [`super::share`].

use std::net::SocketAddr;

use super::Stack;
use super::boundary::{Instant, ListenerId};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol};
use super::forward;
use super::share::Share;
use crate::config::PublishRule;
use crate::config::limits::SUSPECTS;
use crate::stack::boundary::FlowId;
use crate::wire::MacAddr;
use crate::wire::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame};

/// What waits to be carried.
#[derive(Debug, Default)]
pub(super) struct Errands {
    /// Whole frames, and whose they are.
    strays: Vec<(usize, Vec<u8>)>,
    /// Servers that have refused a client, each once.
    suspects: Vec<SocketAddr>,
}

impl Errands {
    /// A packet that came in fragments is whole, and another's: as if it had come so, in a frame like that of its last part.
    pub(super) fn stray(&mut self, owner: usize, last: &Frame<'_>, packet: &[u8]) {
        let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let ethertype = if is_ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let frame = [&last.destination.0, &last.source.0, &ethertype.to_be_bytes()[..], packet].concat();
        self.strays.push((owner, frame));
    }

    /// A server has refused a client. One beyond the limit will do so again.
    pub(super) fn suspect(&mut self, server: SocketAddr) {
        if self.suspects.len() < SUSPECTS && !self.suspects.contains(&server) {
            self.suspects.push(server);
        }
    }
}

impl Stack {
    /// Gives it a part of the flows, before there are any: the driver brings it no others, and carries its errands.
    pub fn take_share(&mut self, share: Share) {
        self.share = share;
    }

    /// Which flows are its own.
    #[must_use]
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// A frame that is another worker's, by its number: to be taken after each frame that was handled.
    pub fn take_stray(&mut self) -> Option<(usize, Vec<u8>)> {
        self.errands.strays.pop()
    }

    /// A server in the container that has refused a client, which is the first worker's to know: [`Stack::suspect`].
    pub fn take_suspect(&mut self) -> Option<SocketAddr> {
        self.errands.suspects.pop()
    }

    /// Another worker's flow has found that a server in the container refuses its clients.
    pub fn suspect(&mut self, server: SocketAddr, now: Instant) {
        self.suspect_ports(server, now);
    }

    /// A frame was lost on its way to the worker that owns it.
    pub fn count_lost(&mut self, reason: DropReason) {
        self.stats.record(reason);
    }

    /// Where the container is on the link, as far as that is known.
    #[must_use]
    pub fn container_mac(&self) -> Option<MacAddr> {
        self.neighbor.container_mac()
    }

    /// Another worker has learnt where the container is on the link.
    pub fn container_moved(&mut self, mac: MacAddr) {
        self.neighbor.moved(mac);
    }

    /// Whose a client of a published port will be, if he is another worker's.
    #[must_use]
    pub fn owner_of_client(&self, listener: ListenerId, client: SocketAddr) -> Option<usize> {
        if self.share.is_whole() {
            return None;
        }
        // What is not to be is told by `accept_stream`.
        let inbound = forward::inbound(&self.config, self.published.get(&listener.0)?, client).ok()?;
        let protocol = FlowProtocol::Tcp;
        self.share.owner(&FlowKey { protocol, container: inbound.server, remote: inbound.client })
    }

    /// A client was accepted by the first worker, which has published the port by `rule`, at its address `local`: as [`Stack::accept_stream`].
    ///
    /// # Errors
    /// The reason why there will be no flow; the driver resets the connection.
    pub fn accept_handed(
        &mut self,
        listener: ListenerId,
        rule: &PublishRule,
        (client, local): (SocketAddr, SocketAddr),
        now: Instant,
    ) -> Result<FlowId, DropReason> {
        self.accept_by_rule(listener, *rule, (client, local), now)
    }

    /// Clients of a published port whom the container has yet to accept.
    #[must_use]
    pub fn opening_clients(&self, listener: ListenerId) -> usize {
        self.handshakes.of_port(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_suspected_once_and_no_more_of_them_than_may_wait() {
        let mut errands = Errands::default();
        for port in 0..2 * SUSPECTS as u16 {
            let server = SocketAddr::from(([10, 0, 2, 100], port));
            errands.suspect(server);
            errands.suspect(server);
        }
        assert_eq!(errands.suspects.len(), SUSPECTS);
        let ports: Vec<u16> = errands.suspects.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, (0..SUSPECTS as u16).collect::<Vec<_>>());
    }
}
