//! Ancillary data and socket addresses as bytes, read and written without a pointer.
//!
//! Layouts: `cmsg(3)`, `ip(7)`, `ipv6(7)`. Everything here is a pure function of bytes, so that the unsafe part
//! of the sockets is the system calls alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU16;

use super::{IcmpNotice, SocketError};

/// Room for every control message that is asked for, several times over.
const CONTROL_BYTES: usize = 256;
/// `struct cmsghdr`: length, level, type.
const HEADER_BYTES: usize = size_of::<usize>() + 8;
/// `struct sockaddr_in6`, the largest address in use.
const ADDRESS_BYTES: usize = 28;

/// A control buffer, aligned as `struct cmsghdr` must be.
#[repr(C, align(8))]
pub(super) struct ControlBuffer {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

impl ControlBuffer {
    pub(super) const CAPACITY: usize = CONTROL_BYTES;

    pub(super) const fn new() -> ControlBuffer {
        ControlBuffer { bytes: [0; CONTROL_BYTES], len: 0 }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What the kernel has filled in.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(CONTROL_BYTES);
    }

    pub(super) fn messages(&self) -> Messages<'_> {
        Messages { rest: &self.bytes[..self.len] }
    }

    /// Appends a message; the buffer holds every set of messages that is ever sent.
    pub(super) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message_len = HEADER_BYTES + data.len();
        let end = self.len + align(message_len);
        let out = &mut self.bytes[self.len..end];
        out.fill(0);
        let (header, rest) = out.split_at_mut(HEADER_BYTES);
        let (length, ids) = header.split_at_mut(size_of::<usize>());
        length.copy_from_slice(&message_len.to_ne_bytes());
        ids[..4].copy_from_slice(&level.to_ne_bytes());
        ids[4..8].copy_from_slice(&kind.to_ne_bytes());
        rest[..data.len()].copy_from_slice(data);
        self.len = end;
    }

    /// The host address a datagram is to leave from.
    pub(super) fn push_source(&mut self, source: IpAddr) {
        match source {
            IpAddr::V4(address) => {
                // struct in_pktinfo: interface index, source, destination (unused on the way out).
                let mut info = [0u8; 12];
                info[4..8].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(address) => {
                // struct in6_pktinfo: address, interface index.
                let mut info = [0u8; 20];
                info[..16].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }
}

fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// The messages of a control buffer: level, type, data.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, after) = self.rest.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, after) = after.split_first_chunk::<4>()?;
        let (kind, _) = after.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let data = self.rest.get(HEADER_BYTES..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
    }
}

fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// What the control messages of a datagram say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DatagramNotes {
    pub(super) segment_bytes: Option<NonZeroU16>,
    pub(super) local: Option<IpAddr>,
    pub(super) traffic_class: Option<u8>,
    pub(super) hop_limit: Option<u8>,
}

impl DatagramNotes {
    pub(super) fn read(messages: Messages<'_>) -> DatagramNotes {
        let mut notes = DatagramNotes::default();
        for (level, kind, data) in messages {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    notes.hop_limit = int(data).and_then(|value| u8::try_from(value).ok());
                }
                // One byte for IPv4, an int for IPv6.
                (libc::IPPROTO_IP, libc::IP_TOS) => notes.traffic_class = data.first().copied(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    notes.traffic_class = int(data).and_then(|value| u8::try_from(value).ok());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // `ipi_spec_dst`: the local address, also where the packet was a broadcast.
                    let address = data.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
                    notes.local = address.map(|octets| Ipv4Addr::from(*octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    notes.local = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let bytes = int(data).and_then(|value| u16::try_from(value).ok());
                    notes.segment_bytes = bytes.and_then(NonZeroU16::new);
                }
                _ => {}
            }
        }
        notes
    }
}

/// What a message of the error queue says (`struct sock_extended_err` and the offender behind it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuedError {
    pub(super) error: SocketError,
    /// What the network said; none if this host did.
    pub(super) notice: Option<IcmpNotice>,
    /// The address that the notice was sent to.
    pub(super) local: Option<IpAddr>,
}

impl QueuedError {
    pub(super) fn read(messages: Messages<'_>) -> Option<QueuedError> {
        let (mut found, mut hop_limit, mut local) = (None, None, None);
        for (level, kind, data) in messages {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    found = Self::parse(data);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    hop_limit = int(data).and_then(|value| u8::try_from(value).ok());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // `ipi_addr`: the destination in the header; `ipi_spec_dst` is not set for errors.
                    let address = data.get(8..12).and_then(|bytes| bytes.first_chunk::<4>());
                    local = address.map(|octets| Ipv4Addr::from(*octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    local = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
                }
                _ => {}
            }
        }
        let mut found = found?;
        if let Some(notice) = &mut found.notice {
            (notice.hop_limit, found.local) = (hop_limit, local);
        }
        Some(found)
    }

