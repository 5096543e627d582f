//! How clients of published ports come in: when one may, and whose turn it is.

use tracing::debug;

use super::Worker;
use super::crew::Member;
use crate::stack::boundary::ListenerId;
use crate::stack::drop_reason::DropReason;
use crate::sys::socket::Accepted;

/// Connections accepted before the others get their turn.
const ACCEPTS_PER_TURN: usize = 32;

impl Worker {
    /// The place in the queue of the next port that a connection may be accepted of.
    pub(super) fn next_to_accept(&self) -> Option<usize> {
        let mut ready = self.ready_listeners.iter();
        let may_accept = |listener: &ListenerId| {
            let has_room =
                |member: &Member| member.has_room_for(*listener, self.stack.opening_clients(*listener));
            self.stack.may_accept(*listener) && self.member.as_deref().is_none_or(has_room)
        };
        if self.scarcity.is_waiting() { None } else { ready.position(may_accept) }
    }

    /// Accepts connections until there are none, the others must have their turn, or the host has run out of
    /// descriptors: then not before one is free, and the clients wait in the kernel's queue meanwhile.
    pub(super) fn accept(&mut self) {
        let has_closed = self.has_closed();
        self.forget_closed();
        self.scarcity.relieve(self.now, has_closed);
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(place) = self.next_to_accept() else { return };
            let Some(listener) = self.ready_listeners.remove(place) else { return };
            match self.sockets.accept(listener) {
                Accepted::Connection(socket, client, local) => {
                    self.ready_listeners.push_back(listener);
                    let Some(socket) = self.past_the_link(listener, socket, client, local) else { continue };
                    let Some(socket) = self.hand_client_over(listener, socket, (client, local)) else {
                        continue;
                    };
                    match self.stack.accept_stream(listener, client, local, self.now) {
                        Ok(flow) => {
                            if let Some(event) = self.sockets.adopt(flow, socket) {
                                self.tell_stack(event);
                            }
                        }
                        Err(reason) => {
                            debug!(%client, %local, ?reason, "connection to a published port refused");
                            socket.reset();
                        }
                    }
                }
                Accepted::Blocked => {}
                Accepted::Exhausted => {
                    self.ready_listeners.push_front(listener);
                    self.scarcity.begin(self.now);
                    if let Some(member) = &self.member {
                        member.note_scarcity();
                    }
                }
            }
        }
    }

    /// Tells the user of flows that found no room in the table.
    pub(super) fn tell_of_refused_flows(&mut self) {
        let refused = self.stack.stats().drops(DropReason::FlowLimit);
        if refused > self.flows_refused {
            self.flows_refused = refused;
            let flows = self.config.limits.flows * self.crew_size();
            self.scarcity.tell_full(flows, self.now);
        }
    }

    /// Whether a socket of ours has been closed since the last turn.
    pub(super) fn has_closed(&self) -> bool {
        self.sockets.has_closed() || self.loopback.as_ref().is_some_and(|loopback| loopback.has_closed())
    }

    fn forget_closed(&mut self) {
        self.sockets.take_closed();
        if let Some(loopback) = &mut self.loopback {
            loopback.forget_closed();
        }
    }
}
