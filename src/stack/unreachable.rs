//! ICMP errors toward the container: that a packet of its own could not be delivered, and why.
//!
//! At most so many a second (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)), and never about what must not be answered:
//! another error, a later fragment, a packet whose source or destination is not one host. The caller does not
//! ask for one about a packet that came by link-layer broadcast; that is not visible here.

use std::net::IpAddr;

use super::boundary::{FrameSink, Instant};
use super::drop_reason::DropReason;
use super::emit::{Emitter, Transport};
use crate::config::Limits;
use crate::wire::icmp::{self, Problem};
use crate::wire::ip::{self, Ethernet, Header, Quote, protocol};

const ERROR_HOP_LIMIT: u8 = 64;
/// RFC 1812 §4.3.2.5: errors of IPv4 travel with precedence 6.
const V4_TRAFFIC_CLASS: u8 = 0xc0;
const V6_REDIRECT: u8 = 137;

/// One error to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// What went wrong.
    pub problem: Problem,
    /// Who says so: the gateway, or the router or host that told the host.
    pub from: IpAddr,
    /// TTL or hop limit that is left of what he gave it, where known.
    pub hop_limit: Option<u8>,
    /// The container's packet, from its IP header on, of which the end may be missing.
    pub offending: &'a [u8],
}

/// Sends errors, as long as there are not too many.
#[derive(Debug)]
pub struct Unreachable {
    bucket: TokenBucket,
}

impl Unreachable {
    /// With a full allowance.
    #[must_use]
    pub fn new(limits: &Limits) -> Unreachable {
        Unreachable { bucket: TokenBucket::new(limits.icmp_errors_per_second) }
    }

    /// Sends the error to the sender of the offending packet.
    ///
    /// # Errors
    /// `ErrorSuppressed` where the RFCs forbid it, `ErrorRateLimit`, `LinkFull`.
    pub fn send<F: FrameSink>(
        &mut self,
        report: &Report<'_>,
        now: Instant,
        ethernet: &Ethernet,
        emitter: &Emitter,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let offending = ip::parse_quote(report.offending).ok_or(DropReason::ErrorSuppressed)?;
        let is_ipv6 = offending.source.is_ipv6();
        if !may_be_answered(&offending, report.problem) || report.from.is_ipv6() != is_ipv6 {
            return Err(DropReason::ErrorSuppressed);
        }
        if !self.bucket.take(now) {
            return Err(DropReason::ErrorRateLimit);
        }
        let header = Header {
            source: report.from,
            destination: offending.source,
            protocol: if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP },
            hop_limit: report.hop_limit.unwrap_or(ERROR_HOP_LIMIT),
            traffic_class: if is_ipv6 { 0 } else { V4_TRAFFIC_CLASS },
            identification: 0,
            dont_fragment: false,
        };
        let len = icmp::error_len(is_ipv6, report.offending);
        let fill = |out: &mut [u8]| {
            icmp::write_error(out, header.source, header.destination, report.problem, report.offending)
        };
        emitter.send(ethernet, &header, Transport::Complete, len, fill, frames)
    }
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4 (e).
fn may_be_answered(offending: &Quote<'_>, problem: Problem) -> bool {
    // But for what is wrong with the fragment itself (RFC 8200 §4.5).
    let is_fragments_own = matches!(problem, Problem::Other { .. }) && offending.source.is_ipv6();
    if (offending.is_later_fragment && !is_fragments_own) || !is_one_host(offending.source) {
        return false;
    }
    let is_too_big = matches!(problem, Problem::PacketTooBig { .. });
    let is_to_group = match offending.destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        // RFC 4443 §2.4 (e.3): path MTU discovery works for groups too.
        IpAddr::V6(v6) => v6.is_multicast() && !is_too_big,
    };
    let is_about_error = match offending.protocol {
        protocol::ICMP => offending.source.is_ipv4() && icmp::is_error(false, offending.transport),
        protocol::ICMPV6 => {
            offending.source.is_ipv6()
                && (icmp::is_error(true, offending.transport)
                    || offending.transport.first() == Some(&V6_REDIRECT))
        }
        _ => false,
    };
    !is_to_group && !is_about_error
}

fn is_one_host(source: IpAddr) -> bool {
    match source {
        // RFC 1122 §3.2.2: not zero, loopback, broadcast, multicast or class E.
        IpAddr::V4(v4) => v4.octets()[0] != 0 && v4.octets()[0] < 224 && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback(),
    }
}

/// So many a second on average, and as many at once.
#[derive(Debug)]
struct TokenBucket {
    per_second: u64,
    /// Millionths of a token.
    filled: u64,
    updated: Option<Instant>,
}

impl TokenBucket {
    const TOKEN: u64 = 1_000_000;

    fn new(per_second: u32) -> TokenBucket {
        let per_second = u64::from(per_second);
        TokenBucket { per_second, filled: per_second * Self::TOKEN, updated: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        let updated = self.updated.unwrap_or(now);
        if now >= updated {
            let gained = (now - updated).total_micros().saturating_mul(self.per_second);
            self.filled = self.filled.saturating_add(gained).min(self.per_second * Self::TOKEN);
            self.updated = Some(now);
        }
        match self.filled.checked_sub(Self::TOKEN) {
            Some(rest) => {
                self.filled = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
