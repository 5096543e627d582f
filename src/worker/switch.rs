//! The switch of a network, as the workers of its containers share it.
//!
//! Each container has a worker and a thread of its own. The worker that has read a frame asks the [`Bridge`] where it goes, and
//! writes it there itself: a frame crosses from one TAP to the other by one read and one write, with its virtio-net header in
//! front, a super-segment as it is, and no other thread is woken. So who sends pays for it, and who is sent much is not
//! kept from what it does.
//!
//! What all share is the table, behind a lock that readers have together: it is changed when a container comes or goes, and
//! when something is learnt, which is bounded ([`Bridge::learn`]). A frame is written while the table is held, so that nobody
//! writes to an interface that has been taken away, and its descriptor is closed when [`Port`] is gone, whatever ended the
//! worker that had it.
//!
//! All interfaces have the same offloads, or a super-segment of one could not be given to the other; the first says which.

mod passed;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::passed::Passed;
use super::clock::Clock;
use crate::config::LinkConfig;
use crate::stack::boundary::{Duration, Instant};
use crate::stack::bridge::{Bridge, FloodBudget, PortError, PortId, Verdict};
use crate::stack::drop_reason::DropReason;
use crate::sys::tap::{Tap, TapFeatures};
use crate::wire::MacAddr;

/// The switch of one network.
#[derive(Debug)]
pub struct Switch {
    table: RwLock<Table>,
    /// The time that all of them go by.
    clock: Clock,
}

#[derive(Debug)]
struct Table {
    bridge: Bridge<Outlet>,
    /// What every interface on it has.
    features: Option<TapFeatures>,
}

/// How frames reach a container.
#[derive(Debug)]
struct Outlet {
    tap: Tap,
    /// Bytes that others have sent there.
    received: Arc<AtomicU64>,
    /// What they send, for those who watch there.
    passed: Arc<Passed>,
}

/// Why a container has no port on the switch.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Something of it is another's.
    #[error(transparent)]
    Taken(#[from] PortError),
    /// Frames could not be passed on as they are.
    #[error(
        "interface {name} has other offloads than those of the network's other containers; open it as netferry does, \
         with a virtio-net header and all that the kernel has"
    )]
    Offloads {
        /// The interface.
        name: String,
    },
    /// No descriptor left.
    #[error("cannot share interface {name}: {source}")]
    Descriptor {
        /// The interface.
        name: String,
        /// The kernel's word.
        source: io::Error,
    },
}

impl Switch {
    /// A switch that nobody is on.
    #[must_use]
    pub fn new(gateway_mac: MacAddr, isolated: bool) -> Arc<Switch> {
        let table = Table { bridge: Bridge::new(gateway_mac, isolated), features: None };
        Arc::new(Switch { table: RwLock::new(table), clock: Clock::start() })
    }

    /// Gives the container at the other end of `tap` a port, until that is dropped. `link` is the segment as it sees it.
    pub fn join(self: &Arc<Self>, link: &LinkConfig, mac: MacAddr, tap: &Tap) -> Result<Port, JoinError> {
        let name = || tap.name().to_owned();
        let device = tap.duplicate().map_err(|source| JoinError::Descriptor { name: name(), source })?;
        let features = tap.features();
        let mut table = self.write();
        let others = table.features.filter(|_| !table.bridge.is_empty());
        if !features.vnet_header || others.is_some_and(|others| others != features) {
            return Err(JoinError::Offloads { name: name() });
        }
        let (received, passed) = (Arc::default(), Arc::default());
        let outlet = Outlet { tap: device, received: Arc::clone(&received), passed: Arc::clone(&passed) };
        let id = table.bridge.add(link, mac, outlet)?;
        table.features = Some(features);
        drop(table);
        let now = self.clock.now();
        Ok(Port {
            switch: Arc::clone(self),
            id,
            link: link.clone(),
            counters: Arc::default(),
            received,
            passed,
            budget: FloodBudget::new(now),
            ahead: Duration::ZERO,
        })
    }

    /// A thread that panicked has not changed the table in part: each change is one call.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's place on the switch; with it the place is given up.
#[derive(Debug)]
pub struct Port {
    switch: Arc<Switch>,
    id: PortId,
    link: LinkConfig,
    counters: Arc<Counters>,
    /// Bytes that the others have sent it.
    received: Arc<AtomicU64>,
    passed: Arc<Passed>,
    budget: FloodBudget,
    /// How far the switch's clock is ahead of the worker's.
    ahead: Duration,
}

/// What a container has sent to others, and what of it was refused.
#[derive(Debug)]
pub struct Counters {
    frames: AtomicU64,
    bytes: AtomicU64,
    drops: [AtomicU64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Counters {
        let drops = std::array::from_fn(|_| AtomicU64::new(0));
        Counters { frames: AtomicU64::new(0), bytes: AtomicU64::new(0), drops }
    }
}

impl Counters {
    /// Frames that another container was given; one for several counts for each of them.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes of these, from the Ethernet header on.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Frames that went nowhere, by reason; none that did not occur.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let counted = self.drops.iter().map(|count| count.load(Ordering::Relaxed));
        DropReason::ALL.into_iter().zip(counted).filter(|(_, count)| *count > 0)
    }

