//! Frames made and read by hand, byte by byte: the simulator's own opinion of what belongs on the link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub const ETHERNET: usize = 14;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// Ones' complement sum of `bytes`, folded, not inverted (RFC 1071).
pub fn sum(initial: u32, bytes: &[u8]) -> u16 {
    let mut total = u64::from(initial);
    // Words of 32 bits fold to the same sum, in half the time.
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    for pair in rest.chunks(2) {
        total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The folded sum of the pseudo-header.
pub fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets().to_vec(), to.octets().to_vec()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets().to_vec(), to.octets().to_vec()].concat(),
        _ => panic!("a packet of two families: {source} to {destination}"),
    };
    sum(u32::from(protocol) + (len >> 16) as u32 + (len & 0xffff) as u32, &addresses)
}

/// Where the checksum of a transport stands in its header.
pub fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

fn pseudo_for(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u16 {
    if protocol == ICMP { 0 } else { pseudo_sum(source, destination, protocol, len) }
}

/// Writes the transport checksum.
pub fn fill_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &mut [u8]) {
    let Some(offset) = checksum_offset(protocol) else { return };
    transport[offset..offset + 2].fill(0);
    let pseudo = pseudo_for(source, destination, protocol, transport.len());
    let checksum = match !sum(u32::from(pseudo), transport) {
        0 if protocol == UDP => 0xffff,
        other => other,
    };
    transport[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// An IP packet to be made.
#[derive(Debug, Clone)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    pub identification: u16,
    /// Fragment offset in bytes, and whether more follow.
    pub fragment: Option<(usize, bool)>,
    /// IPv4 DF.
    pub dont_fragment: bool,
}

impl Ip {
    /// A whole packet with a usual hop limit.
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8) -> Ip {
        let (source, destination) = (source.into(), destination.into());
        Ip {
            source,
            destination,
            protocol,
            hop_limit: 64,
            identification: 1,
            fragment: None,
            dont_fragment: false,
        }
    }

    /// The same with IPv4's DF.
    pub fn whole(mut self) -> Ip {
        self.dont_fragment = true;
        self
    }

    /// The same with another identification.
    pub fn numbered(mut self, identification: u16) -> Ip {
        self.identification = identification;
        self
    }

    /// The same with another hop limit.
    pub fn hops(mut self, hop_limit: u8) -> Ip {
        self.hop_limit = hop_limit;
        self
    }

    /// The packet around `payload`, of which it fills no checksum.
    pub fn raw(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(48 + payload.len());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (offset, more) = self.fragment.unwrap_or((0, false));
                let field = (offset / 8) as u16
                    | if more { 0x2000 } else { 0 }
                    | if self.dont_fragment { 0x4000 } else { 0 };
                packet.extend([0x45, 0]);
                packet.extend(((20 + payload.len()) as u16).to_be_bytes());
                packet.extend(self.identification.to_be_bytes());
                packet.extend(field.to_be_bytes());
                packet.extend([self.hop_limit, self.protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let checksum = !sum(0, &packet);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let extension = if self.fragment.is_some() { 8 } else { 0 };
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(((extension + payload.len()) as u16).to_be_bytes());
                packet.extend([if extension > 0 { 44 } else { self.protocol }, self.hop_limit]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                if let Some((offset, more)) = self.fragment {
                    packet.extend([self.protocol, 0]);
                    packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
                    packet.extend(u32::from(self.identification).to_be_bytes());
                }
            }
            _ => panic!("a packet of two families"),
        }
        packet.extend(payload);
        packet
    }

    /// The packet around a transport message, whose checksum it fills.
    pub fn carrying(&self, mut transport: Vec<u8>) -> Vec<u8> {
        fill_checksum(self.source, self.destination, self.protocol, &mut transport);
        self.raw(&transport)
    }

    /// The packet around the beginning of a transport message, whose checksum is right where it has one.
    pub fn carrying_part(&self, transport: &[u8]) -> Vec<u8> {
        match checksum_offset(self.protocol) {
            Some(offset) if transport.len() >= offset + 2 => self.carrying(transport.to_vec()),
            Some(_) | None => self.raw(transport),
        }
    }

    /// The fragments of a transport message that exceeds `mtu`.
    pub fn fragments(&self, mut transport: Vec<u8>, mtu: usize) -> Vec<Vec<u8>> {
        fill_checksum(self.source, self.destination, self.protocol, &mut transport);
        let room = (mtu - if self.source.is_ipv4() { 20 } else { 48 }) & !7;
        let count = transport.len().div_ceil(room);
        transport
            .chunks(room)
            .enumerate()
            .map(|(index, part)| {
                Ip { fragment: Some((index * room, index + 1 < count)), ..self.clone() }.raw(part)
            })
            .collect()
    }
}

/// A TCP segment without its checksum.
pub fn tcp(ports: (u16, u16), sequence: u32, acknowledgement: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20 + payload.len());
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

/// A UDP datagram without its checksum.
pub fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + payload.len());
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An echo request without its checksum.
pub fn echo_request(is_ipv6: bool, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![if is_ipv6 { 128 } else { 8 }, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    message
}

/// An Ethernet frame; the type follows from the packet's version.
pub fn ethernet(source: [u8; 6], destination: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&destination[..], &source, &kind, packet].concat()
}

