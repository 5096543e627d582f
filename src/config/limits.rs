//! Every bound of the process, in one place.
//!
//! A bound is reached by a test, and reaching it is a state, never an error: the least recently used idle flow
//! gives way first, and what still does not fit is refused and counted.

use std::time::Duration;

/// Descriptors kept back for listeners, the TAP, signals and the like.
pub const RESERVED_DESCRIPTORS: u64 = 64;

/// Resolvers that are asked in turn; glibc has 3.
pub const MAX_RESOLVERS: usize = 8;

/// Bytes of one request on the API socket; slirp4netns takes less than 4096.
pub const API_REQUEST_BYTES: usize = 4_095;

/// Bytes that a client of the API socket may send behind its request before it is cut off.
pub const API_SURPLUS_BYTES: usize = 1 << 20;

/// Questions whether the container is still there that it may leave unanswered; as many as Linux asks (tcp(7)).
pub const KEEPALIVE_PROBES: u8 = 9;

/// Questions a second about published ports that nobody listens on in the container, all ports together.
pub const PORT_QUESTIONS_PER_SECOND: u32 = 1_000;

/// Questions about a published port that may be left unanswered before it is taken for one that somebody listens on.
pub const PORT_QUESTIONS_UNANSWERED: u8 = 10;

/// What waits in a worker's mailbox, and as much again that it has taken out and not come to yet. What may be lost finds the
/// box full at half of it.
pub const MAILBOX: MailboxLimits = MailboxLimits { letters: 16_384, bytes: 8 << 20 };

/// Workers of one interface: more queues than that would gain nothing.
pub const MAX_WORKERS: usize = 16;

/// Servers that have refused a client and that one worker has yet to tell another of.
pub const SUSPECTS: usize = 64;

/// Letters that a worker opens before the others have their turn.
pub const LETTERS_PER_TURN: usize = 64;

/// Rules of a policy, those of its presets among them.
pub const RULES: usize = 1_024;

/// Peers that the rules of a policy name, all together.
pub const RULE_PEERS: usize = 8_192;

/// Names of addresses that the container was told, all together.
pub const LEARNT_NAMES: usize = 16_384;

/// Names of one address that are kept.
pub const NAMES_PER_ADDRESS: usize = 16;

/// The least time for which an address is known by the name that it was found by, whatever the answer says: programs keep
/// what they have resolved for a while, and the shortest times are below a second.
pub const NAME_LEAST_TTL: Duration = Duration::from_secs(30);

/// The longest such time.
pub const NAME_LONGEST_TTL: Duration = Duration::from_secs(24 * 3_600);

/// Questions that the user's hook has yet to answer; what begins then is dropped, or waits with the host. Three quarters of
/// them at most are about what the container begins.
pub const HOOK_QUESTIONS: usize = 1_024;

/// Datagrams of one client or exchange that wait for the hook's answer.
pub const HOOK_DATAGRAMS: usize = 16;

/// Answers of the hook that are remembered for as long as it has said; what there is no room for is asked again.
pub const HOOK_ANSWERS: usize = 4_096;

/// The longest time for which an answer is remembered, whatever it says.
pub const HOOK_LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Names of the peer that a question to the hook tells.
pub const HOOK_NAMES: usize = 8;

/// Bytes of one answer of the hook's: one that writes longer lines is not understood any more.
pub const HOOK_ANSWER_BYTES: usize = 4 << 10;

/// Bytes of questions that wait for the hook to read them; one beyond that has no answer.
pub const HOOK_OUTGOING_BYTES: usize = 1 << 20;

/// Bytes of answers that are read before the others have their turn.
pub const HOOK_BYTES_PER_TURN: usize = 64 << 10;

/// Questions of all containers of a network that their hook has yet to answer; of more the oldest gets no answer.
pub const HOOK_NETWORK_QUESTIONS: usize = 16_384;

/// Destinations that an audit tells apart.
pub const AUDIT_DESTINATIONS: usize = 8_192;

