//! Configuring a network namespace over rtnetlink: links, addresses and default routes here, whole routes in
//! [`route`], addresses that go in [`watch`].
//!
//! A small blocking client: one request, then its acknowledgement, or for questions the answers up to the
//! end. It speaks for the namespace it was opened in, whatever the process enters later. Refusals come back
//! with what was being done and the kernel's word for it. Everything else rtnetlink can do is left out.
//! References: RFC 3549, the kernel's `include/uapi/linux/rtnetlink.h`.

pub mod route;
pub mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Why the namespace could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {source}")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// No interface of that name or number in this namespace.
    #[error("no interface {name} in this network namespace")]
    NoSuchLink {
        /// The name asked for, or `number N`.
        name: String,
    },
    /// The kernel refused.
    #[error("cannot {doing}: {source}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The conversation with the kernel broke.
    #[error("cannot {doing}: no understandable answer from the kernel: {found}")]
    Answer {
        /// What was being done.
        doing: String,
        /// What was found.
        found: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, where it refused.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            NetlinkError::Open { source } | NetlinkError::Refused { source, .. } => source.raw_os_error(),
            NetlinkError::NoSuchLink { .. } | NetlinkError::Answer { .. } => None,
        }
    }
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Number of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// It is neither temporary, nor going, nor yet to be found unique.
    pub is_lasting: bool,
}

