//! One Ethernet frame from the container, parsed once (IEEE 802.3 with EtherType; no VLAN tags, no LLC).
//!
//! What comes out has consistent lengths, a right IPv4 header checksum, a bounded extension chain and sources
//! that name one interface. Whether the addresses are the container's to use is the core's question.

use std::net::IpAddr;

use super::ip::ETHERNET_HEADER_LEN;
use super::{MacAddr, arp, array, be16, ip};

/// EtherType of IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6 (RFC 2464 §3).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A frame that passed every check of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Who sent it; names one interface.
    pub source: MacAddr,
    /// Whom it is for; may be a group.
    pub destination: MacAddr,
    /// What it carries.
    pub body: Body<'a>,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// IPv4 address resolution.
    Arp(arp::Message),
    /// A packet of either IP version.
    Ip(ip::Packet<'a>),
}

/// Why a frame was not understood, or was not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its fixed headers.
    #[error("shorter than its headers")]
    Truncated,
    /// Neither ARP nor IP.
    #[error("unknown EtherType {0:#06x}")]
    UnknownEthertype(u16),
    /// The IP version is not what the EtherType says, or is neither 4 nor 6.
    #[error("IP version contradicts the frame")]
    Version,
    /// The IPv4 header length is below 20 bytes or beyond the packet, or an option overruns it.
    #[error("bad IPv4 header length")]
    HeaderLength,
    /// The IP length field promises more than arrived, or less than the headers.
    #[error("bad IP length field")]
    TotalLength,
    /// The IPv4 header checksum is wrong.
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
    /// The IPv6 extension headers overrun the packet, are too many or stand in a forbidden place.
    #[error("bad IPv6 extension headers")]
    ExtensionChain,
    /// The sender wants to choose the route (RFC 5095, RFC 7126 §4.3).
    #[error("source routing")]
    SourceRoute,
    /// Not Ethernet/IPv4 address resolution, or neither a request nor a reply.
    #[error("bad ARP message")]
    Arp,
    /// A group address as the source, of the frame or of the packet (RFC 1122 §3.2.1.3, RFC 4291 §2.7).
    #[error("group address as source")]
    SpoofedGroupSource,
}

/// Parses a frame from its Ethernet header on. Padding after the packet is cut off.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (header, payload) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>().ok_or(FrameError::Truncated)?;
    let destination = MacAddr(array(header, 0));
    let source = MacAddr(array(header, 6));
    if !source.is_unicast() {
        return Err(FrameError::SpoofedGroupSource);
    }
    let body = match be16(header, 12) {
        ETHERTYPE_IPV4 => Body::Ip(parse_ip(payload, 4)?),
        ETHERTYPE_IPV6 => Body::Ip(parse_ip(payload, 6)?),
        ETHERTYPE_ARP => Body::Arp(arp::parse(payload)?),
        other => return Err(FrameError::UnknownEthertype(other)),
    };
    Ok(Frame { source, destination, body })
}

#[inline]
fn parse_ip(payload: &[u8], version: u8) -> Result<ip::Packet<'_>, FrameError> {
    match payload.first() {
        None => return Err(FrameError::Truncated),
        Some(first) if first >> 4 != version => return Err(FrameError::Version),
        Some(_) => {}
    }
    let packet = ip::parse(payload)?;
    let is_group = match packet.source {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    };
    if is_group { Err(FrameError::SpoofedGroupSource) } else { Ok(packet) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    const CONTAINER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn udp_frame(source: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CONTAINER, GATEWAY)
            .ipv4(source, [10, 0, 2, 3], 64)
            .udp(4000, 53)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn frame_of_an_independent_writer_is_understood() {
        let bytes = udp_frame([10, 0, 2, 100], b"question");
        let frame = parse(&bytes).unwrap();
        assert_eq!((frame.source, frame.destination), (MacAddr(CONTAINER), MacAddr(GATEWAY)));
        let Body::Ip(packet) = frame.body else { panic!("not IP") };
        assert_eq!(packet.source, IpAddr::from([10, 0, 2, 100]));
        assert_eq!(packet.destination, IpAddr::from([10, 0, 2, 3]));
        assert_eq!(packet.protocol, ip::protocol::UDP);
        assert_eq!(&packet.payload[8..], b"question");
    }

    #[test]
    fn padding_is_not_payload() {
        let mut bytes = udp_frame([10, 0, 2, 100], b"x");
        let exact = bytes.len() - ETHERNET_HEADER_LEN;
        bytes.resize(60, 0xaa);
        let Body::Ip(packet) = parse(&bytes).unwrap().body else { panic!("not IP") };
        assert_eq!(packet.bytes.len(), exact);
    }

    #[test]
    fn group_sources_are_refused() {
        for source in [[224, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(parse(&udp_frame(source, b"x")), Err(FrameError::SpoofedGroupSource));
        }
        let mut bytes = udp_frame([10, 0, 2, 100], b"x");
        bytes[6] |= 1;
        assert_eq!(parse(&bytes), Err(FrameError::SpoofedGroupSource));
    }

    #[test]
    fn ethertype_and_version_must_agree() {
        let mut bytes = udp_frame([10, 0, 2, 100], b"x");
        bytes[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        assert_eq!(parse(&bytes), Err(FrameError::Version));
        bytes[12..14].copy_from_slice(&0x8100u16.to_be_bytes());
        assert_eq!(parse(&bytes), Err(FrameError::UnknownEthertype(0x8100)));
        assert_eq!(parse(&bytes[..13]), Err(FrameError::Truncated));
        assert_eq!(parse(&bytes[..14]), Err(FrameError::UnknownEthertype(0x8100)));
        bytes[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        assert_eq!(parse(&bytes[..14]), Err(FrameError::Truncated));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
            let mut bytes = bytes;
            if bytes.len() > 14 {
                let ethertype = [ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP, 0x1234][kind];
                bytes[6] &= 0xfe;
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
                bytes[14] = [0x45, 0x60, 0, 0x45][kind];
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn a_truncated_frame_is_an_error(cut in 0usize..50) {
            let bytes = udp_frame([10, 0, 2, 100], b"01234567");
            prop_assert!(parse(&bytes[..cut.min(bytes.len() - 1)]).is_err());
        }
    }
}
