//! The switch between the containers of a network: where a frame goes, and whether it may.
//!
//! Each container has a *port*, which comes with what it was given: an Ethernet address, its addresses of the segment, and
//! those that it makes for itself of them. What is held by one port is nobody else's, and the gateway's is nobody's at
//! all. Beside what is given a port may *learn* a few Ethernet addresses, of what the container bridges, and link-local
//! addresses, of which the first to use one has it (RFC 6620); these are forgotten after a while of silence.
//!
//! [`Bridge::judge`] is asked about each frame and changes nothing, so that many may ask at once; what is to be learnt it
//! says. `guard` has the rules about who a frame may say it is from. Where it goes, first match wins:
//! 1. to the gateway's Ethernet address: to our own core, which judges the rest itself;
//! 2. to another station: to its port, as it is, super-segments whole;
//! 3. who-has questions of ARP and neighbor discovery go to whom they are about: us, or the one port that holds the address;
//!    nobody else hears them;
//! 4. what only a gateway answers, DHCP and router solicitations, to our own core;
//! 5. all other frames for several, and for a station that nobody knows, to everybody else, as far as the sender's
//!    [`FloodBudget`] goes.
//!
//! Where containers are kept apart from each other, nothing leaves by 2, 3 or 5 but to our own core.
//!
//! Left out: spanning trees (there is one switch), VLANs (a tagged frame is not understood), and listening to who joins a
//! group (IGMP, MLD): a group is everybody.
//!
//! RFCs: 826, 4861, 5227 (who-has), 6620 (first come, first served), 6105, 7113 and 7610 (what only a router and a server of
//! addresses may say); IEEE 802.1D §7.9 (ageing).

mod guard;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicI64, Ordering};

use super::boundary::{Duration, Instant};
use super::drop_reason::DropReason;
use crate::config::LinkConfig;
use crate::config::address::eui64_address;
use crate::config::limits::{FLOOD_BURST, FLOODS_PER_SECOND, LEARNED_AGE, LEARNED_PER_PORT};
use crate::wire::MacAddr;
use crate::wire::arp::Operation;
use crate::wire::frame::{self, Body, Frame};
use crate::wire::ip::{ETHERNET_HEADER_LEN, Packet, protocol};
use crate::wire::{dhcp, dhcpv6, ndp};

/// The prefix of link-local addresses (RFC 4291 §2.5.6).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// How long a port that has learnt as much as it may is refused more without another look.
const REVIEW_INTERVAL: Duration = Duration::from_secs(10);

/// Names a port; no number is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// All ports of a network; `T` is how a frame reaches one.
#[derive(Debug)]
pub struct Bridge<T> {
    gateway_mac: MacAddr,
    /// Containers are kept apart from each other.
    isolated: bool,
    ports: BTreeMap<PortId, Port<T>>,
    stations: BTreeMap<[u8; 6], Holder>,
    addresses: BTreeMap<IpAddr, Holder>,
    next_port: u32,
}

#[derive(Debug)]
struct Port<T> {
    mac: MacAddr,
    ipv4: Option<Ipv4Addr>,
    /// How much it holds beside what it was given.
    learnt: usize,
    /// While it holds as much as it may: when to look whether some of that has aged.
    review: Instant,
    device: T,
}

/// Whose an address is.
#[derive(Debug)]
struct Holder {
    port: PortId,
    /// When it was last heard, in microseconds; nothing for what is given, which does not age.
    heard: Option<AtomicI64>,
}

impl Holder {
    fn given(port: PortId) -> Holder {
        Holder { port, heard: None }
    }

    fn learnt(port: PortId, now: Instant) -> Holder {
        Holder { port, heard: Some(AtomicI64::new(now.total_micros())) }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let age = LEARNED_AGE.as_micros();
        self.heard.as_ref().is_none_or(|heard| {
            u128::from(now.total_micros().saturating_sub(heard.load(Ordering::Relaxed)).unsigned_abs()) < age
        })
    }

    fn note(&self, now: Instant) {
        if let Some(heard) = &self.heard {
            heard.store(now.total_micros(), Ordering::Relaxed);
        }
    }
}

/// What is to become of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'b, T> {
    /// It is for our own core.
    Own,
    /// It is for this port.
    One(&'b T),
    /// It is for all [`Bridge::others`], as far as the sender's budget goes.
    Others {
        /// And for our own core.
        own: bool,
    },
    /// It goes nowhere.
    Drop(DropReason),
    /// This is to be learnt, and the question to be asked again.
    Learn(Claim),
}

