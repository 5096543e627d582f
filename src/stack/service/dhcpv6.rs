//! Stateless DHCPv6 (RFC 8415 §6.1): the resolver for a container that reads no RDNSS option.
//!
//! Addresses come from the advertised prefix (SLAAC), so only Information-request is answered. Solicit and all
//! else that is about addresses stays unanswered: a server whose policy has no addresses for anybody discards it
//! (RFC 8415 §18.3.1), and a client that meets both flags of the advertisement, M clear and O set, sends none.

use std::net::IpAddr;

use crate::config::Config;
use crate::stack::boundary::FrameSink;
use crate::stack::drop_reason::DropReason;
use crate::stack::emit::{Emitter, Transport};
use crate::wire::dhcpv6::{self, Reply, RequestKind};
use crate::wire::ip::{Ethernet, Header, protocol};
use crate::wire::udp;
use crate::wire::vnet_header::Offload;

/// Answers one message that a client at `source` sent to all servers.
///
/// # Errors
/// `DhcpInvalid`, `DhcpNotServed`, `LinkFull`.
pub fn handle_message<F: FrameSink>(
    config: &Config,
    message: &[u8],
    source: IpAddr,
    ethernet: &Ethernet,
    frames: &mut F,
) -> Result<(), DropReason> {
    let ipv6 = config.link.ipv6.ok_or(DropReason::DhcpNotServed)?;
    let request = dhcpv6::parse(message).map_err(|_| DropReason::DhcpInvalid)?;
    let duid = dhcpv6::duid(config.link.gateway_mac);
    match request.kind {
        RequestKind::InformationRequest => {}
        RequestKind::Other(_) => return Err(DropReason::DhcpNotServed),
    }
    // RFC 8415 §16.12: for another server, or with what has no place in it.
    if request.server_identifier.is_some_and(|identifier| identifier != duid) || request.wants_addresses {
        return Err(DropReason::DhcpNotServed);
    }
    let reply = Reply {
        transaction: request.transaction,
        client_identifier: request.client_identifier,
        server_identifier: duid,
        dns: ipv6.dns.filter(|_| config.services.dns && !request.declines_dns),
    };
    let header = Header {
        source: ipv6.gateway_link_local.into(),
        destination: source,
        protocol: protocol::UDP,
        hop_limit: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
    };
    let fill = |out: &mut [u8]| {
        let len = reply.write(&mut out[udp::HEADER_LEN..]);
        udp::write_header(out, dhcpv6::SERVER_PORT, dhcpv6::CLIENT_PORT, len);
        udp::HEADER_LEN + len
    };
    let len = udp::HEADER_LEN + Reply::MAX_LEN;
    Emitter::new(config.link.mtu, Offload::NONE).send(ethernet, &header, Transport::Udp, len, fill, frames)
}

#[cfg(test)]
mod tests;
