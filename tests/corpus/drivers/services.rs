//! What the segment offers itself: messages of DHCP, DHCPv6, neighbor discovery and DNS, in packets that are right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netferry::config::Segment;
use netferry::stack::service::names::{Handled, Names};
use netferry::wire::dns::HEADER_LEN;

use super::bench::Bench;
use super::bytes::Bytes;
use crate::clock::Duration;
use crate::packet::{ICMPV6, Ip, UDP, udp};
use crate::settings::{self, CONTAINER, CONTAINER6, DNS, DNS6};

/// Messages of one input.
const MAX_MESSAGES: usize = 100;
/// A segment on which DHCP and DHCPv6 are served.
const SERVED: u8 = 16;

fn link_local() -> Ipv6Addr {
    "fe80::5055:aff:fe00:264".parse().unwrap()
}

/// Messages to the DHCP server: mostly with the fixed part that gets them to their options.
pub fn dhcp(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(SERVED | bytes.byte(), bytes.byte());
    for _ in 0..MAX_MESSAGES {
        if bytes.is_empty() {
            break;
        }
        let message = if bytes.byte() < 230 {
            let mut message = vec![0; 236];
            message[..4].copy_from_slice(&[1, 1, 6, 0]);
            message[4] = bytes.byte();
            message[10] = bytes.byte() & 0x80;
            message[15] = bytes.pick(&[0, 0, 15, 16]);
            if message[15] != 0 {
                message[12..15].copy_from_slice(&[10, 0, 2]);
            }
            message[28..34].copy_from_slice(&[2, 0, 0, 0, 0, bytes.byte() % 8]);
            message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1 + bytes.byte() % 9]);
            for _ in 0..bytes.byte() % 8 {
                let kind = bytes.pick(&[50u8, 54, 51, 61, 55, 57, 12, 52, 82, 0, 255]);
                let len = bytes.pick(&[4, 7, 1, 2, 0, 64]);
                let value = bytes.take(len);
                message.extend([kind, value.len() as u8]);
                message.extend(value);
            }
            message.push(255);
            message
        } else {
            bytes.chunk().to_vec()
        };
        let (from, to): (Ipv4Addr, Ipv4Addr) = match bytes.byte() % 3 {
            0 => (CONTAINER, "10.0.2.2".parse().unwrap()),
            _ => ("0.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap()),
        };
        bench.packet(&Ip::new(from, to, UDP).carrying(udp((68, 67), &message)));
        if bytes.byte() > 200 {
            bench.wait(Duration::from_secs(bytes.word().into()));
        }
    }
    bench.finish();
}

/// Messages to the group of DHCPv6 servers.
pub fn dhcpv6(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(SERVED | bytes.byte(), bytes.byte());
    for _ in 0..MAX_MESSAGES {
        if bytes.is_empty() {
            break;
        }
        let mut message = vec![bytes.pick(&[11u8, 1, 3, 4, 5, 6, 8, 9, 12, 13]), 1, 2, 3];
        if bytes.byte() < 230 {
            for _ in 0..bytes.byte() % 8 {
                let kind = bytes.pick(&[1u16, 2, 3, 4, 5, 6, 8, 14, 16, 25, 39, 23]);
                let value = bytes.chunk();
                message.extend(kind.to_be_bytes());
                message.extend((value.len() as u16).to_be_bytes());
                message.extend(value);
            }
        } else {
            message.extend(bytes.chunk());
        }
        let all_servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
        bench.packet(&Ip::new(link_local(), all_servers, UDP).hops(1).carrying(udp((546, 547), &message)));
    }
    bench.finish();
}

/// Solicitations and advertisements of a neighbor.
pub fn ndp(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(bytes.byte(), bytes.byte());
    let addresses: [Ipv6Addr; 7] =
        ["fd00::64", "fd00::2", "fd00::3", "fe80::2", "fe80::5055:aff:fe00:264", "::", "ff02::1"]
            .map(|text| text.parse().unwrap());
    for _ in 0..MAX_MESSAGES {
        if bytes.is_empty() {
            break;
        }
        let mut message = vec![bytes.pick(&[135u8, 136, 133, 134, 137, 143]), bytes.byte() % 2, 0, 0];
        message.extend(bytes.long().to_be_bytes());
        if bytes.flag() {
            message.extend(bytes.pick(&addresses).octets());
        }
        match bytes.byte() % 3 {
            0 => message.extend(bytes.chunk()),
            1 => message.extend([bytes.pick(&[1, 2]), bytes.byte() % 3, 2, 0, 0, 0, 0, bytes.byte()]),
            _ => {}
        }
        let to = match bytes.byte() % 4 {
            0 => bytes.pick(&addresses),
            // The group of the one that is asked for.
            _ => {
                let last: [u8; 3] = message.get(21..24).map_or([0; 3], |last| last.try_into().unwrap());
                let [a, b, c] = last;
                Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
            }
        };
        let hops = bytes.pick(&[255, 255, 255, 254]);
        let from = bytes.pick(&addresses);
        bench.packet(&Ip::new(from, to, ICMPV6).hops(hops).carrying(message));
        if bytes.byte() > 200 {
            bench.wait(Duration::from_millis(bytes.word().into()));
        }
    }
    bench.finish();
}

/// Queries, and what resolvers make of them.
pub fn dns(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(bytes.byte(), bytes.byte());
    for _ in 0..MAX_MESSAGES {
        if bytes.is_empty() {
            break;
        }
        match bytes.byte() % 8 {
            0..=3 => {
                let (from, to): (IpAddr, IpAddr) = match bytes.flag() {
                    true => (CONTAINER6.into(), DNS6.into()),
                    false => (CONTAINER.into(), DNS.into()),
                };
                let port = bytes.pick(&[5_000, 5_001]);
                let message = bytes.chunk();
                bench.packet(&Ip::new(from, to, UDP).carrying(udp((port, 53), message)));
            }
            4 | 5 => {
                let mut answer = match bytes.flag() {
                    true => bench.host.sent.clone(),
                    false => bytes.chunk().to_vec(),
                };
                if let Some(flags) = answer.get_mut(2) {
                    *flags |= 0x80;
                }
                bench.host.datagrams.push(answer);
                bench.host_event(6);
            }
            6 => bench.host_event(bytes.byte()),
            _ => bench.wait(Duration::from_millis(bytes.pick(&[1, 100, 1_500, 6_000]))),
        }
    }
    bench.finish();
}

/// Queries to a network's resolver: what it answers fits, and is an answer to that.
pub fn names(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut link = settings::config().link;
    link.segment = Segment::Bridged { internal: bytes.flag() };
    let Some(names) = Names::new(&link) else { panic!("a network has names") };
    for _ in 0..MAX_MESSAGES {
        if bytes.is_empty() {
            break;
        }
        let message = bytes.chunk();
        let (over_udp, over_tcp) = (names.handle_datagram(message), names.handle_stream(message));
        for (handled, room) in [(over_udp, 1_232), (over_tcp, 65_535)] {
            if let Handled::Answered(answer) = handled {
                assert!((HEADER_LEN..=room).contains(&answer.len()));
                assert_eq!(answer[..2], message[..2]);
                assert_eq!((message[2] & 0x80, answer[2] & 0x80), (0, 0x80));
            }
        }
    }
}
