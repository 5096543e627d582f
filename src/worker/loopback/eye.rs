//! What a capture is told of what is spliced.
//!
//! Bytes that a pipe carries are seen by nobody, so a connection that somebody wants to see is carried by buffers as long as he
//! looks ([`crate::worker::splice`]). Each of the two sockets is put down as what it is on its own side: ours, with a peer
//! there. The container's side is that of the socket in the container.

use std::net::SocketAddr;

use crate::stack::flow::{FlowKey, FlowProtocol};
use crate::stack::spliced::SplicedId;
use crate::worker::recorder::Choice;
use crate::worker::recorder::host_side::{End, Happening};
use crate::worker::recorder::stage::{Place, Sight, Stage};

/// Where it is put down, and what is wanted.
pub struct Eye {
    /// What was seen in this turn.
    pub stage: Stage,
    /// Of those who watch, each: which flows; all where there is none.
    choices: Vec<Option<Choice>>,
}

impl std::fmt::Debug for Eye {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eye").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Eye {
    /// Sees what `choices` name.
    #[must_use]
    pub fn new(stage: Stage, choices: Vec<Option<Choice>>) -> Eye {
        Eye { stage, choices }
    }

    /// Sees what `choices` name from now on, so many bytes of each packet.
    pub fn choose(&mut self, choices: Vec<Option<Choice>>, most: usize) {
        self.choices = choices;
        self.stage.keep(most);
    }

    /// Whether anybody wants to see it.
    #[must_use]
    pub fn wants(&self, key: &FlowKey) -> bool {
        self.choices.iter().any(|choice| choice.as_ref().is_none_or(|choice| choice(key)))
    }

    /// Puts down what happened to one of the two sockets.
    pub fn see(&mut self, known: &Known, place: Place, happening: Happening, bytes: &[u8]) {
        let sight = |happening| Sight::Spliced { id: known.id, key: known.key, place, happening };
        match happening {
            Happening::Sent(end) => {
                self.stage.put_stream(|| sight(Happening::Sent(end)), bytes);
            }
            other => self.stage.put_whole(sight(other), bytes),
        }
    }
}

/// What a capture calls something that is spliced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub id: SplicedId,
    /// Its ends as the container sees them.
    pub key: FlowKey,
}

impl Known {
    /// By our socket in the container and the container's own.
    #[must_use]
    pub fn new(id: SplicedId, protocol: FlowProtocol, own: SocketAddr, ours: SocketAddr) -> Known {
        Known { id, key: FlowKey { protocol, container: own, remote: ours } }
    }
}

/// How a connection appears that has been there for some time, or begins: its own address, its peer's, and who connects.
#[must_use]
pub fn first_sight(local: SocketAddr, peer: SocketAddr, by: End, is_new: bool) -> Happening {
    if is_new { Happening::Began { local, peer, by } } else { Happening::Met { local, peer } }
}
