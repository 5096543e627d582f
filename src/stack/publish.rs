//! Published ports: finding a name for a client's flow.

use std::net::SocketAddr;

use super::flow::{FlowKey, FlowProtocol};
use super::forward::Inbound;
use super::{Flow, Stack};

/// First port tried for a client whose own is taken; below are ports that services listen on.
const FIRST_SUBSTITUTE_PORT: u16 = 1_024;

/// Ports tried before a client is refused.
const PORTS_TRIED: u16 = 256;

impl Stack {
    /// The key of a new flow from a client: its own address and port, unless another flow has them.
    ///
    /// Only a client that appears as the gateway may get another port, because only there two different clients
    /// can look alike. A flow in TIME-WAIT gives way (RFC 6191).
    pub(super) fn free_key(&mut self, protocol: FlowProtocol, inbound: &Inbound) -> Option<FlowKey> {
        let wanted = FlowKey { protocol, container: inbound.server, remote: inbound.client };
        if self.is_free(&wanted) {
            return Some(wanted);
        }
        if !inbound.masked {
            return None;
        }
        let base = inbound.client.port().max(FIRST_SUBSTITUTE_PORT);
        (1..PORTS_TRIED)
            .map(|step| {
                let port = base.checked_add(step).unwrap_or(FIRST_SUBSTITUTE_PORT + step);
                FlowKey { remote: SocketAddr::new(inbound.client.ip(), port), ..wanted }
            })
            .find(|key| self.is_free(key))
    }

    fn is_free(&mut self, key: &FlowKey) -> bool {
        let Some(flow) = self.flows.find(key) else { return true };
        if matches!(self.flows.get(flow), Some(Flow::TimeWait(_))) {
            self.flows.remove(flow);
            return true;
        }
        false
    }
}
