//! Containers of one network, each of which may send what it likes to the others: whatever gets through is from who it says.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netferry::config::address::{GATEWAY_LINK_LOCAL, GATEWAY_MAC, eui64_address};
use netferry::config::limits::{FLOOD_BURST, FLOODS_PER_SECOND, LEARNED_AGE, LEARNED_PER_PORT};
use netferry::config::{Ipv4Link, Ipv6Link, LinkConfig, Segment};
use netferry::stack::bridge::{Bridge, Claim, FloodBudget, PortId, Verdict};
use netferry::wire::MacAddr;

use super::bytes::Bytes;
use crate::clock::{Duration, Instant};
use crate::packet::{self, ICMP, ICMPV6, Ip, UDP};

/// Steps of one input.
const MAX_STEPS: usize = 200;
/// Numbers of containers: each has an Ethernet address and addresses by its number.
const NUMBERS: [u8; 6] = [2, 3, 4, 5, 6, 7];
/// What a worker asks again for one frame, at most.
const CLAIMS_PER_FRAME: usize = 2;

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0x42, 172, 17, 0, number])
}

fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 0, number)
}

fn ipv6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, number.into())
}

fn link(number: u8) -> LinkConfig {
    LinkConfig {
        segment: Segment::Bridged { internal: false },
        ipv4: Some(Ipv4Link {
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: ipv4(1),
            dns: Some(ipv4(1)),
            container: ipv4(number),
        }),
        ipv6: Some(Ipv6Link {
            prefix: "fd00:17::/64".parse().unwrap(),
            gateway: ipv6(1),
            gateway_link_local: GATEWAY_LINK_LOCAL,
            dns: Some(ipv6(1)),
            container: ipv6(number),
        }),
        mtu: 1_500,
        gateway_mac: GATEWAY_MAC,
        container_mac: Some(mac(number)),
    }
}

/// A container, and what is known of it beside the switch.
struct Guest {
    port: PortId,
    /// Whose Ethernet address it was given, and whose others.
    station: u8,
    addresses: u8,
    link: LinkConfig,
    budget: FloodBudget,
    joined: Instant,
    floods: u64,
    learnt: BTreeMap<String, Instant>,
}

impl Guest {
    fn own_addresses(&self) -> [IpAddr; 4] {
        let mac = mac(self.station);
        let prefix = |text: &str| text.parse().unwrap();
        [
            ipv4(self.addresses).into(),
            ipv6(self.addresses).into(),
            eui64_address(prefix("fd00:17::/64"), mac).into(),
            eui64_address(prefix("fe80::/64"), mac).into(),
        ]
    }
}

struct Net {
    bridge: Bridge<PortId>,
    /// Named as they will be: a port's number is how many came before it.
    came: u32,
    guests: Vec<Guest>,
    isolated: bool,
    now: Instant,
}

impl Net {
    fn join(&mut self, station: u8, addresses: u8) {
        let is_taken =
            self.guests.iter().any(|guest| guest.station == station || guest.addresses == addresses);
        let link = link(addresses);
        match self.bridge.add(&link, mac(station), PortId(self.came)) {
            Ok(port) => {
                assert!(!is_taken, "two have the same");
                assert_eq!(port, PortId(self.came));
                self.came += 1;
                let (budget, joined) = (FloodBudget::new(self.now), self.now);
                let learnt = BTreeMap::new();
                self.guests.push(Guest { port, station, addresses, link, budget, joined, floods: 0, learnt });
            }
            Err(error) => assert!(is_taken, "{error}"),
        }
        assert_eq!(self.bridge.len(), self.guests.len());
    }

    fn leave(&mut self, at: usize) {
        let guest = self.guests.remove(at);
        assert_eq!(self.bridge.remove(guest.port), Some(guest.port));
        assert_eq!(self.bridge.others(guest.port).count(), self.guests.len());
    }

    /// As a worker does it.
    fn send(&mut self, at: usize, frame: &[u8]) {
        let Net { bridge, guests, isolated, now, .. } = self;
        for _ in 0..=CLAIMS_PER_FRAME {
            let guest = &guests[at];
            let claim = match bridge.judge(guest.port, &guest.link, frame, *now) {
                Verdict::Own | Verdict::Drop(_) => return,
                Verdict::One(port) => {
                    assert!(!*isolated && *port != guest.port, "{frame:02x?}");
                    assert!(guests.iter().any(|other| other.port == *port), "a frame for who has left");
                    return assert_honest(guests, at, frame);
                }
                Verdict::Others { .. } => {
                    assert!(!*isolated, "{frame:02x?}");
                    assert_honest(guests, at, frame);
                    return flood(&mut guests[at], frame.len(), *now);
                }
                Verdict::Learn(claim) => claim,
            };
            if bridge.learn(guest.port, claim, *now).is_err() {
                return;
            }
            note(&mut guests[at], claim, *now);
        }
    }
}