    fn parse(data: &[u8]) -> Option<QueuedError> {
        let errno = int(data)?;
        let &[origin, kind, code, _] = data.get(4..8)?.first_chunk::<4>()?;
        let info = u32::from_ne_bytes(*data.get(8..12)?.first_chunk::<4>()?);
        let offender = data.get(16..).and_then(read_address).map(|address| address.ip());
        let notice = |rest| Some(IcmpNotice { offender, hop_limit: None, kind, code, rest });
        let (error, notice) = match (origin, kind, code) {
            // The pointer of a parameter problem is the first of the four bytes.
            (libc::SO_EE_ORIGIN_ICMP, 12, _) => (SocketError::from_errno(errno), notice(info << 24)),
            (libc::SO_EE_ORIGIN_ICMP, 3, 4) => (icmp_error(kind, code, info, errno), notice(info)),
            // The kernel leaves here what it found in fields that mean nothing.
            (libc::SO_EE_ORIGIN_ICMP, _, _) => (icmp_error(kind, code, info, errno), notice(0)),
            (libc::SO_EE_ORIGIN_ICMP6, 2 | 4, _) => (icmpv6_error(kind, code, info, errno), notice(info)),
            (libc::SO_EE_ORIGIN_ICMP6, _, _) => (icmpv6_error(kind, code, info, errno), notice(0)),
            _ if errno == libc::EMSGSIZE => (SocketError::MessageTooLong { mtu: info }, None),
            _ => (SocketError::from_errno(errno), None),
        };
        Some(QueuedError { error, notice, local: None })
    }
}

// RFC 792, RFC 1812 §5.2.7.1.
fn icmp_error(kind: u8, code: u8, info: u32, errno: i32) -> SocketError {
    match (kind, code) {
        (3, 0 | 6 | 11) => SocketError::NetworkUnreachable,
        (3, 1 | 7 | 8 | 12) => SocketError::HostUnreachable,
        (3, 2) => SocketError::ProtocolUnreachable,
        (3, 3) => SocketError::Refused,
        (3, 4) => SocketError::MessageTooLong { mtu: info },
        (3, 9 | 10 | 13) => SocketError::Prohibited,
        (11, 0) => SocketError::HopLimitExceeded,
        _ => SocketError::from_errno(errno),
    }
}

// RFC 4443 §3.
fn icmpv6_error(kind: u8, code: u8, info: u32, errno: i32) -> SocketError {
    match (kind, code) {
        (1, 0) => SocketError::NetworkUnreachable,
        (1, 2 | 3) => SocketError::HostUnreachable,
        (1, 1 | 5 | 6) => SocketError::Prohibited,
        (1, 4) => SocketError::Refused,
        (2, _) => SocketError::MessageTooLong { mtu: info },
        (3, 0) => SocketError::HopLimitExceeded,
        _ => SocketError::from_errno(errno),
    }
}

/// A socket address as the kernel reads and writes it.
#[repr(C, align(8))]
pub(super) struct RawAddress {
    bytes: [u8; ADDRESS_BYTES],
    len: usize,
}

impl RawAddress {
    pub(super) const CAPACITY: usize = ADDRESS_BYTES;

    pub(super) const fn new() -> RawAddress {
        RawAddress { bytes: [0; ADDRESS_BYTES], len: 0 }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What the kernel has filled in.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(ADDRESS_BYTES);
    }

    pub(super) fn read(&self) -> Option<SocketAddr> {
        read_address(&self.bytes[..self.len])
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> RawAddress {
        let mut raw = RawAddress::new();
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                raw.len = 16;
            }
            SocketAddr::V6(v6) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                raw.len = 28;
            }
        }
        raw
    }
}