/// What a port may come to hold beside what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// An Ethernet address.
    Station(MacAddr),
    /// A link-local address.
    Address(Ipv6Addr),
}

/// Why there is no new port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Its Ethernet address is ours, or another port's.
    #[error("the Ethernet address {0} is in use on this network")]
    Station(MacAddr),
    /// One of its addresses is ours, or another port's.
    #[error("the address {0} is in use on this network")]
    Address(IpAddr),
}

impl<T> Bridge<T> {
    /// A switch without ports, whose gateway has this Ethernet address.
    #[must_use]
    pub fn new(gateway_mac: MacAddr, isolated: bool) -> Bridge<T> {
        Bridge {
            gateway_mac,
            isolated,
            ports: BTreeMap::new(),
            stations: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next_port: 0,
        }
    }

    /// Adds a port for the container of `link`.
    ///
    /// # Errors
    /// What of it another has. What that other has merely learnt gives way.
    pub fn add(&mut self, link: &LinkConfig, mac: MacAddr, device: T) -> Result<PortId, PortError> {
        let is_given = |holder: Option<&Holder>| holder.is_some_and(|holder| holder.heard.is_none());
        if !mac.is_unicast() || mac == self.gateway_mac || is_given(self.stations.get(&mac.0)) {
            return Err(PortError::Station(mac));
        }
        let addresses = given_addresses(link, mac);
        let taken = |address: &&IpAddr| link.is_gateway(**address) || is_given(self.addresses.get(address));
        if let Some(address) = addresses.iter().find(taken) {
            return Err(PortError::Address(*address));
        }
        let id = PortId(self.next_port);
        self.next_port += 1;
        self.stations.insert(mac.0, Holder::given(id));
        self.addresses.extend(addresses.into_iter().map(|address| (address, Holder::given(id))));
        let ipv4 = link.ipv4.map(|ipv4| ipv4.container);
        self.ports.insert(id, Port { mac, ipv4, learnt: 0, review: Instant::ZERO, device });
        Ok(id)
    }

    /// Takes a port away, and all that it holds.
    pub fn remove(&mut self, id: PortId) -> Option<T> {
        self.stations.retain(|_, holder| holder.port != id);
        self.addresses.retain(|_, holder| holder.port != id);
        self.ports.remove(&id).map(|port| port.device)
    }

    /// How many ports there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// All ports but this one.
    pub fn others(&self, id: PortId) -> impl Iterator<Item = &T> {
        self.ports.iter().filter(move |(other, _)| **other != id).map(|(_, port)| &port.device)
    }