/// Destinations that wait to be written down.
pub const AUDIT_OUTBOX: usize = 1_024;

/// Failures that are remembered for whoever asks what went wrong.
pub const RECENT_FAILURES: usize = 256;

/// Failures that are written down in a second.
pub const RECENT_FAILURES_PER_SECOND: u32 = 200;

/// Bytes of a file of rules; it has to fit into a request on the control socket.
pub const RULES_FILE_BYTES: usize = 128 << 10;

/// Clients of the API socket at a time; the one that came first gives way to another.
pub const API_CONNECTIONS: usize = 16;

/// Bytes of one request on the control socket; a policy comes in one.
pub const CONTROL_REQUEST_BYTES: usize = 256 << 10;

/// Clients of the control socket at a time; the one that came first gives way to another.
pub const CONTROL_CONNECTIONS: usize = 32;

/// Bytes of a stream that wait for a client of the control socket to read them; what comes then is lost, and counted.
pub const CONTROL_STREAM_BYTES: usize = 256 << 10;

/// Bytes of a request for the metrics.
pub const METRICS_REQUEST_BYTES: usize = 8 << 10;

/// Clients of the metrics at a time; the one that came first gives way to another.
pub const METRICS_CONNECTIONS: usize = 8;

/// How long a client of the API socket may take.
pub const API_PATIENCE: Duration = Duration::from_secs(10);

/// Captures at a time.
pub const CAPTURE_OBSERVERS: usize = 8;

/// Bytes of a capture that wait for its reader; packets beyond that are lost to it.
pub const CAPTURE_BUFFER_BYTES: usize = 8 << 20;

/// Bytes that all captures of a worker may have copied in a microsecond: more than one Gbit/s of a transfer is captured whole, though
/// each of its bytes is in a capture twice. Packets beyond that are lost to them.
pub const CAPTURE_BYTES_PER_MICROSECOND: i64 = 300;

/// What they may save up of that.
pub const CAPTURE_BURST_BYTES: i64 = 64 << 20;

/// Bytes that one turn may have for captures.
pub const CAPTURE_TURN_BYTES: usize = 16 << 20;

/// Flows that have ended whose last packets a capture still knows by name.
pub const CAPTURE_ENDED_FLOWS: usize = 4_096;

/// Flows that are looked at for one to be given up where there is no memory for another.
pub const EVICTION_LOOKS: usize = 64;

/// Handshakes of the container that come to nothing, a second, which never keep others waiting.
pub const FRUITLESS_PER_SECOND: u32 = 1_000;

/// After this long an unfinished handshake of the container gives way to another, where there is no room for both: by then its
/// SYN has come again once, and if it is still wanted it will again.
pub const HANDSHAKE_GIVES_WAY: Duration = Duration::from_secs(3);

/// The least time between two answers of one connection to segments that only claim to belong to it (RFC 5961 §7); Linux
/// has the same.
pub const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// Frames that wait in the container's kernel for us to read them; more are lost. The kernel's own thousand is less than a
/// burst of ten thousand connects, which then took five seconds of retransmissions in place of one.
pub const LINK_QUEUE_FRAMES: u32 = 8_192;

/// Bytes of the longest query over TCP to a network's resolver; a question is 271 at most, and what follows it is short.
pub const DNS_QUERY_BYTES: usize = 4_096;

/// Bytes of an answer over TCP that names are learnt from; what is behind them is not looked at.
pub const DNS_OVERHEARD_BYTES: usize = 4 << 10;

/// Queries of one connection whose answers names are learnt from; the oldest is forgotten first.
pub const DNS_OVERHEARD_QUERIES: usize = 16;

/// Containers on one network.
pub const NETWORK_MEMBERS: usize = 512;

/// Names of a container beside its own.
pub const ALIASES_PER_MEMBER: usize = 16;

/// Largest frame on the link, Ethernet header included: a 64 KiB super-segment.
pub const MAX_FRAME_BYTES: usize = 14 + 65_535;

