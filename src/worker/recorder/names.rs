//! Which flow a packet belongs to, as long as a capture lasts.
//!
//! The core tells of flows that begin and end. Those that have ended are remembered for a while, because their last packets come
//! after that: a reset, what is left in TIME-WAIT.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::limits::CAPTURE_ENDED_FLOWS;
use crate::stack::boundary::FlowId;
use crate::stack::flow::{FlowKey, FlowProtocol};
use crate::wire::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ip::{ETHERNET_HEADER_LEN, protocol};

/// Flows by both of their names.
#[derive(Debug, Default)]
pub struct Names {
    by_key: HashMap<FlowKey, FlowId>,
    by_flow: HashMap<FlowId, FlowKey>,
    ended: VecDeque<FlowId>,
}

impl Names {
    /// A flow has begun.
    pub fn open(&mut self, flow: FlowId, key: FlowKey) {
        self.by_key.insert(key, flow);
        self.by_flow.insert(flow, key);
    }

    /// A flow has ended.
    pub fn close(&mut self, flow: FlowId) {
        self.ended.push_back(flow);
        if self.ended.len() > CAPTURE_ENDED_FLOWS
            && let Some(oldest) = self.ended.pop_front()
            && let Some(key) = self.by_flow.remove(&oldest)
            && self.by_key.get(&key) == Some(&oldest)
        {
            self.by_key.remove(&key);
        }
    }

    /// The flow between these endpoints; one whose peer may be anybody, if there is no other.
    #[must_use]
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        let anybody: SocketAddr = match key.remote {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let found = self.by_key.get(key).or_else(|| self.by_key.get(&FlowKey { remote: anybody, ..*key }));
        found.copied()
    }

    /// The endpoints of a flow.
    #[must_use]
    pub fn key(&self, flow: FlowId) -> Option<FlowKey> {
        self.by_flow.get(&flow).copied()
    }

    /// Flows that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_flow.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_flow.is_empty()
    }
}

/// What a flow of an IP protocol is, where there are any.
#[must_use]
pub fn protocol_of(number: u8) -> Option<FlowProtocol> {
    match number {
        protocol::TCP => Some(FlowProtocol::Tcp),
        protocol::UDP => Some(FlowProtocol::Udp),
        protocol::ICMP | protocol::ICMPV6 => Some(FlowProtocol::Echo),
        _ => None,
    }
}

/// The flow that a frame would belong to, as far as the front of it tells; `is_outbound` if the container has sent it.
#[must_use]
pub fn key_of_frame(frame: &[u8], is_outbound: bool) -> Option<FlowKey> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    match ethertype {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => key_of_packet(&frame[ETHERNET_HEADER_LEN..], is_outbound, 0),
        _ => None,
    }
}

