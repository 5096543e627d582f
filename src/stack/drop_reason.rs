//! Why a packet went no further.
//!
//! Every early return on the packet path names one of these, and [`super::stats::Stats`] counts them in a flat
//! array: each reason has a dense slot and a name for people and dashboards, and both never change meaning.

mod sentence;

use crate::wire::frame::FrameError;

/// Why a packet, a datagram or a fragment was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The frame was not understood.
    Frame(FrameError),
    /// The virtio-net header was not understood, or promises what the frame does not hold.
    VnetHeader,
    /// The source address is not one of the container's.
    SpoofedSource,
    /// Addressed to nobody we stand for.
    NotForUs,
    /// A transport protocol that is not forwarded.
    UnknownProtocol,
    /// No flow, and nothing that could open one.
    NoFlow,
    /// The flow table is full of flows in use.
    FlowLimit,
    /// Too many handshakes at once.
    HalfOpenLimit,
    /// The process may open no more descriptors.
    DescriptorLimit,
    /// The memory set aside is spent.
    MemoryLimit,
    /// The host's loopback is not to be reached.
    HostLoopback,
    /// A destination that exists on no network (RFC 6890).
    Martian,
    /// A group or broadcast destination.
    Multicast,
    /// Forbidden by a rule.
    Denied,
    /// The transport checksum is wrong.
    BadChecksum,
    /// The transport header was not understood.
    BadTransport,
    /// The hop limit is used up.
    HopLimit,
    /// Too many fragments at once.
    FragmentLimit,
    /// Fragments overlap or contradict each other; the whole datagram is lost.
    FragmentOverlap,
    /// The rest of the fragments did not come in time.
    FragmentTimeout,
    /// A fragment of impossible size or place.
    FragmentInvalid,
    /// A fragment that was here before.
    FragmentDuplicate,
    /// The host does not let us open ping sockets.
    EchoForbidden,
    /// The host's send queue is full.
    HostQueueFull,
    /// The host refused to send it.
    HostRefused,
    /// The link takes no more frames now.
    LinkFull,
    /// The container's link address is not known yet.
    NoContainerMac,
    /// Larger than the link's MTU, and not to be fragmented.
    MessageTooLong,
    /// An ICMP error would have been due, but there were too many.
    ErrorRateLimit,
    /// An ICMP error about this packet is forbidden (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)).
    ErrorSuppressed,
    /// ICMP that is neither echo nor neighbor discovery.
    IcmpNotForwarded,
    /// The container claims one of our addresses.
    NeighborConflict,
    /// Neighbor discovery that RFC 4861 has us discard.
    NeighborInvalid,
    /// No resolver to ask.
    NoResolver,
    /// Too many unanswered DNS queries.
    DnsPendingLimit,
    /// Options that the core does not act upon and may not ignore.
    UnsupportedOptions,
    /// A DHCP or DHCPv6 message that was not understood.
    DhcpInvalid,
    /// A DHCP or DHCPv6 message for another server, or about what is not on offer.
    DhcpNotServed,
    /// Every address that may be leased is.
    DhcpPoolEmpty,
    /// The network has no way out.
    NoWayOut,
    /// Another container of the network, from which this one is kept apart.
    Isolated,
    /// The frame says it is from our link address, or from another container's.
    SpoofedMac,
    /// More Ethernet or link-local addresses behind one container's interface than are remembered.
    StationLimit,
    /// A client of a published port has the address and port of one who is still there.
    EndpointsTaken,
    /// An offer of what only the gateway offers: a router advertisement, a redirect, an answer of a DHCP server.
    RogueServer,
    /// More frames for several containers, or for one that nobody knows, than may be passed on.
    FloodLimit,
    /// A datagram beyond the rate that limits it.
    RateLimit,
    /// The worker that the flow belongs to has as much to do as it may put off.
    WorkerBusy,
    /// A fault of the program's own: what it was working on is lost, and the flow in hand.
    Fault,
    /// Denied by a rule of the policy: dropped in silence.
    RuleDenied,
    /// Rejected by a rule of the policy: the sender was told.
    RuleRejected,
    /// The user's hook gave no answer, or none in time.
    HookFailed,
    /// The user's hook has too many questions to answer.
    HookBusy,
}

