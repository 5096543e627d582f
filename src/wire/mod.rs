//! Headers on the wire: parsing what the container sent, writing what it will read.
//!
//! Everything here is a pure function of bytes. A frame is parsed once, by [`frame::parse`], into borrowed
//! views; nothing is copied. Writers fill a caller's buffer and return how much of it they used. The
//! fixed-layout work (checksums, field offsets) is done by `smoltcp::wire`, so that this module holds only
//! the rules of its own: what is accepted, and why the rest is not.

pub mod arp;
pub mod frame;
pub mod icmp;
pub mod ip;
pub mod mac;
pub mod ndp;
pub mod tcp;
pub mod udp;
pub mod vnet_header;

pub use mac::MacAddr;
