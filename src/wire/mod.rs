//! Headers on the wire: parsing what the container sent, writing what it will read.
//!
//! Everything here is a pure function of bytes. A frame is parsed once, by [`frame::parse`], into borrowed
//! views; nothing is copied or allocated. Writers fill a caller's buffer and return how much of it they used.
//! Field offsets are spelled out next to the RFC that fixes them: the views of `smoltcp::wire` for Ethernet,
//! ARP and NDP come only with features that the data path does not want, and one manner for all headers reads
//! better than two. The tests hold every parser and writer against `etherparse`, which shares no code with us.

pub mod arp;
pub mod checksum;
pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod dns_answer;
pub mod domain;
pub mod frame;
pub mod icmp;
pub mod ip;
pub mod mac;
pub mod ndp;
pub mod segmentation;
pub mod tcp;
pub mod udp;
pub mod vnet_header;

pub use domain::DomainName;
pub use mac::MacAddr;

/// The big-endian number at `at`; the caller has checked the length.
#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian number at `at`; the caller has checked the length.
#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// `N` bytes from `at`; the caller has checked the length.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}
