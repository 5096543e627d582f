//! Each reason in a plain sentence, for whoever asks why something does not work.

use super::DropReason;

impl DropReason {
    /// What happened, as the end of "it went no further, because ...".
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            DropReason::Frame(_) => "the frame is malformed",
            DropReason::VnetHeader => "its virtio-net header promises what the frame does not hold",
            DropReason::SpoofedSource => "its source is no address of the container",
            DropReason::NotForUs => "nobody on the container's segment has that address",
            DropReason::UnknownProtocol => {
                "its transport protocol is not carried: there are TCP, UDP and echo"
            }
            DropReason::NoFlow => "it belongs to no connection that exists",
            DropReason::FlowLimit => "the table of flows is full of flows in use",
            DropReason::EndpointsTaken => "another client with the same address and port is still connected",
            DropReason::HalfOpenLimit => "too many connections are being opened at once",
            DropReason::DescriptorLimit => "the process may open no more descriptors",
            DropReason::MemoryLimit => "the memory set aside for buffers is spent",
            DropReason::HostLoopback => {
                "the host's loopback is out of reach; --host-loopback lets the gateway's address stand for it"
            }
            DropReason::Martian => "that address exists on no network",
            DropReason::Multicast => "groups and broadcast stay on the container's segment",
            DropReason::Denied => "that port or protocol is not carried",
            DropReason::BadChecksum => "its checksum is wrong",
            DropReason::BadTransport => "its transport header is malformed",
            DropReason::HopLimit => "its hop limit was used up",
            DropReason::FragmentLimit => "too many fragments wait at once",
            DropReason::FragmentOverlap => "its fragments overlap or contradict each other",
            DropReason::FragmentTimeout => "the rest of its fragments did not come in time",
            DropReason::FragmentInvalid => "a fragment has an impossible size or place",
            DropReason::FragmentDuplicate => "the fragment was here before",
            DropReason::EchoForbidden => {
                "the host does not let this user ping; its sysctl net.ipv4.ping_group_range leaves the user's groups out"
            }
            DropReason::HostQueueFull => "the host's queue is full",
            DropReason::HostRefused => "the host refused to send it",
            DropReason::LinkFull => "the container's interface takes no more frames now",
            DropReason::NoContainerMac => "the container's Ethernet address is not known yet",
            DropReason::MessageTooLong => "it is larger than the link's MTU and may not be fragmented",
            DropReason::ErrorRateLimit => "an ICMP error would have been due, but there were too many",
            DropReason::ErrorSuppressed => "no ICMP error may be sent about it",
            DropReason::IcmpNotForwarded => "of ICMP only echo is carried, and errors about what was sent",
            DropReason::NeighborConflict => "the container claims an address of the gateway's",
            DropReason::NeighborInvalid => "the neighbor discovery message is not valid",
            DropReason::NoResolver => "the host has no resolver to ask",
            DropReason::DnsPendingLimit => "too many queries wait for their answers",
            DropReason::UnsupportedOptions => "it has IPv6 options that may not be ignored",
            DropReason::DhcpInvalid => "the DHCP message is malformed",
            DropReason::DhcpNotServed => "the DHCP message asks for what is not on offer",
            DropReason::DhcpPoolEmpty => "every address that may be leased is",
            DropReason::Fault => "a fault of netferry's own lost it",
            DropReason::NoWayOut => "the network is an internal one, without a way out",
            DropReason::Isolated => "the network keeps its containers apart",
            DropReason::SpoofedMac => "its Ethernet source is not the container's own",
            DropReason::RogueServer => "only the gateway may serve addresses and routes",
            DropReason::FloodLimit => "the container floods its network",
            DropReason::StationLimit => {
                "too many Ethernet or link-local addresses are behind the container's interface"
            }
            DropReason::WorkerBusy => "the worker that its flow belongs to has too much to do",
            DropReason::RateLimit => "it is beyond the rate that limits it",
            DropReason::RuleDenied => {
                "a rule denies it: it was dropped in silence, or reset where a client of a published port was connected already"
            }
            DropReason::RuleRejected => "a rule rejects it: the sender was told so",
            DropReason::HookFailed => "the hook gave no answer about it, or none in time",
            DropReason::HookBusy => "the hook has too many questions to answer",
        }
    }
}