impl DropReason {
    /// How many slots there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All reasons by slot; for reasons with details, one of each kind.
    pub const ALL: [DropReason; 62] = [
        DropReason::Frame(FrameError::Truncated),
        DropReason::Frame(FrameError::UnknownEthertype(0)),
        DropReason::Frame(FrameError::Version),
        DropReason::Frame(FrameError::HeaderLength),
        DropReason::Frame(FrameError::TotalLength),
        DropReason::Frame(FrameError::HeaderChecksum),
        DropReason::Frame(FrameError::ExtensionChain),
        DropReason::Frame(FrameError::SourceRoute),
        DropReason::Frame(FrameError::Arp),
        DropReason::Frame(FrameError::SpoofedGroupSource),
        DropReason::VnetHeader,
        DropReason::SpoofedSource,
        DropReason::NotForUs,
        DropReason::UnknownProtocol,
        DropReason::NoFlow,
        DropReason::FlowLimit,
        DropReason::HalfOpenLimit,
        DropReason::DescriptorLimit,
        DropReason::MemoryLimit,
        DropReason::HostLoopback,
        DropReason::Martian,
        DropReason::Multicast,
        DropReason::Denied,
        DropReason::BadChecksum,
        DropReason::BadTransport,
        DropReason::HopLimit,
        DropReason::FragmentLimit,
        DropReason::FragmentOverlap,
        DropReason::FragmentTimeout,
        DropReason::FragmentInvalid,
        DropReason::FragmentDuplicate,
        DropReason::EchoForbidden,
        DropReason::HostQueueFull,
        DropReason::HostRefused,
        DropReason::LinkFull,
        DropReason::NoContainerMac,
        DropReason::MessageTooLong,
        DropReason::ErrorRateLimit,
        DropReason::ErrorSuppressed,
        DropReason::IcmpNotForwarded,
        DropReason::NeighborConflict,
        DropReason::NeighborInvalid,
        DropReason::NoResolver,
        DropReason::DnsPendingLimit,
        DropReason::UnsupportedOptions,
        DropReason::DhcpInvalid,
        DropReason::DhcpNotServed,
        DropReason::DhcpPoolEmpty,
        DropReason::Fault,
        DropReason::NoWayOut,
        DropReason::Isolated,
        DropReason::SpoofedMac,
        DropReason::RogueServer,
        DropReason::FloodLimit,
        DropReason::StationLimit,
        DropReason::RateLimit,
        DropReason::RuleDenied,
        DropReason::RuleRejected,
        DropReason::EndpointsTaken,
        DropReason::WorkerBusy,
        DropReason::HookFailed,
        DropReason::HookBusy,
    ];

