//! Which of several workers a flow belongs to.
//!
//! Where an interface has several queues, each worker has one of them, and a core with flows of its own. A TCP connection
//! is of the worker that a keyed hash of its two endpoints names; everything else is of the first: other protocols, ARP and
//! neighbor discovery, and fragments, until they are whole. An ICMP error is of the worker whose segment it quotes. So every
//! worker can tell of any frame whose it is, without a table that they share, and whatever the kernel does with its
//! queues: a frame that comes by another's is handed over, and a flow is never in two hands.
//!
//! What the core chooses itself must agree with that: a port that stands in for a client's own, and the port that a question
//! about a published port comes from, are such that the flow is its own ([`Share::is_mine`]).

use std::net::SocketAddr;

use ahash::RandomState;

use super::flow::{FlowKey, FlowProtocol};
use crate::wire::frame::{self, Body};
use crate::wire::{icmp, ip};

/// One worker's part of the flows; by default all of them.
#[derive(Debug, Clone)]
pub struct Share(Option<Part>);

#[derive(Debug, Clone)]
struct Part {
    own: usize,
    workers: u64,
    /// The container cannot aim for one worker.
    hasher: RandomState,
}

impl Share {
    /// All flows.
    #[must_use]
    pub fn whole() -> Share {
        Share(None)
    }

    /// The part of the worker `own` of so many, which all have the same `secret`.
    #[must_use]
    pub fn part(own: usize, workers: usize, secret: [u64; 4]) -> Share {
        let [a, b, c, d] = secret;
        let hasher = RandomState::with_seeds(d, c, b, a);
        // usize is no wider than u64.
        let workers = workers as u64;
        Share((workers > 1).then_some(Part { own, workers, hasher }))
    }

    /// Whether there is nobody else.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.is_none()
    }

    /// Whether another worker has the published ports, and all that is not a connection.
    #[must_use]
    pub fn has_leader(&self) -> bool {
        self.0.as_ref().is_some_and(|part| part.own != Part::FIRST)
    }

    /// Whether the flow is this worker's own.
    #[must_use]
    pub fn is_mine(&self, key: &FlowKey) -> bool {
        self.0.as_ref().is_none_or(|part| part.owner_of(key) == part.own)
    }

    /// Whose the flow is, if it is another's.
    #[must_use]
    pub fn owner(&self, key: &FlowKey) -> Option<usize> {
        let part = self.0.as_ref()?;
        Some(part.owner_of(key)).filter(|owner| *owner != part.own)
    }

    /// Whose a frame of the container is, if it is another's. One that cannot be understood is of whoever got it.
    #[inline]
    #[must_use]
    pub fn owner_of_frame(&self, frame: &[u8]) -> Option<usize> {
        let part = self.0.as_ref()?;
        let owner = match frame::parse(frame).ok()?.body {
            Body::Arp(_) => Part::FIRST,
            Body::Ip(packet) if packet.fragment.is_some() => Part::FIRST,
            Body::Ip(packet) => part.owner_of_packet(&packet),
        };
        Some(owner).filter(|owner| *owner != part.own)
    }

    /// The same of a packet that has come in fragments and is whole now.
    #[must_use]
    pub fn owner_of_packet(&self, packet: &ip::Packet<'_>) -> Option<usize> {
        let part = self.0.as_ref()?;
        Some(part.owner_of_packet(packet)).filter(|owner| *owner != part.own)
    }
}

impl Part {
    const FIRST: usize = 0;

    fn owner_of(&self, key: &FlowKey) -> usize {
        match key.protocol {
            FlowProtocol::Tcp => self.owner_of_connection(key.container, key.remote),
            FlowProtocol::Udp | FlowProtocol::Echo => Self::FIRST,
        }
    }

    fn owner_of_connection(&self, container: SocketAddr, remote: SocketAddr) -> usize {
        // The remainder is below the number of workers.
        (self.hasher.hash_one((container, remote)) % self.workers) as usize
    }

    fn owner_of_packet(&self, packet: &ip::Packet<'_>) -> usize {
        match packet.protocol {
            ip::protocol::TCP => {
                let Some((source, destination)) = ip::ports(packet.payload) else { return Self::FIRST };
                let container = SocketAddr::new(packet.source, source);
                self.owner_of_connection(container, SocketAddr::new(packet.destination, destination))
            }
            ip::protocol::ICMP | ip::protocol::ICMPV6 => {
                let Some(error) = icmp::parse_error(packet.source.is_ipv6(), packet.payload) else {
                    return Self::FIRST;
                };
                let quote = error.quote;
                if quote.protocol != ip::protocol::TCP {
                    return Self::FIRST;
                }
                // It quotes what we have sent.
                let (source, destination) = quote.ports();
                let container = SocketAddr::new(quote.destination, destination);
                self.owner_of_connection(container, SocketAddr::new(quote.source, source))
            }
            _ => Self::FIRST,
        }
    }
}

#[cfg(test)]
mod tests;
