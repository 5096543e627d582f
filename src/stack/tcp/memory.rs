//! The memory that the buffers of all TCP flows share.
//!
//! A flow is charged for what its buffers hold, not for what its windows promise: an idle flow holds nothing, and most
//! of what is sent never rests here. Each buffer may always hold a least amount, which is set aside when the flow
//! begins, so that every flow gets on; beyond that it grows while there is some left. A part of the total is for the
//! least amounts alone: flows that let their buffers fill and take nothing out would otherwise keep new ones away. What a flow sends into a window
//! that memory then does not hold is lost as on a crowded link, and is sent again.

use super::relay::TcpFlow;
use crate::config::Limits;

/// A new flow may buffer this share of what is left, in each direction.
const SHARE: usize = 8;

/// The total divided by this is kept for flows that are yet to begin.
const KEPT_FOR_NEW: usize = 8;

/// What is charged, and up to how much.
#[derive(Debug)]
pub struct Memory {
    total: usize,
    least: usize,
    most: usize,
    charged: usize,
}

impl Memory {
    /// Nothing is charged yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Memory {
        Memory {
            total: limits.tcp_buffer_total_bytes,
            least: limits.tcp_buffer_min_bytes,
            most: limits.tcp_buffer_max_bytes,
            charged: 0,
        }
    }

    /// Bytes that are charged; never more than the total.
    #[must_use]
    pub fn charged(&self) -> usize {
        self.charged
    }

    fn left(&self) -> usize {
        self.total - self.charged
    }

    /// What is left to those that want more than their least.
    fn left_to_grow(&self) -> usize {
        self.left().saturating_sub(self.total / KEPT_FOR_NEW)
    }

    /// Bytes of each buffer of a new flow; none if its least cannot be set aside.
    #[must_use]
    pub fn buffer_for_one_more(&self) -> Option<usize> {
        let left = self.left();
        (2 * self.least <= left).then(|| (self.left_to_grow() / SHARE).clamp(self.least, self.most))
    }

    /// Lets the buffers of a flow grow by what is left: to be called before anything that may grow one of them.
    #[inline]
    pub fn limit(&self, flow: &mut TcpFlow) {
        flow.endpoint.limit_memory(self.left_to_grow(), self.least);
    }

    /// Takes note of what the buffers of a flow hold now.
    #[inline]
    pub fn charge(&mut self, flow: &mut TcpFlow) {
        let held = flow.endpoint.memory().into_iter().map(|bytes| bytes.max(self.least)).sum();
        self.charged = self.charged - flow.charged_bytes + held;
        flow.charged_bytes = held;
    }

    /// Sets what is charged to the sum over all flows, where one of them went without [`Self::release`].
    pub fn recount(&mut self, charged: usize) {
        self.charged = charged;
    }

    /// A flow is gone.
    pub fn release(&mut self, flow: &TcpFlow) {
        self.charged -= flow.charged_bytes;
    }
}
