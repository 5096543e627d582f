//! ICMP and ICMPv6 errors toward the container, within a rate.
//!
//! An error is never sent about an error, about a fragment other than the first, or about what was sent from or
//! to a group (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)). The rate is a token bucket (RFC 1812 §4.3.2.8): a container
//! that provokes errors gets one second's worth at once and then no more than the rate.

use std::net::IpAddr;

use super::boundary::{FrameSink, Instant};
use super::drop_reason::DropReason;
use super::emit::Emitter;
use crate::config::Limits;
use crate::wire::icmp::{self, Problem};
use crate::wire::ip::{self, Ethernet, Header};

/// Sends errors.
#[derive(Debug)]
pub struct Unreachable {
    per_second: u64,
    /// Errors that may be sent now, in millionths.
    tokens: u64,
    filled: Instant,
}

impl Unreachable {
    /// A full bucket.
    #[must_use]
    pub fn new(limits: &Limits, now: Instant) -> Self {
        let per_second = u64::from(limits.icmp_errors_per_second);
        Unreachable { per_second, tokens: per_second * 1_000_000, filled: now }
    }

    /// Tells the sender of the IP packet `offending` what was wrong with it, as `from`.
    ///
    /// # Errors
    /// Why it was not told.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    pub fn send(
        &mut self,
        problem: Problem,
        from: IpAddr,
        offending: &[u8],
        now: Instant,
        ethernet: &Ethernet,
        emitter: &mut Emitter,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        let packet = ip::parse(offending).map_err(DropReason::Frame)?;
        if !may_be_answered(&packet) {
            return Err(DropReason::ErrorNotAllowed);
        }
        self.take_token(now)?;
        let is_ipv6 = packet.source.is_ipv6();
        let header = Header {
            source: from,
            destination: packet.source,
            protocol: if is_ipv6 { ip::protocol::ICMPV6 } else { ip::protocol::ICMP },
            hop_limit: 64,
            // RFC 1812 §4.3.2.5: errors carry internetwork control precedence.
            traffic_class: if is_ipv6 { 0 } else { 0xc0 },
            identification: 0,
            dont_fragment: false,
        };
        emitter.send(frames, ethernet, &header, icmp::error_len(is_ipv6, offending), |message| {
            icmp::write_error(message, header.source, header.destination, problem, offending);
        })
    }

    fn take_token(&mut self, now: Instant) -> Result<(), DropReason> {
        let elapsed = (now - self.filled).total_micros().min(1_000_000);
        self.filled = now;
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.per_second * 1_000_000);
        self.tokens = self.tokens.checked_sub(1_000_000).ok_or(DropReason::ErrorRateLimit)?;
        Ok(())
    }
}

fn may_be_answered(packet: &ip::Packet<'_>) -> bool {
    let is_ipv6 = packet.source.is_ipv6();
    let is_icmp = packet.protocol == if is_ipv6 { ip::protocol::ICMPV6 } else { ip::protocol::ICMP };
    let is_group = packet.destination.is_multicast()
        || packet.source.is_multicast()
        || packet.source.is_unspecified()
        || matches!(packet.destination, IpAddr::V4(v4) if v4.is_broadcast());
    let is_later_fragment = packet.fragment.is_some_and(|fragment| fragment.offset > 0);
    !is_group && !is_later_fragment && !(is_icmp && icmp::is_error(is_ipv6, packet.payload))
}
