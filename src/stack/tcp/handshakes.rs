//! How many TCP handshakes are under way, in all and toward each published port.
//!
//! The container's own beyond the limit are dropped: a SYN that is not answered comes again, where a RST would say what
//! is not true. Clients of a published port are not accepted at all while there is no room for them: they wait in the
//! host's queue, as at a server that is busy. Each port has a share, so that one whose server hangs does not keep the
//! clients of the others waiting.

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
            inbound: BTreeMap::new(),
        }
    }

    /// Whether there is no room for any.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.total >= self.limit
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.total
    }

    /// Whether there is room for one more client of a published port.
    #[must_use]
    pub fn has_room_for(&self, listener: ListenerId) -> bool {
        !self.is_full() && self.inbound.get(&listener.0).is_none_or(|count| *count < self.limit_per_port)
    }

    /// One has begun.
    pub fn begin(&mut self, handshake: Option<Handshake>) {
        let Some(handshake) = handshake else { return };
        self.total += 1;
        if let Handshake::Inbound(listener) = handshake {
            *self.inbound.entry(listener.0).or_default() += 1;
        }
    }

    /// Counts anew those that are under way.
    pub fn recount(&mut self, handshakes: impl Iterator<Item = Option<Handshake>>) {
        self.total = 0;
        self.inbound.clear();
        handshakes.for_each(|handshake| self.begin(handshake));
    }

    /// One is complete, or given up.
    pub fn end(&mut self, handshake: Option<Handshake>) {
        let Some(handshake) = handshake else { return };
        self.total -= 1;
        if let Handshake::Inbound(ListenerId(place)) = handshake
            && let Some(count) = self.inbound.get_mut(&place)
        {
            *count -= 1;
            if *count == 0 {
                self.inbound.remove(&place);
            }
        }
    }
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
        assert!(!handshakes.has_room_for(hung) && handshakes.has_room_for(other) && !handshakes.is_full());
        handshakes.begin(Some(Handshake::Outbound));
        handshakes.begin(Some(Handshake::Inbound(other)));
        assert!(handshakes.is_full() && !handshakes.has_room_for(other));
        handshakes.end(Some(Handshake::Inbound(hung)));
        assert!(handshakes.has_room_for(hung) && handshakes.has_room_for(other));
    }
}