/// Most room for a frame that is asked for, before it is known what fills it: the largest UDP datagram of IPv6, which will
/// leave in fragments, with its headers in front.
pub const MAX_ROOM_BYTES: usize = 14 + 40 + 65_535;

/// What one container of a network may hold beside what it was given: Ethernet addresses of what it bridges itself, and
/// link-local addresses.
pub const LEARNED_PER_PORT: usize = 8;

/// How long that is remembered without being heard of (IEEE 802.1D has the same).
pub const LEARNED_AGE: Duration = Duration::from_secs(300);

/// Frames for several that one container of a network may send a second, each of which is copied to all others.
pub const FLOODS_PER_SECOND: u64 = 200;

/// How many of them it may send at once.
pub const FLOOD_BURST: u64 = 400;

/// Upper bounds of everything that grows with what the container or the world sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows of all kinds; each holds at most one host socket.
    pub flows: usize,
    /// TCP flows whose handshake is not complete on both sides; three quarters of them at most are the container's, and as
    /// many those of clients of published ports.
    pub half_open: usize,
    /// What is taken to remember SYNs that were not let in, twice: a Bloom filter of a period and of the one before.
    pub newcomer_memory_bytes: usize,
    /// Clients of one published TCP port whom the container has not accepted; the next ones wait in the host's queue, so
    /// that a server that hangs has no more of [`Limits::half_open`] than this.
    pub opening_per_port: usize,
    /// Bytes that the TCP buffers of all flows hold together.
    pub tcp_buffer_total_bytes: usize,
    /// Largest buffer of one TCP flow in one direction; grows to it as it is needed.
    pub tcp_buffer_max_bytes: usize,
    /// What a buffer of a TCP flow may hold in any case; set aside for each when the flow begins.
    pub tcp_buffer_min_bytes: usize,
    /// A flow may be given up for a new one after this long without a packet.
    pub evict_idle: Duration,
    /// Datagrams of one flow that wait for its host socket.
    pub datagrams_pending_per_flow: usize,
    /// Peers of one UDP endpoint of the container that see it at the same port of the host; others see it at ports of their own.
    /// Older kernels look through all of them for each datagram.
    pub peers_per_mapping: usize,
    /// Queries of one DNS client endpoint that wait for an answer.
    pub dns_pending_per_flow: usize,
    /// Addresses leased over DHCP, whatever the pool.
    pub dhcp_leases: usize,
    /// ICMP errors a second toward the container (RFC 1812 §4.3.2.8).
    pub icmp_errors_per_second: u32,
    /// Published ports, each with a listening socket; a range counts each of its ports, in each family.
    pub published_ports: usize,
    /// Fragments that wait for the rest of their datagram.
    pub reassembly: ReassemblyLimits,
    /// What goes from loopback to loopback.
    pub splice: SpliceLimits,
    /// What is on its way where the link is impaired.
    pub impair: ImpairLimits,
    /// Datagrams of one flow that wait for its turn where the rate is limited.
    pub shaped_datagrams_per_flow: usize,
    /// Bytes of the datagrams of all flows that do.
    pub shaped_total_bytes: usize,
    /// Events waiting for the driver; older ones are forgotten first.
    pub events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            flows: 131_072,
            half_open: 4_096,
            newcomer_memory_bytes: 1 << 20,
            opening_per_port: 1_024,
            tcp_buffer_total_bytes: 512 << 20,
            tcp_buffer_max_bytes: 1 << 20,
            tcp_buffer_min_bytes: 2 << 10,
            evict_idle: Duration::from_secs(10),
            datagrams_pending_per_flow: 16,
            peers_per_mapping: 256,
            dns_pending_per_flow: 4,
            dhcp_leases: 256,
            icmp_errors_per_second: 1_000,
            published_ports: 4_096,
            reassembly: ReassemblyLimits::default(),
            splice: SpliceLimits::default(),
            impair: ImpairLimits::default(),
            shaped_datagrams_per_flow: 64,
            shaped_total_bytes: 8 << 20,
            events: 1_024,
        }
    }
}