    /// Decides about a frame that the container of port `from` sent, on the segment that `link` describes to it.
    pub fn judge(&self, from: PortId, link: &LinkConfig, frame: &[u8], now: Instant) -> Verdict<'_, T> {
        self.find_way(from, link, frame, now).unwrap_or_else(Verdict::Drop)
    }

    fn find_way(
        &self,
        from: PortId,
        link: &LinkConfig,
        frame: &[u8],
        now: Instant,
    ) -> Result<Verdict<'_, T>, DropReason> {
        const TRUNCATED: DropReason = DropReason::Frame(frame::FrameError::Truncated);
        let header = frame.first_chunk::<ETHERNET_HEADER_LEN>().ok_or(TRUNCATED)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *header;
        let (destination, source) = (MacAddr([d0, d1, d2, d3, d4, d5]), MacAddr([s0, s1, s2, s3, s4, s5]));
        let port = self.ports.get(&from).ok_or(DropReason::NotForUs)?;
        if source != port.mac
            && let Some(claim) = self.check_station(from, source, now)?
        {
            return Ok(Verdict::Learn(claim));
        }
        if destination == self.gateway_mac {
            return Ok(Verdict::Own);
        }
        let frame = frame::parse(frame).map_err(DropReason::Frame)?;
        if let Some(claim) = self.check_origin(from, link, &frame, now)? {
            return Ok(Verdict::Learn(claim));
        }
        if !destination.is_unicast() {
            return self.find_group(from, link, &frame, now);
        }
        // Who has no address yet asks all, and only the gateway is to answer.
        if matches!(&frame.body, Body::Ip(packet) if packet.source.is_unspecified()) {
            return Err(DropReason::SpoofedSource);
        }
        match self.stations.get(&destination.0).filter(|holder| holder.is_fresh(now)) {
            Some(holder) => self.toward(from, holder.port),
            None => self.to_others(false),
        }
    }

    /// Whether a frame may be from this station; what is to be learnt first.
    fn check_station(
        &self,
        from: PortId,
        source: MacAddr,
        now: Instant,
    ) -> Result<Option<Claim>, DropReason> {
        if !source.is_unicast() {
            return Err(DropReason::Frame(frame::FrameError::SpoofedGroupSource));
        }
        if source == self.gateway_mac {
            return Err(DropReason::SpoofedMac);
        }
        match self.stations.get(&source.0) {
            Some(holder) if holder.port == from => {
                holder.note(now);
                Ok(None)
            }
            Some(holder) if holder.is_fresh(now) => Err(DropReason::SpoofedMac),
            Some(_) | None => self.may_learn(from, now).map(|()| Some(Claim::Station(source))),
        }
    }

    /// Learning stops everybody else, so that who has learnt enough is refused without it.
    fn may_learn(&self, from: PortId, now: Instant) -> Result<(), DropReason> {
        let port = self.ports.get(&from).ok_or(DropReason::NotForUs)?;
        if port.learnt < LEARNED_PER_PORT || now >= port.review {
            Ok(())
        } else {
            Err(DropReason::StationLimit)
        }
    }

    /// Takes note of what a port holds from now on.
    ///
    /// # Errors
    /// `SpoofedMac` or `NeighborConflict` where another has it, `StationLimit` where the port has learnt enough.
    pub fn learn(&mut self, from: PortId, claim: Claim, now: Instant) -> Result<(), DropReason> {
        let (holder, taken) = match claim {
            Claim::Station(mac) => (self.stations.get(&mac.0), DropReason::SpoofedMac),
            Claim::Address(address) => {
                (self.addresses.get(&IpAddr::V6(address)), DropReason::NeighborConflict)
            }
        };
        let former = match holder {
            // Somebody was faster, in the name of the same port.
            Some(holder) if holder.port == from => return Ok(()),
            Some(holder) if holder.is_fresh(now) => return Err(taken),
            Some(holder) => Some(holder.port),
            None => None,
        };
        if self.ports.get(&from).ok_or(DropReason::NotForUs)?.learnt >= LEARNED_PER_PORT {
            self.forget_aged(from, now);
        }
        let port = self.ports.get_mut(&from).ok_or(DropReason::NotForUs)?;
        if port.learnt >= LEARNED_PER_PORT {
            port.review = now + REVIEW_INTERVAL;
            return Err(DropReason::StationLimit);
        }
        port.learnt += 1;
        if let Some(former) = former.and_then(|former| self.ports.get_mut(&former)) {
            former.learnt = former.learnt.saturating_sub(1);
        }
        let holder = Holder::learnt(from, now);
        match claim {
            Claim::Station(mac) => self.stations.insert(mac.0, holder),
            Claim::Address(address) => self.addresses.insert(address.into(), holder),
        };
        Ok(())
    }

    fn forget_aged(&mut self, from: PortId, now: Instant) {
        let is_aged = |holder: &Holder| holder.port == from && !holder.is_fresh(now);
        let before = self.stations.len() + self.addresses.len();
        self.stations.retain(|_, holder| !is_aged(holder));
        self.addresses.retain(|_, holder| !is_aged(holder));
        let forgotten = before - self.stations.len() - self.addresses.len();
        if let Some(port) = self.ports.get_mut(&from) {
            port.learnt = port.learnt.saturating_sub(forgotten);
        }
    }

    /// Where a frame for several stations goes.
    fn find_group(
        &self,
        from: PortId,
        link: &LinkConfig,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Verdict<'_, T>, DropReason> {
        let packet = match &frame.body {
            Body::Arp(message) => {
                return match message.operation {
                    // A neighbor tells of itself.
                    Operation::Request if message.sender == message.target => self.to_others(true),
                    Operation::Request => self.ask_about(from, link, message.target.into(), now),
                    Operation::Reply => self.to_others(true),
                };
            }
            Body::Ip(packet) => packet,
        };
        if is_for_server(packet) {
            return Ok(Verdict::Own);
        }
        match packet.protocol {
            IGMP if packet.source.is_ipv4() => Err(DropReason::Multicast),
            protocol::ICMPV6 if packet.fragment.is_none() => match packet.payload.first() {
                Some(&(MLD_QUERY..=MLD_DONE | MLD_REPORT)) => Err(DropReason::Multicast),
                Some(_) if ndp::is_router_solicitation(packet.payload) => Ok(Verdict::Own),
                Some(_) => match ndp::parse(packet.payload, packet.hop_limit) {
                    Some(ndp::Message::NeighborSolicitation { target, .. }) => {
                        self.ask_about(from, link, target.into(), now)
                    }
                    Some(ndp::Message::NeighborAdvertisement { .. }) => self.to_others(true),
                    Some(ndp::Message::RouterSolicitation { .. }) | None => self.to_others(false),
                },
                None => Err(DropReason::BadTransport),
            },
            _ => self.to_others(false),
        }
    }

    /// A who-has question goes to whom it is about.
    fn ask_about(
        &self,
        from: PortId,
        link: &LinkConfig,
        target: IpAddr,
        now: Instant,
    ) -> Result<Verdict<'_, T>, DropReason> {
        if link.is_gateway(target) || link.is_dns(target) {
            return Ok(Verdict::Own);
        }
        match self.addresses.get(&target).filter(|holder| holder.is_fresh(now)) {
            Some(holder) => self.toward(from, holder.port),
            None => Err(DropReason::NotForUs),
        }
    }

    fn toward(&self, from: PortId, to: PortId) -> Result<Verdict<'_, T>, DropReason> {
        if to == from {
            return Err(DropReason::NotForUs);
        }
        if self.isolated {
            return Err(DropReason::Isolated);
        }
        let port = self.ports.get(&to).ok_or(DropReason::NotForUs)?;
        Ok(Verdict::One(&port.device))
    }

    fn to_others(&self, own: bool) -> Result<Verdict<'_, T>, DropReason> {
        match (self.isolated, own) {
            (false, own) => Ok(Verdict::Others { own }),
            (true, true) => Ok(Verdict::Own),
            (true, false) => Err(DropReason::Isolated),
        }
    }
}

