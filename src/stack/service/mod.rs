//! What the gateway itself offers the container: router advertisements, DHCP of both families, the DNS forwarder, and
//! the names of a network.

pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod names;
pub mod router_advert;
pub mod settings;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use self::names::Handled;
use super::Stack;
use super::boundary::{FrameSink, Instant};
use super::drop_reason::DropReason;
use super::emit::UdpEnvelope;
use super::flow::{FlowKey, FlowProtocol};
use super::forward::{self, Outbound};
use crate::wire::ip;

impl Stack {
    /// Takes one message to the DHCP server of either family.
    pub(super) fn handle_dhcp(
        &mut self,
        source: IpAddr,
        message: &[u8],
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        match (source, &mut self.dhcp) {
            (IpAddr::V4(_), Some(server)) => server.handle_message(message, now, frames),
            (IpAddr::V4(_), None) => Err(DropReason::DhcpNotServed),
            (IpAddr::V6(_), _) => {
                let ethernet = self.neighbor.ethernet()?;
                dhcpv6::handle_message(&self.config, message, source, &ethernet, frames)
            }
        }
    }

    /// Whether a datagram of the container is a query that a network's resolver judges first.
    pub(super) fn is_asked_for_names(&self, source: IpAddr, remote: SocketAddr) -> bool {
        self.names.is_some()
            && self.config.link.is_dns(remote.ip())
            && forward::outbound(&self.config, FlowProtocol::Udp, source, remote) == Outbound::Resolver
    }

    /// Answers those of a run of queries that a network's resolver answers; returns the others, together.
    ///
    /// # Errors
    /// None could be answered, or none was a query.
    pub(super) fn answer_names(
        &mut self,
        key: &FlowKey,
        payload: &[u8],
        segment_bytes: Option<NonZeroU16>,
        frames: &mut impl FrameSink,
    ) -> Result<Vec<u8>, DropReason> {
        let each = segment_bytes.map_or(payload.len(), |each| each.get().into()).max(1);
        let (mut left, mut outcome) = (Vec::new(), Ok(()));
        for message in payload.chunks(each) {
            let Some(names) = &self.names else { break };
            match names.handle_datagram(message) {
                Handled::Forwarded => left.extend_from_slice(message),
                Handled::Ignored => outcome = Err(DropReason::NoFlow),
                Handled::Answered(answer) => {
                    let ethernet = self.neighbor.ethernet()?;
                    let mut header = self.header(key.remote.ip(), key.container.ip(), ip::protocol::UDP);
                    header.dont_fragment = false;
                    header.identification = self.next_identification();
                    let envelope = UdpEnvelope {
                        ethernet,
                        header,
                        source_port: key.remote.port(),
                        destination_port: key.container.port(),
                        segment_bytes: None,
                    };
                    let sent = self.emitter.send_datagrams(&envelope, &answer, frames);
                    outcome = outcome.and(sent);
                }
            }
        }
        if left.is_empty() { outcome.map(|()| left) } else { Ok(left) }
    }
}