fn key_of_packet(packet: &[u8], is_outbound: bool, depth: u8) -> Option<FlowKey> {
    let (source, destination, number, transport): (IpAddr, IpAddr, u8, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
            if is_later_fragment {
                return None;
            }
            let address = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]].into();
            (address(12), address(16), header[9], packet.get(usize::from(header[0] & 15) * 4..)?)
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            let address = |at: usize| {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&header[at..at + 16]);
                IpAddr::from(bytes)
            };
            (address(8), address(24), header[6], &packet[40..])
        }
        _ => return None,
    };
    let number_at = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    let (source_port, destination_port) = match number {
        protocol::TCP | protocol::UDP => (number_at(0)?, number_at(2)?),
        protocol::ICMP | protocol::ICMPV6 => match (number, *transport.first()?) {
            (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129) => {
                let identifier = number_at(4)?;
                if is_outbound { (identifier, 0) } else { (0, identifier) }
            }
            // An error belongs to the flow whose packet it quotes, and that went the other way.
            (protocol::ICMP, 3 | 11 | 12) | (protocol::ICMPV6, 1..=4) if depth == 0 => {
                return key_of_packet(transport.get(8..)?, !is_outbound, depth + 1);
            }
            _ => return None,
        },
        _ => return None,
    };
    let (source, destination) =
        (SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port));
    let (container, remote) = if is_outbound { (source, destination) } else { (destination, source) };
    Some(FlowKey { protocol: protocol_of(number)?, container, remote })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn key(container: &str, remote: &str, protocol: FlowProtocol) -> FlowKey {
        FlowKey { protocol, container: container.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    fn id(slot: u32, generation: u32) -> FlowId {
        FlowId { slot, generation }
    }

    #[test]
    fn a_frame_names_its_flow_in_both_directions() {
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        let builder = ethernet().ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64).tcp(4_000, 80, 1, 500);
        builder.write(&mut frame, b"x").unwrap();
        let expected = key("10.0.2.100:4000", "192.0.2.1:80", FlowProtocol::Tcp);
        assert_eq!(key_of_frame(&frame, true), Some(expected));
        let turned = key("192.0.2.1:80", "10.0.2.100:4000", FlowProtocol::Tcp);
        assert_eq!(key_of_frame(&frame, false), Some(turned));
        let mut frame = Vec::new();
        ethernet().ipv6([1; 16], [2; 16], 64).udp(53, 7_000).write(&mut frame, b"x").unwrap();
        let container = format!("[{}]:7000", Ipv6Addr::from([2; 16]));
        let remote = format!("[{}]:53", Ipv6Addr::from([1; 16]));
        assert_eq!(key_of_frame(&frame, false), Some(key(&container, &remote, FlowProtocol::Udp)));
        for cut in 0..frame.len().min(56) {
            let _ = key_of_frame(&frame[..cut], true);
        }
    }

    #[test]
    fn an_echo_is_named_by_its_identifier_and_an_error_by_what_it_quotes() {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = ethernet.ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64).icmpv4_echo_request(77, 1);
        builder.write(&mut frame, b"x").unwrap();
        let expected = key("10.0.2.100:77", "192.0.2.1:0", FlowProtocol::Echo);
        assert_eq!(key_of_frame(&frame, true), Some(expected));
        let mut quoted = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64).udp(4_000, 9);
        builder.write(&mut quoted, b"x").unwrap();
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        let builder = ethernet.ipv4([192, 0, 2, 1], [10, 0, 2, 100], 64).icmpv4_raw(3, 3, [0; 4]);
        builder.write(&mut frame, &quoted).unwrap();
        let expected = key("10.0.2.100:4000", "192.0.2.1:9", FlowProtocol::Udp);
        assert_eq!(key_of_frame(&frame, false), Some(expected));
    }

    #[test]
    fn ended_flows_are_remembered_for_a_while_and_no_longer() {
        let mut names = Names::default();
        let first = key("10.0.2.100:1", "192.0.2.1:80", FlowProtocol::Tcp);
        names.open(id(0, 0), first);
        names.close(id(0, 0));
        assert_eq!(names.find(&first), Some(id(0, 0)));
        names.open(id(0, 1), first);
        assert_eq!(names.find(&first), Some(id(0, 1)), "the next of the same name");
        for number in 0..2 * CAPTURE_ENDED_FLOWS as u32 {
            let port = u16::try_from(number % 60_000 + 2).unwrap();
            names.open(id(5, number), FlowKey { container: (first.container.ip(), port).into(), ..first });
            names.close(id(5, number));
        }
        assert_eq!((names.find(&first), names.key(id(0, 0))), (Some(id(0, 1)), None));
        assert_eq!(names.len(), CAPTURE_ENDED_FLOWS + 1);
        let mapping = key("10.0.2.100:9", "0.0.0.0:0", FlowProtocol::Udp);
        names.open(id(7, 7), mapping);
        assert_eq!(names.find(&key("10.0.2.100:9", "198.51.100.1:5", FlowProtocol::Udp)), Some(id(7, 7)));
    }
}
