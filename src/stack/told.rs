//! What is counted, and what the driver is told of.

use std::net::SocketAddr;

use super::Stack;
use super::boundary::{FlowId, Instant, StackEvent};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol};

impl Stack {
    pub(super) fn count(&mut self, outcome: Result<(), DropReason>) {
        if let Err(reason) = outcome {
            self.stats.record(reason);
        }
    }

    pub(super) fn tell(&mut self, event: StackEvent) {
        if self.events.len() >= self.config.limits.events {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn tell_opened(&mut self, flow: FlowId, key: FlowKey, target: SocketAddr, now: Instant) {
        self.stats.flow_opened(key.protocol);
        self.begin_counting(flow, key, now);
        self.tell(StackEvent::FlowOpened {
            flow,
            protocol: key.protocol.number(key.container.is_ipv6()),
            container: key.container,
            remote: key.remote,
            target,
        });
    }

    pub(super) fn tell_closed(&mut self, flow: FlowId, protocol: FlowProtocol) {
        self.stats.flow_closed(protocol);
        if self.shaping.is_on() {
            self.shaping.forget(flow);
        }
        self.tell(StackEvent::FlowClosed { flow });
    }

    pub(super) fn tell_no_resolver(&mut self) {
        if !self.no_resolver_told {
            self.no_resolver_told = true;
            self.tell(StackEvent::NoResolver);
        }
    }
}
