//! DHCPv6 (RFC 8415): the settings for a container that reads no router advertisements, and on a shared segment
//! its address.
//!
//! On a private segment addresses come from the advertised prefix (SLAAC), so only Information-request is answered.
//! Solicit and all else that is about addresses stays unanswered: a server whose policy has no addresses for
//! anybody discards it (RFC 8415 §18.3.1), and a client that meets both flags of the advertisement, M clear and O
//! set, sends none.
//!
//! On a shared segment the container has one address, the host's, and whoever asks is given that: there is no
//! other client, so nothing need be remembered. Temporary addresses and prefixes are not to be had.

use std::net::{IpAddr, Ipv6Addr};

use super::settings::Settings;
use crate::config::{Config, Segment};
use crate::stack::boundary::FrameSink;
use crate::stack::drop_reason::DropReason;
use crate::stack::emit::{Emitter, Transport};
use crate::wire::dhcpv6::{
    self, Association, AssociationKind, Grant, MAX_ASSOCIATIONS, Reply, ReplyKind, Request, RequestKind,
    Status,
};
use crate::wire::ip::{Ethernet, Header, protocol};
use crate::wire::udp;
use crate::wire::vnet_header::Offload;

/// How long the address may be used, as long as over DHCP.
const LEASE_SECONDS: u32 = super::dhcp::LEASE_SECONDS;

/// What is said to a request, beside the settings.
struct Answer {
    kind: ReplyKind,
    status: Option<Status>,
    grants: Vec<Grant>,
}

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
    let answer = answer(config, &request, &duid).ok_or(DropReason::DhcpNotServed)?;
    let settings = Settings::of(config);
    let reply = Reply {
        kind: answer.kind,
        request: &request,
        server_identifier: duid,
        status: answer.status,
        grants: &answer.grants,
        resolvers: &settings.resolvers_ipv6,
        search: &settings.search,
        fqdn: settings.fqdn.as_ref(),
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

/// What to say to `request`; nothing to what is for another server, or not as RFC 8415 §16 has it.
fn answer(config: &Config, request: &Request<'_>, duid: &[u8]) -> Option<Answer> {
    let ipv6 = config.link.ipv6?;
    let is_for_us = match request.kind {
        RequestKind::InformationRequest => request.server_identifier.is_none_or(|server| server == duid),
        RequestKind::Solicit | RequestKind::Confirm | RequestKind::Rebind => {
            request.server_identifier.is_none()
        }
        RequestKind::Request | RequestKind::Renew | RequestKind::Release | RequestKind::Decline => {
            request.server_identifier == Some(duid)
        }
        RequestKind::Other(_) => false,
    };
    if !is_for_us {
        return None;
    }
    let associations = request.associations();
    if request.kind == RequestKind::InformationRequest {
        // RFC 8415 §16.12: an association has no place in it.
        let answer = Answer { kind: ReplyKind::Reply, status: None, grants: Vec::new() };
        return associations.is_empty().then_some(answer);
    }
    let is_stateful = matches!(config.link.segment, Segment::Shared(_));
    if !is_stateful || request.client_identifier.is_none() || associations.is_empty() {
        return None;
    }
    let kind = match request.kind {
        RequestKind::Solicit if !request.rapid_commit => ReplyKind::Advertise,
        _ => ReplyKind::Reply,
    };
    let (status, grants) = match request.kind {
        // RFC 8415 §18.3.3: about nothing, nothing can be said.
        RequestKind::Confirm => {
            let mut addresses = associations.iter().flat_map(|association| &association.addresses).peekable();
            addresses.peek()?;
            let is_ours = addresses.all(|address| ipv6.prefix.contains(address));
            (Some(if is_ours { Status::Success } else { Status::NotOnLink }), Vec::new())
        }
        RequestKind::Release | RequestKind::Decline => (Some(Status::Success), Vec::new()),
        _ => (None, grants(ipv6.container, &associations)),
    };
    Some(Answer { kind, status, grants })
}

/// The address for the first association that can have it, and a refusal for each of the others.
fn grants(own: Ipv6Addr, associations: &[Association]) -> Vec<Grant> {
    let first = associations.iter().position(|association| association.kind == AssociationKind::Addresses);
    let grant = |(at, association): (usize, &Association)| {
        let (kind, id) = (association.kind, association.id);
        match kind {
            AssociationKind::Addresses if Some(at) == first => {
                // RFC 8415 §18.3.4: what it may not have any longer has no time left.
                let withdrawn = association.addresses.iter().copied().filter(|address| *address != own);
                Grant::Address { id, address: own, seconds: LEASE_SECONDS, withdrawn: withdrawn.collect() }
            }
            AssociationKind::Addresses | AssociationKind::TemporaryAddresses => {
                Grant::Refused { kind, id, status: Status::NoAddrsAvail }
            }
            AssociationKind::Prefixes => Grant::Refused { kind, id, status: Status::NoPrefixAvail },
        }
    };
    associations.iter().take(MAX_ASSOCIATIONS).enumerate().map(grant).collect()
}

#[cfg(test)]
mod tests;
