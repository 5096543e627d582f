//! Ports that are forwarded between the host and the container, in both directions and by both ways: over the
//! link, or spliced from loopback to loopback.
//!
//! A rule is a [`PublishRule`]: in the *inward* direction it is listened for on the host and served in the
//! container; in the *outward* direction, which knows loopback addresses only, it is the other way round: its
//! `host_address` and `host_port` are listened on in the container, and its `container_port` is a port of the
//! host's loopback.

use std::fmt;
use std::net::IpAddr;

use super::publish::{PortProtocol, PublishRule};

/// Both directions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortForwarding {
    /// From the host's addresses into the container.
    pub inward: Forwarding,
    /// From the container's loopback to the host's.
    pub outward: Forwarding,
    /// What becomes of clients on the host's own loopback.
    pub local_clients: LocalClients,
    /// Whether there is no link at all, but only loopback.
    pub splice_only: bool,
    /// Whether addresses may be listened on that the host does not have yet (`IP_FREEBIND`).
    pub freebind: bool,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// Each of these is listened on, or nothing starts at all.
    pub required: Vec<PublishRule>,
    /// Each of these is listened on where that is possible (`all`, and lists of exclusions only).
    pub hopeful: Vec<PortsAt>,
    /// These are listened on as long as somebody on the other side does (`auto`).
    pub followed: Vec<PortsAt>,
}

/// Ports that have the same number on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsAt {
    /// Which transport.
    pub protocol: PortProtocol,
    /// Where to listen.
    pub address: IpAddr,
    /// The only interface to listen on.
    pub interface: Option<InterfaceName>,
    /// Which of them are forwarded at all.
    pub ports: PortSet,
}

impl PortsAt {
    /// The rule of one of them.
    #[must_use]
    pub fn rule(&self, port: u16) -> PublishRule {
        PublishRule {
            protocol: self.protocol,
            host_address: self.address,
            host_port: port,
            interface: self.interface,
            container_address: None,
            container_port: port,
        }
    }
}

/// How a client on the host's loopback reaches a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalClients {
    /// Over the link, as every other client.
    #[default]
    Link,
    /// Spliced to the container's loopback.
    SplicedToLoopback,
    /// Spliced to the container's own address, which is also what the server sees as its client.
    SplicedToAddress,
}

/// Name of a network interface: one to fifteen bytes (`IFNAMSIZ`), no slash, no space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterfaceName {
    bytes: [u8; InterfaceName::MAX_BYTES],
    len: u8,
}

impl InterfaceName {
    /// Bytes of the longest.
    pub const MAX_BYTES: usize = 15;

    /// The name, if it can be one.
    #[must_use]
    pub fn new(text: &str) -> Option<InterfaceName> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        let is_name = !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed);
        let mut bytes = [0; InterfaceName::MAX_BYTES];
        bytes.get_mut(..text.len()).filter(|_| is_name)?.copy_from_slice(text.as_bytes());
        Some(InterfaceName { bytes, len: u8::try_from(text.len()).ok()? })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("made of ASCII")
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Words of a [`PortSet`].
const WORDS: usize = 65_536 / 64;

/// Any of the 65 536 port numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    words: Box<[u64; WORDS]>,
}

impl PortSet {
    /// None of them.
    #[must_use]
    pub fn empty() -> PortSet {
        PortSet { words: Box::new([0; WORDS]) }
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// Makes `port` one of them.
    pub fn insert(&mut self, port: u16) {
        self.words[usize::from(port / 64)] |= 1 << (port % 64);
    }

    /// Takes `port` out.
    pub fn remove(&mut self, port: u16) {
        self.words[usize::from(port / 64)] &= !(1 << (port % 64));
    }

    /// All of them but zero.
    #[must_use]
    pub fn all() -> PortSet {
        let mut ports = PortSet { words: Box::new([u64::MAX; WORDS]) };
        ports.remove(0);
        ports
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Each of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|port| self.contains(*port))
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_set_holds_what_was_put_in_and_not_taken_out() {
        let mut ports = PortSet::empty();
        for port in [0, 63, 64, 22, u16::MAX] {
            ports.insert(port);
        }
        ports.remove(22);
        assert_eq!(ports.iter().collect::<Vec<_>>(), [0, 63, 64, u16::MAX]);
        assert!(!ports.contains(22) && ports.contains(64));
    }

    #[test]
    fn names_of_interfaces_are_what_the_kernel_takes() {
        for name in ["lo", "eth0", "wlan-0.1", "123456789012345"] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
        for text in ["", ".", "..", "a b", "a/b", "a:b", "ä", "1234567890123456"] {
            assert_eq!(InterfaceName::new(text), None, "{text}");
        }
    }
}
