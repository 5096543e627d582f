//! How many TCP handshakes are under way, in all and toward each published port.
//!
//! Neither side may have more than three quarters: connects of the container that hang do not keep the clients of published
//! ports waiting, nor the other way round. The container's own beyond that are dropped: a SYN that is not answered comes
//! again, where a RST would say what is not true; when most places are taken, only those that come again are let in
//! ([`super::newcomers`]). Clients of a published port are not accepted at all while there is no room for them: they wait in the
//! host's queue, as at a server that is busy. Each port has a share, and no more than is left to the others, so that one
//! whose server hangs does not keep the clients of the others waiting.

use std::collections::BTreeMap;

use crate::config::Limits;
use crate::stack::boundary::ListenerId;

/// A handshake that is not complete on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The container's.
    Outbound,
    /// One of a client of a published port.
    Inbound(ListenerId),
}

/// All handshakes of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshakes {
    limit: usize,
    limit_per_port: usize,
    total: usize,
    inbound_total: usize,
    /// Of each published port that has some.
    inbound: BTreeMap<u32, usize>,
}

impl Handshakes {
    /// None yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Handshakes {
        Handshakes {
            limit: limits.half_open,
            limit_per_port: limits.opening_per_port,
            total: 0,
            inbound_total: 0,
            inbound: BTreeMap::new(),
        }
    }

    /// Whether there is room for one more of the container's.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.total < self.limit && self.outbound() < most_of_one_side(self.limit)
    }

    /// Whether most of what the container may have is taken.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        let most = most_of_one_side(self.limit);
        self.outbound() >= most - most / 4 || self.total >= self.limit
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.total
    }

    /// Whether there is room for one more client of a published port.
    #[must_use]
    pub fn has_room_for(&self, listener: ListenerId) -> bool {
        let of_port = self.inbound.get(&listener.0).copied().unwrap_or(0);
        self.total < self.limit
            && self.inbound_total < most_of_one_side(self.limit)
            && of_port < self.limit_per_port
            && of_port <= self.limit - self.total
    }

    fn outbound(&self) -> usize {
        self.total - self.inbound_total
    }

    /// Those of clients of one published port.
    #[must_use]
    pub fn of_port(&self, listener: ListenerId) -> usize {
        self.inbound.get(&listener.0).copied().unwrap_or(0)
    }

    /// One has begun.
    pub fn begin(&mut self, handshake: Option<Handshake>) {
        let Some(handshake) = handshake else { return };
        self.total += 1;
        if let Handshake::Inbound(listener) = handshake {
            self.inbound_total += 1;
            *self.inbound.entry(listener.0).or_default() += 1;
        }
    }

    /// Counts anew those that are under way.
    pub fn recount(&mut self, handshakes: impl Iterator<Item = Option<Handshake>>) {
        (self.total, self.inbound_total) = (0, 0);
        self.inbound.clear();
        handshakes.for_each(|handshake| self.begin(handshake));
    }

    /// One is complete, or given up.
    pub fn end(&mut self, handshake: Option<Handshake>) {
        let Some(handshake) = handshake else { return };
        self.total -= 1;
        let Handshake::Inbound(ListenerId(place)) = handshake else { return };
        self.inbound_total -= 1;
        if let Some(count) = self.inbound.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.inbound.remove(&place);
            }
        }
    }
}

/// Of the places, how many the container's connects may have, and how many the clients of published ports.
fn most_of_one_side(limit: usize) -> usize {
    limit - limit / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_its_share_and_no_more() {
        let limits = Limits { half_open: 4, opening_per_port: 2, ..Limits::default() };
        let mut handshakes = Handshakes::new(&limits);
        let (hung, other) = (ListenerId(1), ListenerId(2));
        for _ in 0..2 {
            assert!(handshakes.has_room_for(hung));
            handshakes.begin(Some(Handshake::Inbound(hung)));
        }
        assert!(!handshakes.has_room_for(hung) && handshakes.has_room_for(other) && handshakes.has_room());
        handshakes.begin(Some(Handshake::Outbound));
        handshakes.begin(Some(Handshake::Inbound(other)));
        assert!(!handshakes.has_room() && !handshakes.has_room_for(other));
        handshakes.end(Some(Handshake::Inbound(hung)));
        assert!(handshakes.has_room_for(hung) && handshakes.has_room_for(other));
    }

    #[test]
    fn neither_side_takes_all_places_of_the_other() {
        let limits = Limits { half_open: 100, opening_per_port: 25, ..Limits::default() };
        let mut handshakes = Handshakes::new(&limits);
        let mut begun = 0;
        while handshakes.has_room() {
            handshakes.begin(Some(Handshake::Outbound));
            begun += 1;
        }
        assert_eq!(begun, 75);
        // And of what is left a port takes half, the next one half of the rest.
        let mut taken = [0; 3];
        for (port, taken) in (0..).zip(&mut taken) {
            while handshakes.has_room_for(ListenerId(port)) {
                handshakes.begin(Some(Handshake::Inbound(ListenerId(port))));
                *taken += 1;
            }
        }
        assert_eq!(taken, [13, 7, 3]);
        let mut handshakes = Handshakes::new(&limits);
        for port in 0..50 {
            while handshakes.has_room_for(ListenerId(port)) {
                handshakes.begin(Some(Handshake::Inbound(ListenerId(port))));
            }
        }
        assert_eq!((handshakes.inbound_total, handshakes.has_room()), (75, true));
    }

    #[test]
    fn places_are_scarce_when_a_quarter_of_what_the_container_may_have_is_left() {
        let limits = Limits { half_open: 100, ..Limits::default() };
        let mut handshakes = Handshakes::new(&limits);
        (0..56).for_each(|_| handshakes.begin(Some(Handshake::Outbound)));
        assert!(!handshakes.is_scarce());
        handshakes.begin(Some(Handshake::Outbound));
        assert!(handshakes.is_scarce() && handshakes.has_room());
    }
}
