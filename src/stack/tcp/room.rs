//! Room in memory for one more flow, where all of it is taken.
//!
//! Flows whose bytes nobody takes hold what they have for as long as they live: a container that never opens its windows would
//! keep everybody's new connections away with a few hundred of its own. So there is room for a newcomer if one of those that have
//! been silent longest, as for a full table, can be given up; of these the one that holds most. A closed window is probed ever more rarely
//! (RFC 9293 §3.8.6.1), so that such a flow is silent soon enough, while one that rests with empty buffers is passed over.

use super::super::boundary::{FrameSink, HostIo, Instant, Io};
use super::super::drop_reason::DropReason;
use super::super::flow::FlowProtocol;
use super::super::{Flow, Stack};
use crate::config::limits::EVICTION_LOOKS;

impl Stack {
    /// Bytes of each buffer of a new flow of the container.
    pub(super) fn buffer_for_newcomer<H: HostIo, F: FrameSink>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<usize, DropReason> {
        if let Some(bytes) = self.memory.buffer_for_one_more() {
            return Ok(bytes);
        }
        let idle = self.config.limits.evict_idle.into();
        let (mut most, mut chosen) = (0, None);
        for (flow, body) in self.flows.silent_longest(FlowProtocol::Tcp, now, idle).take(EVICTION_LOOKS) {
            let Flow::Tcp(tcp) = body else { continue };
            let waiting = tcp.endpoint.unacknowledged_bytes() + tcp.endpoint.received_bytes();
            if waiting > 0 && tcp.charged_bytes > most {
                (most, chosen) = (tcp.charged_bytes, Some(flow));
            }
        }
        let chosen = chosen.ok_or(DropReason::MemoryLimit)?;
        self.stats.flow_evicted(FlowProtocol::Tcp);
        self.abort_tcp(chosen, now, io);
        self.memory.buffer_for_one_more().ok_or(DropReason::MemoryLimit)
    }
}