impl Limits {
    /// Bounds the flows by what the process may open (`RLIMIT_NOFILE`, soft limit).
    #[must_use]
    pub fn within_descriptors(mut self, descriptors: u64) -> Self {
        let available = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1);
        self.flows = self.flows.min(usize::try_from(available).unwrap_or(usize::MAX));
        self.half_open = self.half_open.min(self.flows.div_ceil(2));
        self.opening_per_port = self.opening_per_port.min(self.half_open.div_ceil(4));
        self
    }

    /// Bounds what is held by the memory there is, the machine's or the control group's: a quarter each for flows and
    /// for the buffers of TCP, an eighth for what is spliced. The rest is for the kernel's queues and ourselves. From 4 GiB on
    /// nothing changes.
    #[must_use]
    pub fn within_memory(mut self, bytes: u64) -> Self {
        let share = |part: u64| usize::try_from(bytes / part).unwrap_or(usize::MAX);
        let flows = usize::try_from(bytes / 4 / BYTES_PER_FLOW).unwrap_or(usize::MAX);
        self.flows = self.flows.min(flows.max(64));
        self.half_open = self.half_open.min(self.flows.div_ceil(2));
        self.opening_per_port = self.opening_per_port.min(self.half_open.div_ceil(4));
        self.newcomer_memory_bytes = self.newcomer_memory_bytes.min(share(64));
        self.tcp_buffer_total_bytes = self.tcp_buffer_total_bytes.min(share(4).max(1 << 20));
        self.tcp_buffer_max_bytes = self.tcp_buffer_max_bytes.min(self.tcp_buffer_total_bytes / 16);
        let pipes = share(16) / self.splice.pipe_bytes;
        self.splice.pipes = self.splice.pipes.min(pipes.max(2));
        self.splice.idle_pipes = self.splice.idle_pipes.min(self.splice.pipes);
        self.splice.buffer_total_bytes = self.splice.buffer_total_bytes.min(share(16));
        self.impair.bytes = self.impair.bytes.min(share(32));
        self.shaped_total_bytes = self.shaped_total_bytes.min(share(64));
        self.splice.connections = self.splice.connections.min(self.flows);
        self.splice.exchanges = self.splice.exchanges.min(self.flows);
        self
    }
}

impl Limits {
    /// One worker's part of so many: what counts flows, bytes and errors is divided, so that all of them together have what one
    /// would have.
    #[must_use]
    pub fn share_of(mut self, workers: usize) -> Limits {
        self.flows = (self.flows / workers).max(1);
        self.half_open = (self.half_open / workers).max(1);
        self.tcp_buffer_total_bytes /= workers;
        self.tcp_buffer_max_bytes = self.tcp_buffer_max_bytes.min(self.tcp_buffer_total_bytes / 16);
        let errors = usize::try_from(self.icmp_errors_per_second).unwrap_or(usize::MAX) / workers;
        self.icmp_errors_per_second = u32::try_from(errors).unwrap_or(u32::MAX);
        self
    }
}

/// What one flow may take in all, in the worst of cases: the core's own, and the kernel's for its socket and its place
/// in the poll.
const BYTES_PER_FLOW: u64 = 6 << 10;

/// Bounds of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Letters.
    pub letters: usize,
    /// Bytes that they carry.
    pub bytes: usize,
}

