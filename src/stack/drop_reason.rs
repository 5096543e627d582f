//! Why something was not carried: one name for each early return of the packet path.
//!
//! A reason is counted, never fatal: the rest of the batch goes on. The names are what a user sees in counters.

use crate::wire::frame::FrameError;

/// Why a packet, a datagram or a connection went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The frame or its IP header is malformed.
    Frame(FrameError),
    /// The virtio-net header is not of the negotiated kind.
    VnetHeader,
    /// The source is not an address of the container.
    SpoofedSource,
    /// Nobody on the segment has that address.
    NotForUs,
    /// A transport we do not carry.
    UnknownProtocol,
    /// Options or extension headers we do not carry.
    UnsupportedOptions,
    /// It belongs to no flow and cannot begin one.
    NoFlow,
    /// All flows are in use and none is idle.
    FlowLimit,
    /// Too many handshakes are under way.
    HalfOpenLimit,
    /// The process has no descriptor left.
    DescriptorLimit,
    /// The buffers are all granted.
    MemoryLimit,
    /// The host's loopback is not to be reached.
    HostLoopback,
    /// The destination is no place in the world.
    Martian,
    /// Multicast and broadcast stay on the segment.
    Multicast,
    /// Forbidden by a rule.
    Denied,
    /// The transport checksum is wrong.
    BadChecksum,
    /// The transport header is malformed.
    BadTransport,
    /// The hop limit has run out.
    HopLimit,
    /// Too many or too large fragments wait.
    FragmentLimit,
    /// Fragments overlap (RFC 5722).
    FragmentOverlap,
    /// The rest of the fragments did not come.
    FragmentTimeout,
    /// The host does not let this user ping.
    EchoForbidden,
    /// The host's socket takes no more now.
    HostQueueFull,
    /// The host refused to send it.
    HostRefused,
    /// The link takes no more now.
    LinkFull,
    /// The container's link address is not known yet.
    NoContainerMac,
    /// Too many errors have been sent this second.
    ErrorRateLimit,
    /// An error about this is never sent (RFC 1122 §3.2.2).
    ErrorNotAllowed,
    /// An ICMP message that is not carried.
    IcmpNotForwarded,
    /// The host has no resolver.
    NoResolver,
    /// Somebody claims an address of ours.
    AddressConflict,
}

impl DropReason {
    /// How many there are, the causes of [`DropReason::Frame`] taken together.
    pub const COUNT: usize = 31;

    /// A dense number below [`DropReason::COUNT`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            DropReason::Frame(_) => 0,
            DropReason::VnetHeader => 1,
            DropReason::SpoofedSource => 2,
            DropReason::NotForUs => 3,
            DropReason::UnknownProtocol => 4,
            DropReason::UnsupportedOptions => 5,
            DropReason::NoFlow => 6,
            DropReason::FlowLimit => 7,
            DropReason::HalfOpenLimit => 8,
            DropReason::DescriptorLimit => 9,
            DropReason::MemoryLimit => 10,
            DropReason::HostLoopback => 11,
            DropReason::Martian => 12,
            DropReason::Multicast => 13,
            DropReason::Denied => 14,
            DropReason::BadChecksum => 15,
            DropReason::BadTransport => 16,
            DropReason::HopLimit => 17,
            DropReason::FragmentLimit => 18,
            DropReason::FragmentOverlap => 19,
            DropReason::FragmentTimeout => 20,
            DropReason::EchoForbidden => 21,
            DropReason::HostQueueFull => 22,
            DropReason::HostRefused => 23,
            DropReason::LinkFull => 24,
            DropReason::NoContainerMac => 25,
            DropReason::ErrorRateLimit => 26,
            DropReason::ErrorNotAllowed => 27,
            DropReason::IcmpNotForwarded => 28,
            DropReason::NoResolver => 29,
            DropReason::AddressConflict => 30,
        }
    }

    /// The names of all reasons, by [`DropReason::index`].
    pub const NAMES: [&'static str; Self::COUNT] = [
        "malformed_frame",
        "vnet_header",
        "spoofed_source",
        "not_for_us",
        "unknown_protocol",
        "unsupported_options",
        "no_flow",
        "flow_limit",
        "half_open_limit",
        "descriptor_limit",
        "memory_limit",
        "host_loopback",
        "martian",
        "multicast",
        "denied",
        "bad_checksum",
        "bad_transport",
        "hop_limit",
        "fragment_limit",
        "fragment_overlap",
        "fragment_timeout",
        "echo_forbidden",
        "host_queue_full",
        "host_refused",
        "link_full",
        "no_container_mac",
        "error_rate_limit",
        "error_not_allowed",
        "icmp_not_forwarded",
        "no_resolver",
        "address_conflict",
    ];

    /// The reason's name in counters and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let mut names = DropReason::NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        assert_eq!(DropReason::AddressConflict.index(), DropReason::COUNT - 1);
        assert_eq!(DropReason::HostLoopback.name(), "host_loopback");
        assert_eq!(DropReason::HopLimit.name(), "hop_limit");
    }
}
