//! Exchanges within rates: what waits, and what a turn sends ([`crate::worker::loopback::pacing`]).

use super::{Datagrams, Exchange, Spliced};
use crate::stack::shape::ClassId;
use crate::stack::spliced::{Lane, SplicedId};
use crate::worker::loopback::pacing::{Moved, Pacing};

impl Datagrams {
    /// From now on what comes waits for a turn, or for none.
    pub fn pace(&mut self, is_on: bool) {
        self.pacing.set(is_on);
    }

    /// Whether somebody is to be asked for.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.pacing.asking() > 0
    }

    /// Those that wait for a turn.
    pub fn pacing_mut(&mut self) -> &mut Pacing {
        &mut self.pacing
    }

    /// Datagrams that found no room to wait since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// What an exchange shares a rate with, if it is there; `find` tells it the first time.
    pub fn class(&mut self, id: SplicedId, find: impl FnOnce(&Spliced) -> ClassId) -> Option<ClassId> {
        let exchange = self.exchanges.get_mut(id.slot as usize)?;
        let Exchange { generation, what, pace, .. } = exchange;
        (*generation == id.generation).then(|| pace.class(|| find(what)))
    }

    /// Other rules are in force.
    pub fn forget_classes(&mut self) {
        self.exchanges.iter_mut().for_each(|(_, exchange)| exchange.pace.forget_class());
    }

    /// A turn: sends what waits one way until so many bytes have left.
    pub fn move_within(&mut self, lane: Lane, most: usize) -> Moved {
        let known = self.exchanges.get_mut(lane.id.slot as usize);
        let Some(exchange) = known.filter(|exchange| exchange.generation == lane.id.generation) else {
            return Moved::default();
        };
        let Some(relay) = self.relays.get_mut(&exchange.relay) else { return Moved::default() };
        exchange.pace.begin_turn(lane.heading);
        let is_of_client = relay.way.heading(true) == lane.heading;
        let place = usize::from(!is_of_client);
        let mut bytes = 0;
        while bytes < most
            && let Some(held) = exchange.held[place].pop_front()
        {
            bytes += held.payload.len();
            exchange.send(relay, is_of_client, &held.payload, &held.arrived);
        }
        self.held_bytes -= bytes;
        let has_more = !exchange.held[place].is_empty();
        if has_more {
            exchange.pace.wait(lane.heading);
        }
        Moved { bytes, has_more }
    }

    /// It may have another turn outside of all rates.
    pub fn ask_again(&mut self, lane: Lane) {
        if let Some(exchange) = self.exchanges.get_mut(lane.id.slot as usize)
            && exchange.generation == lane.id.generation
        {
            exchange.pace.begin_turn(lane.heading);
            self.pacing.note(&mut exchange.pace, lane);
        }
    }
}