/// Bounds of IP reassembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Datagrams that wait for fragments.
    pub datagrams: usize,
    /// Fragments of one datagram, duplicates included.
    pub fragments_per_datagram: usize,
    /// Bytes of all that waits, bookkeeping included.
    pub total_bytes: usize,
    /// How long a datagram may take from its first fragment on. RFC 8200 has 60 s, RFC 1122 60 to 120 s; the
    /// sender is one hop away.
    pub timeout: Duration,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        ReassemblyLimits {
            datagrams: 64,
            fragments_per_datagram: 256,
            total_bytes: 1 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Bounds of what is on its way in one direction of a link that is impaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpairLimits {
    /// Packets.
    pub packets: usize,
    /// Bytes of these.
    pub bytes: usize,
}

impl Default for ImpairLimits {
    /// A second of 128 Mbit/s, or a fifth of a second of 640.
    fn default() -> Self {
        ImpairLimits { packets: 16_384, bytes: 16 << 20 }
    }
}

/// Bounds of what spliced connections hold between their two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceLimits {
    /// Connections.
    pub connections: usize,
    /// Clients of UDP ports.
    pub exchanges: usize,
    /// Pipes of all connections together.
    pub pipes: usize,
    /// Pipes kept for the next connection that has bytes to move.
    pub idle_pipes: usize,
    /// Size of a pipe; half a MiB is the fastest. All of them are half of a user's usual quota of 64 MiB.
    pub pipe_bytes: usize,
    /// A pipe smaller than this is slower than copying.
    pub pipe_min_bytes: usize,
    /// Size of a buffer in a pipe's place.
    pub buffer_bytes: usize,
    /// Bytes of the buffers of all connections together.
    pub buffer_total_bytes: usize,
    /// Size of a buffer beyond that total.
    pub buffer_min_bytes: usize,
    /// Bytes one direction moves before the others get their turn.
    pub turn_bytes: usize,
}

impl Default for SpliceLimits {
    fn default() -> Self {
        SpliceLimits {
            connections: 8_192,
            exchanges: 4_096,
            pipes: 64,
            idle_pipes: 8,
            pipe_bytes: 512 << 10,
            pipe_min_bytes: 64 << 10,
            buffer_bytes: 64 << 10,
            buffer_total_bytes: 32 << 20,
            buffer_min_bytes: 4 << 10,
            turn_bytes: 2 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_mean_few_flows() {
        let limits = Limits::default().within_descriptors(1_024);
        assert_eq!(limits.flows, 960);
        assert_eq!((limits.half_open, limits.opening_per_port), (480, 120));
        assert_eq!(Limits::default().within_descriptors(3).flows, 1);
    }

    #[test]
    fn workers_together_have_what_one_has() {
        for limits in [
            Limits::default(),
            Limits::default().within_descriptors(1_024),
            Limits::default().within_memory(64 << 20),
        ] {
            for workers in [2, 3, 4, 16] {
                let part = limits.share_of(workers);
                for (of_one, of_all) in [
                    (part.flows, limits.flows),
                    (part.half_open, limits.half_open),
                    (part.tcp_buffer_total_bytes, limits.tcp_buffer_total_bytes),
                    (part.icmp_errors_per_second as usize, 1_000),
                ] {
                    assert!(of_one * workers <= of_all && of_one > of_all / workers - 1);
                }
                // What is set aside for each flow is there for each.
                assert!(part.flows * 2 * part.tcp_buffer_min_bytes <= part.tcp_buffer_total_bytes);
                assert!(part.tcp_buffer_max_bytes >= part.tcp_buffer_min_bytes);
            }
        }
        assert_eq!(Limits::default().within_memory(0).share_of(1), Limits::default().within_memory(0));
    }

    #[test]
    fn little_memory_means_few_flows_and_small_buffers() {
        let limits = Limits::default();
        assert_eq!(limits.within_memory(4 << 30), limits);
        for memory in [64_u64 << 20, 512 << 20, 1 << 30] {
            let limits = Limits::default().within_memory(memory);
            let flows = limits.flows as u64 * BYTES_PER_FLOW;
            let pipes = limits.splice.pipes * limits.splice.pipe_bytes + limits.splice.buffer_total_bytes;
            let held = flows + (limits.tcp_buffer_total_bytes + pipes + limits.reassembly.total_bytes) as u64;
            assert!(held <= memory / 8 * 6, "{held} of {memory}");
            // What is set aside for each flow is there for each.
            assert!(limits.flows * 2 * limits.tcp_buffer_min_bytes <= limits.tcp_buffer_total_bytes);
        }
        let least = Limits::default().within_memory(0);
        assert_eq!((least.flows, least.half_open, least.tcp_buffer_total_bytes), (64, 32, 1 << 20));
    }
}
