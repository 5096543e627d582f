//! Being told of addresses that the host loses, as it does when it changes networks.
//!
//! The kernel tells everybody who asks (`RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`, rtnetlink(7)). Opened in the network
//! namespace that is meant, and read whenever it is readable.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{NetlinkError, aligned, own_address};

/// rtnetlink.h: `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: [u32; 2] = [5, 9];
/// Messages of the kernel are no longer.
const MESSAGE_BYTES: usize = 8_192;

/// Which addresses the host has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostAddresses {
    /// These.
    These(Vec<IpAddr>),
    /// So many messages came that some were lost: it may be any.
    Any,
}

/// Reads what the kernel tells of addresses.
#[derive(Debug)]
pub struct AddressWatch(Socket);

impl AddressWatch {
    /// Listens from now on, in the current network namespace.
    pub fn open() -> Result<AddressWatch, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in ADDRESS_GROUPS {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open().map(AddressWatch).map_err(|source| NetlinkError::Open { source })
    }

    /// The addresses lost since the last call.
    #[must_use]
    pub fn lost(&self) -> LostAddresses {
        let (mut lost, mut may_be_any) = (Vec::new(), false);
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            match self.0.recv_from(&mut &mut buffer[..], 0) {
                Ok((len, sender)) if sender == SocketAddr::new(0, sender.multicast_groups()) => {
                    collect(&buffer[..len.min(MESSAGE_BYTES)], &mut lost);
                }
                // Nobody but the kernel is believed.
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => may_be_any = true,
                    // Nothing more.
                    _ if may_be_any => return LostAddresses::Any,
                    _ => return LostAddresses::These(lost),
                },
            }
        }
    }
}

/// Readable when there is something to be told.
impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// The lost addresses of a run of messages; what cannot be understood is passed over.
fn collect(mut messages: &[u8], lost: &mut Vec<IpAddr>) {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(messages) {
        let len = aligned(message.header.length);
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) = message.payload {
            lost.extend(own_address(&message));
        }
        match messages.get(len..) {
            Some(rest) if len > 0 && !rest.is_empty() => messages = rest,
            Some(_) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::socket::tests::in_private_network;

    #[test]
    fn addresses_that_go_are_told_and_others_are_not() {
        in_private_network(
            "sys::netlink::watch::tests::addresses_that_go_are_told_and_others_are_not",
            || {
                let ip = |words: &str| {
                    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success())
                };
                let watch = AddressWatch::open().unwrap();
                ip("link set lo up");
                for address in ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"] {
                    ip(&format!("address add {address} dev lo"));
                }
                assert_eq!(watch.lost(), LostAddresses::These(Vec::new()));
                ip("address del 192.0.2.2/24 dev lo");
                ip("address del 2001:db8::1/64 dev lo");
                let gone = ["192.0.2.2", "2001:db8::1"].map(|address| address.parse().unwrap());
                assert_eq!(watch.lost(), LostAddresses::These(gone.to_vec()));
                assert_eq!(watch.lost(), LostAddresses::These(Vec::new()));
                // More than the socket's queue holds.
                for _ in 0..40 {
                    let batch: String = (0..100)
                    .map(|last| format!("address add 198.51.100.{last}/32 dev lo\naddress del 198.51.100.{last}/32 dev lo\n"))
                    .collect();
                    let path = std::env::temp_dir().join(format!("netferry-batch-{}", std::process::id()));
                    std::fs::write(&path, batch).unwrap();
                    ip(&format!("-batch {}", path.display()));
                    std::fs::remove_file(path).unwrap();
                }
                assert_eq!(watch.lost(), LostAddresses::Any);
                assert_eq!(watch.lost(), LostAddresses::These(Vec::new()));
            },
        );
    }
}