    /// The reason's place in an array of [`Self::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.slot().0
    }

    /// The reason's name, in `snake_case`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.slot().1
    }

    const fn slot(self) -> (usize, &'static str) {
        match self {
            DropReason::Frame(error) => frame_slot(error),
            DropReason::VnetHeader => (10, "vnet_header"),
            DropReason::SpoofedSource => (11, "spoofed_source"),
            DropReason::NotForUs => (12, "not_for_us"),
            DropReason::UnknownProtocol => (13, "unknown_protocol"),
            DropReason::NoFlow => (14, "no_flow"),
            DropReason::FlowLimit => (15, "flow_limit"),
            DropReason::HalfOpenLimit => (16, "half_open_limit"),
            DropReason::DescriptorLimit => (17, "descriptor_limit"),
            DropReason::MemoryLimit => (18, "memory_limit"),
            DropReason::HostLoopback => (19, "host_loopback"),
            DropReason::Martian => (20, "martian"),
            DropReason::Multicast => (21, "multicast"),
            DropReason::Denied => (22, "denied"),
            DropReason::BadChecksum => (23, "bad_checksum"),
            DropReason::BadTransport => (24, "bad_transport"),
            DropReason::HopLimit => (25, "hop_limit"),
            DropReason::FragmentLimit => (26, "fragment_limit"),
            DropReason::FragmentOverlap => (27, "fragment_overlap"),
            DropReason::FragmentTimeout => (28, "fragment_timeout"),
            DropReason::FragmentInvalid => (29, "fragment_invalid"),
            DropReason::FragmentDuplicate => (30, "fragment_duplicate"),
            DropReason::EchoForbidden => (31, "echo_forbidden"),
            DropReason::HostQueueFull => (32, "host_queue_full"),
            DropReason::HostRefused => (33, "host_refused"),
            DropReason::LinkFull => (34, "link_full"),
            DropReason::NoContainerMac => (35, "no_container_mac"),
            DropReason::MessageTooLong => (36, "message_too_long"),
            DropReason::ErrorRateLimit => (37, "error_rate_limit"),
            DropReason::ErrorSuppressed => (38, "error_suppressed"),
            DropReason::IcmpNotForwarded => (39, "icmp_not_forwarded"),
            DropReason::NeighborConflict => (40, "neighbor_conflict"),
            DropReason::NeighborInvalid => (41, "neighbor_invalid"),
            DropReason::NoResolver => (42, "no_resolver"),
            DropReason::DnsPendingLimit => (43, "dns_pending_limit"),
            DropReason::UnsupportedOptions => (44, "unsupported_options"),
            DropReason::DhcpInvalid => (45, "dhcp_invalid"),
            DropReason::DhcpNotServed => (46, "dhcp_not_served"),
            DropReason::DhcpPoolEmpty => (47, "dhcp_pool_empty"),
            DropReason::Fault => (48, "fault"),
            DropReason::NoWayOut => (49, "no_way_out"),
            DropReason::Isolated => (50, "isolated"),
            DropReason::SpoofedMac => (51, "spoofed_mac"),
            DropReason::RogueServer => (52, "rogue_server"),
            DropReason::FloodLimit => (53, "flood_limit"),
            DropReason::StationLimit => (54, "station_limit"),
            DropReason::RateLimit => (55, "rate_limit"),
            DropReason::RuleDenied => (56, "rule_denied"),
            DropReason::RuleRejected => (57, "rule_rejected"),
            DropReason::EndpointsTaken => (58, "endpoints_taken"),
            DropReason::WorkerBusy => (59, "worker_busy"),
            DropReason::HookFailed => (60, "hook_failed"),
            DropReason::HookBusy => (61, "hook_busy"),
        }
    }
}

const fn frame_slot(error: FrameError) -> (usize, &'static str) {
    match error {
        FrameError::Truncated => (0, "frame_truncated"),
        FrameError::UnknownEthertype(_) => (1, "frame_unknown_ethertype"),
        FrameError::Version => (2, "frame_version"),
        FrameError::HeaderLength => (3, "frame_header_length"),
        FrameError::TotalLength => (4, "frame_total_length"),
        FrameError::HeaderChecksum => (5, "frame_header_checksum"),
        FrameError::ExtensionChain => (6, "frame_extension_chain"),
        FrameError::SourceRoute => (7, "frame_source_route"),
        FrameError::Arp => (8, "frame_arp"),
        FrameError::SpoofedGroupSource => (9, "frame_spoofed_group_source"),
    }
}

impl From<FrameError> for DropReason {
    fn from(error: FrameError) -> Self {
        DropReason::Frame(error)
    }
}

// `ALL` in the order of the numbers, each number once.
const _: () = {
    let mut index = 0;
    while index < DropReason::COUNT {
        assert!(DropReason::ALL[index].index() == index);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_snake_case() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn details_share_the_slot_of_their_kind() {
        let tagged = DropReason::from(FrameError::UnknownEthertype(0x8100));
        assert_eq!(tagged.index(), DropReason::Frame(FrameError::UnknownEthertype(0)).index());
        assert_eq!(tagged.name(), "frame_unknown_ethertype");
    }
}