    fn sent(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn dropped(&self, reason: DropReason) {
        if let Some(count) = self.drops.get(reason.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Port {
    /// What passes here, for others to look at.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Bytes that the container has sent to others, and was sent by them.
    pub(super) fn exchanged(&self) -> (u64, u64) {
        (self.counters.bytes(), self.received.load(Ordering::Relaxed))
    }

    /// What the others send it, for those who watch.
    pub(super) fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Takes note of what the worker's clock says now.
    pub(super) fn set_clock(&mut self, now: Instant) {
        self.ahead = self.switch.clock.now() - now;
    }

    /// Bytes that the container has exchanged with others so far. The worker of who receives a transfer reads nothing but
    /// acknowledgements, and would take it for an exchange of short messages if it did not know of the rest.
    pub(super) fn moved(&self) -> u64 {
        let (sent, received) = self.exchanged();
        sent + received
    }

    /// Passes a frame on; whether the container's own core is to have it. `read` is all that was read, with the virtio-net header
    /// in front, of which `frame` is the rest.
    pub(super) fn pass(&mut self, read: &[u8], frame: &[u8], now: Instant) -> bool {
        let now = now + self.ahead;
        self.find_way(read, frame, now).unwrap_or_else(|reason| {
            self.counters.dropped(reason);
            false
        })
    }

    fn find_way(&mut self, read: &[u8], frame: &[u8], now: Instant) -> Result<bool, DropReason> {
        // The station, and an address.
        const CLAIMS_PER_FRAME: usize = 2;
        for _ in 0..=CLAIMS_PER_FRAME {
            let table = self.switch.read();
            let claim = match table.bridge.judge(self.id, &self.link, frame, now) {
                Verdict::Own => return Ok(true),
                Verdict::One(outlet) => {
                    put(outlet, read, frame.len(), &self.counters);
                    return Ok(false);
                }
                Verdict::Others { own } => {
                    match self.budget.take(frame.len(), now) {
                        Ok(()) => {
                            for outlet in table.bridge.others(self.id) {
                                put(outlet, read, frame.len(), &self.counters);
                            }
                        }
                        Err(reason) => self.counters.dropped(reason),
                    }
                    return Ok(own);
                }
                Verdict::Drop(reason) => return Err(reason),
                Verdict::Learn(claim) => claim,
            };
            drop(table);
            self.switch.write().bridge.learn(self.id, claim, now)?;
        }
        Err(DropReason::StationLimit)
    }
}

/// Gives a frame to another container; what its queue does not take is lost, as on any wire.
fn put(outlet: &Outlet, read: &[u8], frame_bytes: usize, counters: &Counters) {
    outlet.passed.see(read);
    loop {
        match outlet.tap.write(read) {
            Ok(_) => {
                outlet.received.fetch_add(frame_bytes as u64, Ordering::Relaxed);
                return counters.sent(frame_bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // EIO is an interface that is down, EINVAL a header that the kernel does not believe, EBADFD one that is gone; the
            // others want of room.
            Err(_) => return counters.dropped(DropReason::LinkFull),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let outlet = self.switch.write().bridge.remove(self.id);
        // Only now that the others can go on: with its last descriptor the kernel takes the interface down, which takes long.
        drop(outlet);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::process::Command;

    use etherparse::PacketBuilder;

    use super::*;
    use crate::config::address::GATEWAY_MAC;
    use crate::config::{Ipv4Link, Segment};
    use crate::sys::socket::tests::in_private_network;
    use crate::wire::vnet_header::VNET_HEADER_LEN;

    fn link(last: u8) -> LinkConfig {
        let ipv4 = Ipv4Link {
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: Ipv4Addr::new(172, 17, 0, 1),
            dns: None,
            container: Ipv4Addr::new(172, 17, 0, last),
        };
        let segment = Segment::Bridged { internal: false };
        LinkConfig { segment, ipv4: Some(ipv4), ipv6: None, ..LinkConfig::default() }
    }

    #[test]
    fn what_is_sent_counts_as_moved_for_both_ends_and_a_place_is_free_when_it_is_given_up() {
        let name = "worker::switch::tests::what_is_sent_counts_as_moved_for_both_ends_and_a_place_is_free_when_it_is_given_up";
        in_private_network(name, || {
            let switch = Switch::new(GATEWAY_MAC, false);
            let mac = |last| MacAddr([2, 0x42, 172, 17, 0, last]);
            let taps = [2, 3].map(|last| Tap::open(&format!("t{last}"), TapFeatures::ALL).unwrap());
            for name in ["t2", "t3"] {
                assert!(Command::new("ip").args(["link", "set", name, "up"]).status().unwrap().success());
            }
            let mut sender = switch.join(&link(2), mac(2), &taps[0]).unwrap();
            let receiver = switch.join(&link(3), mac(3), &taps[1]).unwrap();
            assert!(switch.join(&link(3), mac(3), &taps[1]).is_err());
            let mut read = vec![0; VNET_HEADER_LEN];
            PacketBuilder::ethernet2(mac(2).0, mac(3).0)
                .ipv4([172, 17, 0, 2], [172, 17, 0, 3], 64)
                .udp(4_000, 80)
                .write(&mut read, b"payload")
                .unwrap();
            let frame = read[VNET_HEADER_LEN..].to_vec();
            assert!(!sender.pass(&read, &frame, Instant::ZERO));
            assert_eq!((sender.moved(), receiver.moved()), (frame.len() as u64, frame.len() as u64));
            drop(receiver);
            assert!(switch.join(&link(3), mac(3), &taps[1]).is_ok());
        });
    }
}