/// Reads `struct sockaddr_in` or `struct sockaddr_in6`; anything else is no address.
fn read_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let octets = bytes.get(4..8)?.first_chunk::<4>()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(*octets), port).into())
        }
        libc::AF_INET6 => {
            let octets = bytes.get(8..24)?.first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..28)?.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(*octets), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(origin: u8, kind: u8, code: u8, info: u32, offender: Option<SocketAddr>) -> ControlBuffer {
        let mut data = Vec::new();
        data.extend_from_slice(&libc::EHOSTUNREACH.to_ne_bytes());
        data.extend_from_slice(&[origin, kind, code, 0]);
        data.extend_from_slice(&info.to_ne_bytes());
        data.extend_from_slice(&[0; 4]);
        if let Some(offender) = offender {
            let raw = RawAddress::from(offender);
            data.extend_from_slice(&raw.bytes[..raw.len]);
        }
        let mut control = ControlBuffer::new();
        control.push(libc::IPPROTO_IP, libc::IP_TTL, &9i32.to_ne_bytes());
        control.push(libc::IPPROTO_IP, libc::IP_RECVERR, &data);
        control
    }

    #[test]
    fn addresses_round_trip_through_their_kernel_form() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:443", "0.0.0.0:0", "[fe80::1%7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::from(address).read(), Some(address));
        }
        assert_eq!(RawAddress::new().read(), None);
    }

    #[test]
    fn notes_are_found_among_unknown_messages() {
        let mut control = ControlBuffer::new();
        control.push(libc::SOL_SOCKET, 99, &[1, 2, 3]);
        control.push(libc::IPPROTO_IP, libc::IP_TOS, &[0x2e]);
        control.push(libc::IPPROTO_IP, libc::IP_TTL, &63i32.to_ne_bytes());
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes());
        control.push_source(Ipv4Addr::new(192, 0, 2, 7).into());
        assert_eq!(
            DatagramNotes::read(control.messages()),
            DatagramNotes {
                segment_bytes: NonZeroU16::new(1200),
                local: Some(Ipv4Addr::new(192, 0, 2, 7).into()),
                traffic_class: Some(0x2e),
                hop_limit: Some(63),
            }
        );
    }

    #[test]
    fn ipv6_notes_are_ints() {
        let mut control = ControlBuffer::new();
        control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0xb8i32.to_ne_bytes());
        control.push(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &255i32.to_ne_bytes());
        control.push_source(Ipv6Addr::LOCALHOST.into());
        let notes = DatagramNotes::read(control.messages());
        assert_eq!(notes.traffic_class, Some(0xb8));
        assert_eq!(notes.hop_limit, Some(255));
        assert_eq!(notes.local, Some(Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn cut_off_control_messages_end_the_walk() {
        let mut control = ControlBuffer::new();
        control.push(libc::IPPROTO_IP, libc::IP_TTL, &63i32.to_ne_bytes());
        for len in 0..HEADER_BYTES + 4 {
            control.set_len(len);
            assert_eq!(control.messages().count(), 0, "{len}");
        }
    }

    #[test]
    fn network_errors_name_what_was_wrong_and_who_said_so() {
        let router: SocketAddr = "198.51.100.1:0".parse().unwrap();
        let cases = [
            (3, 3, 0, SocketError::Refused),
            (3, 4, 1400, SocketError::MessageTooLong { mtu: 1400 }),
            (3, 13, 0, SocketError::Prohibited),
            (11, 0, 0, SocketError::HopLimitExceeded),
        ];
        for (kind, code, info, error) in cases {
            let control = queued(libc::SO_EE_ORIGIN_ICMP, kind, code, info, Some(router));
            let notice =
                IcmpNotice { offender: Some(router.ip()), hop_limit: Some(9), kind, code, rest: info };
            let read = QueuedError::read(control.messages());
            assert_eq!(read, Some(QueuedError { error, notice: Some(notice), local: None }));
        }
        let control = queued(libc::SO_EE_ORIGIN_ICMP6, 2, 0, 1280, None);
        let read = QueuedError::read(control.messages()).unwrap();
        assert_eq!(read.error, SocketError::MessageTooLong { mtu: 1280 });
        assert_eq!(read.notice.unwrap().offender, None);
        let control = queued(libc::SO_EE_ORIGIN_ICMP, 12, 0, 20, None);
        let read = QueuedError::read(control.messages()).unwrap();
        assert_eq!(read.notice.unwrap().rest, 20 << 24, "the pointer stands in the first byte");
        let control = queued(libc::SO_EE_ORIGIN_LOCAL, 0, 0, 1500, None);
        assert_eq!(QueuedError::read(control.messages()).unwrap().notice, None);
    }

    #[test]
    fn an_error_tells_the_address_it_was_sent_to() {
        let mut control = queued(libc::SO_EE_ORIGIN_ICMP, 3, 3, 0, None);
        let mut info = [0u8; 12];
        info[8..].copy_from_slice(&[192, 0, 2, 7]);
        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        let local = QueuedError::read(control.messages()).unwrap().local;
        assert_eq!(local, Some(Ipv4Addr::new(192, 0, 2, 7).into()));
    }
}