/// An ARP request frame.
pub fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &mac, &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// What a frame says, as far as the tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub ip: Option<SeenIp>,
    /// Operation, sender MAC, sender, target.
    pub arp: Option<(u16, [u8; 6], Ipv4Addr, Ipv4Addr)>,
}

/// An IP packet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenIp {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    pub identification: u16,
    pub fragment: Option<(usize, bool)>,
    /// What the length field says, IP header included.
    pub length: usize,
    /// Where the transport starts in the frame.
    pub transport_at: usize,
    pub transport: Vec<u8>,
}

impl SeenIp {
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.transport[at], self.transport[at + 1]])
    }

    fn long(&self, at: usize) -> u32 {
        u32::from(self.word(at)) << 16 | u32::from(self.word(at + 2))
    }

    /// Source and destination port.
    pub fn ports(&self) -> (u16, u16) {
        (self.word(0), self.word(2))
    }

    /// The whole of where it came from.
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.word(0))
    }

    /// TCP flags, if it is TCP.
    pub fn tcp_flags(&self) -> Option<u8> {
        (self.protocol == TCP).then(|| self.transport[13])
    }

    pub fn sequence(&self) -> u32 {
        self.long(4)
    }

    pub fn acknowledgement(&self) -> u32 {
        self.long(8)
    }

    pub fn window(&self) -> u16 {
        self.word(14)
    }

    /// Bits of the window scale option, if there is one.
    pub fn window_shift(&self) -> Option<u8> {
        let mut options = &self.transport[20..usize::from(self.transport[12] >> 4) * 4];
        while let [kind, rest @ ..] = options {
            match (kind, rest) {
                (0, _) => return None,
                (1, _) => options = rest,
                (3, [3, shift, ..]) => return Some(*shift),
                (_, [len, ..]) if *len >= 2 => options = options.get(usize::from(*len)..)?,
                _ => return None,
            }
        }
        None
    }

    pub fn tcp_payload(&self) -> &[u8] {
        &self.transport[usize::from(self.transport[12] >> 4) * 4..]
    }

    pub fn udp_payload(&self) -> &[u8] {
        &self.transport[8..]
    }

    /// ICMP type and code, if it is ICMP of either version.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        matches!(self.protocol, ICMP | ICMPV6).then(|| (self.transport[0], self.transport[1]))
    }

    /// Whether it is a router advertisement to all nodes.
    pub fn is_unsolicited_advertisement(&self) -> bool {
        self.icmp() == Some((134, 0)) && self.destination.is_multicast()
    }

    /// Whether the transport checksum holds; `true` for fragments and for transports without one.
    pub fn checksum_holds(&self) -> bool {
        let Some(offset) = checksum_offset(self.protocol) else { return true };
        if self.fragment.is_some()
            || (self.protocol == UDP && self.source.is_ipv4() && self.word(offset) == 0)
        {
            return true;
        }
        let pseudo = pseudo_for(self.source, self.destination, self.protocol, self.transport.len());
        self.transport.len() >= offset + 2 && sum(u32::from(pseudo), &self.transport) == 0xffff
    }
}