/// What one has learnt and not been silent about for long enough is bounded.
fn note(guest: &mut Guest, claim: Claim, now: Instant) {
    guest.learnt.insert(format!("{claim:?}"), now);
    guest.learnt.retain(|_, since| now - *since < LEARNED_AGE.into());
    assert!(guest.learnt.len() <= LEARNED_PER_PORT, "{:?}", guest.learnt);
}

fn flood(guest: &mut Guest, len: usize, now: Instant) {
    guest.floods += u64::from(guest.budget.take(len, now).is_ok());
    let most = FLOOD_BURST + (now - guest.joined).total_micros() * FLOODS_PER_SECOND / 1_000_000;
    assert!(guest.floods <= most, "{} of {most}", guest.floods);
}

/// Read without our own parsers: what reaches another says the truth about its sender, and nothing that only the gateway says.
fn assert_honest(guests: &[Guest], at: usize, frame: &[u8]) {
    let guest = &guests[at];
    let source = MacAddr(frame[6..12].try_into().unwrap());
    let others = || guests.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, guest)| guest);
    assert!(source != GATEWAY_MAC && others().all(|other| source != mac(other.station)), "{frame:02x?}");
    let own = guest.own_addresses();
    match frame[12..14] {
        [8, 0] => {
            let from: [u8; 4] = frame[26..30].try_into().unwrap();
            assert_eq!(IpAddr::from(from), own[0], "{frame:02x?}");
            let (is_first, transport) =
                (frame[20] & 0x1f == 0 && frame[21] == 0, 14 + usize::from(frame[14] & 15) * 4);
            if is_first && frame[23] == UDP {
                assert_ne!(frame[transport..transport + 2], [0, 67], "a server of addresses: {frame:02x?}");
            }
        }
        [8, 6] => {
            assert_eq!(frame[22..28], source.0, "{frame:02x?}");
            let sender: [u8; 4] = frame[28..32].try_into().unwrap();
            assert!(IpAddr::from(sender) == own[0] || sender == [0; 4], "{frame:02x?}");
        }
        [0x86, 0xdd] => {
            let from: [u8; 16] = frame[22..38].try_into().unwrap();
            let from = Ipv6Addr::from(from);
            let is_anothers = others().any(|other| other.own_addresses().contains(&from.into()));
            assert!(!is_anothers && from != GATEWAY_LINK_LOCAL && from != ipv6(1), "{frame:02x?}");
            let is_own = own.contains(&from.into()) || from.is_unicast_link_local();
            // Options may come before it, fragments may not.
            let is_icmp = frame[20] == ICMPV6 || (frame[20] == 0 && frame[54] == ICMPV6);
            assert!(is_own || (from.is_unspecified() && is_icmp), "{frame:02x?}");
            assert!(frame[20] != ICMPV6 || !matches!(frame[54], 134 | 137), "a router: {frame:02x?}");
            assert!(frame[20] != UDP || frame[54..56] != [2, 35], "a server of addresses: {frame:02x?}");
        }
        _ => panic!("of no known kind: {frame:02x?}"),
    }
}

fn station(bytes: &mut Bytes<'_>, own: u8) -> [u8; 6] {
    match bytes.byte() {
        0..=159 => mac(own).0,
        160..=199 => mac(bytes.pick(&NUMBERS)).0,
        200..=219 => GATEWAY_MAC.0,
        220..=239 => [2, 0, 0, 0, 0, bytes.byte() % 16],
        _ => [0xff; 6],
    }
}

fn destination(bytes: &mut Bytes<'_>, is_ipv6: bool) -> [u8; 6] {
    match bytes.byte() {
        0..=119 => mac(bytes.pick(&NUMBERS)).0,
        120..=139 => GATEWAY_MAC.0,
        140..=159 => [2, 0, 0, 0, 0, bytes.byte() % 16],
        160..=219 if is_ipv6 => [0x33, 0x33, 0xff, 0, 0, bytes.pick(&NUMBERS)],
        _ => [0xff; 6],
    }
}