const IGMP: u8 = 2;
/// Multicast listener discovery: query, report and done of the first version (RFC 2710), report of the second (RFC 3810).
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const MLD_REPORT: u8 = 143;

/// Whether a packet asks a server of addresses, which is us.
fn is_for_server(packet: &Packet<'_>) -> bool {
    let port = match (packet.protocol, packet.fragment, packet.payload) {
        (protocol::UDP, None, [_, _, high, low, ..]) => u16::from_be_bytes([*high, *low]),
        _ => return false,
    };
    match packet.destination {
        IpAddr::V4(_) => port == dhcp::SERVER_PORT,
        IpAddr::V6(_) => port == dhcpv6::SERVER_PORT,
    }
}

/// What a container has from the beginning: what it was given, and what it makes for itself of that.
fn given_addresses(link: &LinkConfig, mac: MacAddr) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = link.ipv4.iter().map(|ipv4| ipv4.container.into()).collect();
    if let Some(ipv6) = link.ipv6 {
        let link_local = ipnet::Ipv6Net::new_assert(LINK_LOCAL, 64);
        let made = [eui64_address(ipv6.prefix, mac), eui64_address(link_local, mac)];
        addresses.push(ipv6.container.into());
        addresses.extend(made.into_iter().filter(|address| *address != ipv6.container).map(IpAddr::V6));
    }
    addresses
}

/// How many frames for several a port may send: a token for each, and for each two KiB of it, since each is copied to
/// everybody.
#[derive(Debug, Clone, Copy)]
pub struct FloodBudget {
    /// Thousandths of a token.
    left: u64,
    refilled: Instant,
}

impl FloodBudget {
    const TOKEN: u64 = 1_000;

    /// A full one.
    #[must_use]
    pub fn new(now: Instant) -> FloodBudget {
        FloodBudget { left: FLOOD_BURST * Self::TOKEN, refilled: now }
    }

    /// Pays for a frame.
    ///
    /// # Errors
    /// `FloodLimit` where there is not enough left.
    pub fn take(&mut self, frame_bytes: usize, now: Instant) -> Result<(), DropReason> {
        let micros: Duration = now - self.refilled;
        let earned = micros.total_micros().saturating_mul(FLOODS_PER_SECOND) / 1_000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(FLOOD_BURST * Self::TOKEN);
            self.refilled = now;
        }
        let price = (1 + frame_bytes as u64 / 2_048) * Self::TOKEN;
        self.left = self.left.checked_sub(price).ok_or(DropReason::FloodLimit)?;
        Ok(())
    }
}