/// Reads a frame; an error says what is wrong with it.
pub fn read(frame: &[u8]) -> Result<Seen, String> {
    if frame.len() < ETHERNET {
        return Err(format!("{} bytes are no Ethernet frame", frame.len()));
    }
    let mut seen = Seen {
        destination_mac: frame[0..6].try_into().unwrap(),
        source_mac: frame[6..12].try_into().unwrap(),
        ip: None,
        arp: None,
    };
    let body = &frame[ETHERNET..];
    match [frame[12], frame[13]] {
        [0x08, 0x06] if body.len() >= 28 => {
            let address = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
            let operation = u16::from_be_bytes([body[6], body[7]]);
            seen.arp = Some((operation, body[8..14].try_into().unwrap(), address(14), address(24)));
        }
        [0x08, 0x00] => seen.ip = Some(read_ipv4(body)?),
        [0x86, 0xdd] => seen.ip = Some(read_ipv6(body)?),
        other => return Err(format!("type {other:02x?} with {} bytes", body.len())),
    }
    Ok(seen)
}

/// Reads an IP packet, such as the one an ICMP error quotes.
pub fn read_ipv4(body: &[u8]) -> Result<SeenIp, String> {
    if body.len() < 20 || body[0] != 0x45 {
        return Err(format!("no plain IPv4 header: {:02x?}", &body[..body.len().min(20)]));
    }
    if sum(0, &body[..20]) != 0xffff {
        return Err("IPv4 header checksum".into());
    }
    let total = usize::from(u16::from_be_bytes([body[2], body[3]]));
    let field = u16::from_be_bytes([body[6], body[7]]);
    let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
    if total < 20 {
        return Err(format!("IPv4 total length {total}"));
    }
    Ok(SeenIp {
        source: Ipv4Addr::new(body[12], body[13], body[14], body[15]).into(),
        destination: Ipv4Addr::new(body[16], body[17], body[18], body[19]).into(),
        protocol: body[9],
        hop_limit: body[8],
        identification: u16::from_be_bytes([body[4], body[5]]),
        fragment: (offset > 0 || more).then_some((offset, more)),
        length: total,
        transport_at: ETHERNET + 20,
        transport: body[20..total.min(body.len())].to_vec(),
    })
}

/// Reads an IPv6 packet with at most a fragment header.
pub fn read_ipv6(body: &[u8]) -> Result<SeenIp, String> {
    if body.len() < 40 || body[0] >> 4 != 6 {
        return Err("no IPv6 header".into());
    }
    let address = |at: usize| {
        let octets: [u8; 16] = body[at..at + 16].try_into().unwrap();
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let total = (40 + usize::from(u16::from_be_bytes([body[4], body[5]]))).min(body.len());
    let mut seen = SeenIp {
        source: address(8),
        destination: address(24),
        protocol: body[6],
        hop_limit: body[7],
        identification: 0,
        fragment: None,
        length: 40 + usize::from(u16::from_be_bytes([body[4], body[5]])),
        transport_at: ETHERNET + 40,
        transport: body[40..total].to_vec(),
    };
    if seen.protocol == 44 && total >= 48 {
        let field = u16::from_be_bytes([body[42], body[43]]);
        seen.protocol = body[40];
        seen.fragment = Some((usize::from(field & 0xfff8), field & 1 != 0));
        seen.identification = u16::from_be_bytes([body[46], body[47]]);
        seen.transport_at += 8;
        seen.transport.drain(..8);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read_back_and_an_independent_parser_agrees() {
        for (source, destination) in [("10.0.2.100", "203.0.113.5"), ("fd00::64", "2001:db8::5")] {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let packet = Ip::new(source, destination, UDP).carrying(udp((5, 6), b"odd"));
            let frame = ethernet([2; 6], [4; 6], &packet);
            let seen = read(&frame).unwrap().ip.unwrap();
            assert_eq!((seen.source, seen.destination, seen.ports()), (source, destination, (5, 6)));
            assert_eq!(seen.udp_payload(), b"odd");
            assert!(seen.checksum_holds());
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::TransportSlice::Udp(datagram)) = sliced.transport else { panic!("no UDP") };
            assert_eq!(datagram.payload(), b"odd");
        }
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        let packet = Ip::new(Ipv4Addr::new(10, 0, 2, 100), Ipv4Addr::new(203, 0, 113, 5), TCP).carrying(tcp(
            (1, 2),
            3,
            4,
            ACK,
            b"bytes",
        ));
        let mut frame = ethernet([2; 6], [4; 6], &packet);
        *frame.last_mut().unwrap() ^= 0x10;
        assert!(!read(&frame).unwrap().ip.unwrap().checksum_holds());
    }
}