fn address(bytes: &mut Bytes<'_>, is_ipv6: bool, own: u8) -> IpAddr {
    let number = bytes.pick(&[1, 2, 3, 4, 5, 6, 7, 9]);
    let local = |end: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, end);
    match (is_ipv6, bytes.byte()) {
        (false, 0..=127) => ipv4(own).into(),
        (false, 128..=219) => ipv4(number).into(),
        (false, _) => {
            bytes.pick(&["0.0.0.0", "255.255.255.255", "198.51.100.1", "224.0.0.251"]).parse().unwrap()
        }
        (true, 0..=79) => ipv6(own).into(),
        (true, 80..=119) => eui64_address("fe80::/64".parse().unwrap(), mac(own)).into(),
        (true, 120..=159) => local(u16::from(bytes.byte() % 32)).into(),
        (true, 160..=219) => ipv6(number).into(),
        (true, _) => bytes.pick(&["::", "ff02::1", "ff02::2", "ff02::1:2", "2001:db8::1"]).parse().unwrap(),
    }
}

fn frame(bytes: &mut Bytes<'_>, own: u8) -> Vec<u8> {
    let is_ipv6 = bytes.flag();
    let (source, to) = (station(bytes, own), destination(bytes, is_ipv6));
    let (from, target) = (address(bytes, is_ipv6, own), address(bytes, is_ipv6, 1));
    let hops = bytes.pick(&[255, 255, 64, 1]);
    let ports = (bytes.pick(&[4_000, 68, 67, 546, 547]), bytes.pick(&[80, 67, 68, 547, 546, 53]));
    let (protocol, transport) = match (bytes.byte() % 6, from, target) {
        (0, IpAddr::V4(sender), IpAddr::V4(target)) => {
            let told = station(bytes, own);
            let mut frame = packet::arp_request(told, sender, target);
            frame[..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&source);
            frame[21] = 1 + bytes.byte() % 2;
            return frame;
        }
        (0 | 1, ..) => (UDP, packet::udp(ports, bytes.chunk())),
        (2, ..) if !is_ipv6 => (ICMP, [&[bytes.pick(&[8, 0, 5, 3]), 0, 0, 0], bytes.chunk()].concat()),
        (2..=4, ..) => {
            let mut message = vec![bytes.pick(&[135, 136, 133, 134, 137, 143, 128]), 0, 0, 0, 0, 0, 0, 0];
            if let IpAddr::V6(asked) = address(bytes, true, own) {
                message.extend(asked.octets());
            }
            if bytes.flag() {
                message.extend([bytes.pick(&[1, 2]), 1]);
                message.extend(station(bytes, own));
            }
            (ICMPV6, message)
        }
        _ => (bytes.byte(), bytes.chunk().to_vec()),
    };
    let mut ip = Ip::new(from, target, protocol).hops(hops);
    if bytes.byte() >= 220 {
        ip.fragment = Some((usize::from(bytes.byte() % 2) * 8, bytes.flag()));
    }
    let mut frame = packet::ethernet(source, to, &ip.carrying_part(&transport));
    for _ in 0..bytes.byte() / 86 {
        let (at, value) = (usize::from(bytes.byte()) % frame.len(), bytes.byte());
        frame[at] = value;
        if value == 0 {
            frame.truncate(at);
        }
        if frame.is_empty() {
            break;
        }
    }
    frame
}

/// A life of the switch.
pub fn bridge(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let isolated = bytes.byte() > 200;
    let bridge = Bridge::new(GATEWAY_MAC, isolated);
    let mut net = Net { bridge, came: 0, guests: Vec::new(), isolated, now: Instant::ZERO };
    net.join(2, 2);
    net.join(3, 3);
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        match bytes.byte() % 16 {
            0 => {
                let number = bytes.pick(&NUMBERS);
                let addresses = if bytes.byte() < 200 { number } else { bytes.pick(&NUMBERS) };
                net.join(number, addresses);
            }
            1 if net.guests.len() > 1 => {
                let at = usize::from(bytes.byte()) % net.guests.len();
                net.leave(at);
            }
            1 | 2 => net.now += Duration::from_millis(1 << (bytes.byte() % 20)),
            3 if !net.guests.is_empty() => {
                let at = usize::from(bytes.byte()) % net.guests.len();
                net.send(at, bytes.chunk());
            }
            _ => {
                let at = usize::from(bytes.byte()) % net.guests.len();
                let frame = frame(&mut bytes, net.guests[at].station);
                net.send(at, &frame);
            }
        }
    }
}