/// A conversation with rtnetlink in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Open { source })?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// The number of the interface called `name`.
    pub fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let answer =
            self.link(vec![LinkAttribute::IfName(name.to_string())], 0, &format!("find interface {name}"));
        match answer {
            Ok(link) => Ok(link.header.index),
            Err(error) if is_no_such_link(&error) => Err(NetlinkError::NoSuchLink { name: name.to_string() }),
            Err(error) => Err(error),
        }
    }

    /// Whether there is an interface called `name`.
    pub fn link_exists(&mut self, name: &str) -> Result<bool, NetlinkError> {
        match self.link_index(name) {
            Ok(_) => Ok(true),
            Err(NetlinkError::NoSuchLink { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings an interface up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(link), 0, &format!("bring interface number {index} up"))
    }

    /// Sets the greatest IP packet of an interface, in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set_link(index, LinkAttribute::Mtu(mtu), &format!("set MTU {mtu} on interface number {index}"))
    }

    /// Sets how many packets may wait in an interface's queue.
    pub fn set_queue_length(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        let doing = format!("set a queue of {packets} packets on interface number {index}");
        self.set_link(index, LinkAttribute::TxQueueLen(packets), &doing)
    }

    /// Sets the link address of an interface.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let doing = format!("set link address {mac:02x?} on interface number {index}");
        self.set_link(index, LinkAttribute::Address(mac.to_vec()), &doing)
    }

    /// The link address of an interface.
    pub fn mac(&mut self, index: u32) -> Result<[u8; 6], NetlinkError> {
        let doing = format!("read the link address of interface number {index}");
        let link = self.link(Vec::new(), index, &doing)?;
        let address = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => Some(bytes),
            _ => None,
        });
        address
            .and_then(|bytes| bytes.as_slice().try_into().ok())
            .ok_or_else(|| NetlinkError::Answer { doing, found: format!("link address {address:02x?}") })
    }

    /// The greatest IP packet of an interface, in bytes.
    pub fn mtu(&mut self, index: u32) -> Result<u32, NetlinkError> {
        let doing = format!("read the MTU of interface number {index}");
        let link = self.link(Vec::new(), index, &doing)?;
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        mtu.ok_or_else(|| NetlinkError::Answer { doing, found: "no MTU".to_string() })
    }

    /// Moves an interface into another network namespace, where it has the same name, is down and has no
    /// addresses. EEXIST when the name is taken there.
    pub fn move_link(&mut self, index: u32, namespace: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        let doing = format!("move interface number {index} into its network namespace");
        self.set_link(index, LinkAttribute::NetNsFd(namespace.as_raw_fd()), &doing)
    }

    /// Removes an interface (a persistent TAP, say).
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(link), 0, &format!("remove interface number {index}"))
    }

    /// Gives an interface an address and, by its prefix, the route to its neighbors. `nodad` (IPv6) makes it
    /// usable at once, without asking whether somebody else has it. EEXIST when it has the address already.
    pub fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
        nodad: bool,
    ) -> Result<(), NetlinkError> {
        self.add(index, address, prefix_len, nodad, false)
    }

    /// The same without the route to its neighbors, which comes otherwise; no question is asked of others.
    pub fn add_address_alone(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        self.add(index, address, prefix_len, true, true)
    }

    fn add(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
        nodad: bool,
        alone: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.header.scope = AddressScope::Universe;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        match address {
            IpAddr::V4(v4) => {
                message.header.family = AddressFamily::Inet;
                message.attributes.extend(broadcast(v4, prefix_len).map(AddressAttribute::Broadcast));
            }
            IpAddr::V6(v6) => {
                message.header.family = AddressFamily::Inet6;
                if nodad {
                    message.header.flags = AddressHeaderFlags::Nodad;
                }
                if v6.is_unicast_link_local() {
                    message.header.scope = AddressScope::Link;
                }
            }
        }
        if alone {
            // Replaces the flags of the header, which are too few bits for this one.
            let nodad = if address.is_ipv6() { AddressFlags::Nodad } else { AddressFlags::empty() };
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute | nodad));
        }
        let doing = format!("add address {address}/{prefix_len} to interface number {index}");
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, &doing)
    }

    /// Routes everything of the gateway's family to the gateway, out of this interface. EEXIST when there is
    /// such a route already.
    pub fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        // The interface is named even where the gateway implies it: a link-local gateway does not.
        message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
        let doing = format!("add the default route by {gateway} and interface number {index}");
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, &doing)
    }

    /// Every address of the namespace: interface number, address, prefix length.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
        let found = self.interface_addresses()?;
        Ok(found.into_iter().map(|own| (own.interface, own.address, own.prefix_len)).collect())
    }

    /// Every address of the namespace, and what is to be known of it.
    pub fn interface_addresses(&mut self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.converse(question, NLM_F_REQUEST | NLM_F_DUMP, "list the addresses")?;
        let mut found = Vec::new();
        for answer in answers {
            let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
            let Some(address) = own_address(&message) else { continue };
            let passing = AddressHeaderFlags::Tentative
                | AddressHeaderFlags::Dadfailed
                | AddressHeaderFlags::Deprecated;
            // Of IPv6 the flag means a temporary address (RFC 8981), of IPv4 another of the same prefix.
            let is_temporary =
                address.is_ipv6() && message.header.flags.contains(AddressHeaderFlags::Secondary);
            found.push(InterfaceAddress {
                interface: message.header.index,
                address,
                prefix_len: message.header.prefix_len,
                is_lasting: !message.header.flags.intersects(passing) && !is_temporary,
            });
        }
        Ok(found)
    }

    /// The name of an interface.
    pub fn link_name(&mut self, index: u32) -> Result<String, NetlinkError> {
        let doing = format!("read the name of interface number {index}");
        let link = self.link(Vec::new(), index, &doing)?;
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        name.ok_or_else(|| NetlinkError::Answer { doing, found: "no name".to_string() })
    }

    fn set_link(&mut self, index: u32, attribute: LinkAttribute, doing: &str) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(attribute);
        self.change(RouteNetlinkMessage::SetLink(link), 0, doing)
    }

    fn link(
        &mut self,
        mut attributes: Vec<LinkAttribute>,
        index: u32,
        doing: &str,
    ) -> Result<LinkMessage, NetlinkError> {
        attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut question = LinkMessage::default();
        question.header.index = index;
        question.attributes = attributes;
        let answers =
            self.converse(RouteNetlinkMessage::GetLink(question), NLM_F_REQUEST | NLM_F_ACK, doing)?;
        answers
            .into_iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .ok_or_else(|| NetlinkError::Answer {
                doing: doing.to_string(),
                found: "no interface".to_string(),
            })
    }

    fn change(&mut self, request: RouteNetlinkMessage, flags: u16, doing: &str) -> Result<(), NetlinkError> {
        self.converse(request, NLM_F_REQUEST | NLM_F_ACK | flags, doing).map(drop)
    }

    /// Sends one request and collects what comes back until its acknowledgement, refusal or end of list.
    fn converse(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        doing: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let refused = |source: io::Error| NetlinkError::Refused { doing: doing.to_string(), source };
        let garbled = |found: String| NetlinkError::Answer { doing: doing.to_string(), found };
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(refused)?;

        let mut answers = Vec::new();
        loop {
            let batch = self.receive().map_err(refused)?;
            let mut rest = batch.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| garbled(error.to_string()))?;
                rest = rest.get(aligned(answer.header.length)..).unwrap_or_default();
                // Left over from a conversation that ended with an error.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(refused(error.to_io())),
                    NetlinkPayload::Overrun(_) => return Err(garbled("messages were lost".to_string())),
                    _ => {}
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((bytes, _)) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_no_such_link(error: &NetlinkError) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Messages start at multiples of four bytes (`NLMSG_ALIGN`).
fn aligned(length: u32) -> usize {
    (length as usize).next_multiple_of(4)
}

/// The address of everybody in the network; none where there are two hosts or one (RFC 3021).
fn broadcast(address: Ipv4Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    if prefix_len >= 31 {
        return None;
    }
    Some(Ipv4Addr::from_bits(address.to_bits() | (u32::MAX >> prefix_len)))
}

/// The address that a message is about. On a point-to-point link `Address` is the peer's, and `Local` ours; IPv6 gives only
/// the former elsewhere.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => own = own.or(Some(*address)),
            _ => {}
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broadcast_address_has_every_host_bit_set() {
        let address = Ipv4Addr::new(10, 0, 2, 100);
        assert_eq!(broadcast(address, 24), Some(Ipv4Addr::new(10, 0, 2, 255)));
        assert_eq!(broadcast(address, 8), Some(Ipv4Addr::new(10, 255, 255, 255)));
        assert_eq!(broadcast(address, 0), Some(Ipv4Addr::BROADCAST));
        assert_eq!(broadcast(address, 31), None);
        assert_eq!(broadcast(address, 32), None);
    }

    #[test]
    fn loopback_is_found_by_name() {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("lo").unwrap();
        assert!(netlink.link_exists("lo").unwrap());
        assert!(netlink.mtu(index).unwrap() >= 1500);
    }

    #[test]
    fn a_missing_link_is_told_by_its_name() {
        let mut netlink = Netlink::open().unwrap();
        assert!(!netlink.link_exists("no-such-link").unwrap());
        let error = netlink.link_index("no-such-link").unwrap_err();
        assert_eq!(error.to_string(), "no interface no-such-link in this network namespace");
    }

    #[test]
    fn the_conversation_goes_on_after_a_refusal() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.mac(u32::MAX >> 1).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the link address"), "{error}");
        netlink.link_index("lo").unwrap();
    }
}
