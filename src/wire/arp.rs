//! Address resolution for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::frame::{ETHERTYPE_ARP, ETHERTYPE_IPV4, FrameError};
use super::ip::{ETHERNET_HEADER_LEN, Ethernet};
use super::{MacAddr, array, be16};

/// Bytes of a whole frame, Ethernet header included, without padding.
pub const FRAME_LEN: usize = ETHERNET_HEADER_LEN + MESSAGE_LEN;

const MESSAGE_LEN: usize = 28;
const HARDWARE_ETHERNET: u16 = 1;
const OPERATION_REQUEST: u16 = 1;
const OPERATION_REPLY: u16 = 2;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// A message about IPv4 addresses on Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's link address.
    pub sender_mac: MacAddr,
    /// The sender's address; unspecified in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// The target's link address; meaningless in a request.
    pub target_mac: MacAddr,
    /// The address asked about.
    pub target: Ipv4Addr,
}

/// Parses the payload of an ARP frame; trailing padding is ignored.
pub fn parse(payload: &[u8]) -> Result<Message, FrameError> {
    let message: &[u8; MESSAGE_LEN] = payload.first_chunk().ok_or(FrameError::Truncated)?;
    if be16(message, 0) != HARDWARE_ETHERNET || be16(message, 2) != ETHERTYPE_IPV4 || message[4..6] != [6, 4]
    {
        return Err(FrameError::Arp);
    }
    let operation = match be16(message, 6) {
        OPERATION_REQUEST => Operation::Request,
        OPERATION_REPLY => Operation::Reply,
        _ => return Err(FrameError::Arp),
    };
    let sender_mac = MacAddr(array(message, 8));
    if !sender_mac.is_unicast() {
        return Err(FrameError::Arp);
    }
    Ok(Message {
        operation,
        sender_mac,
        sender: array(message, 14).into(),
        target_mac: MacAddr(array(message, 18)),
        target: array(message, 24).into(),
    })
}

impl Message {
    /// Writes the whole frame into `frame`, which holds at least [`FRAME_LEN`] bytes, and returns its length.
    pub fn write_frame(&self, frame: &mut [u8], ethernet: &Ethernet) -> usize {
        ethernet.write(frame, ETHERTYPE_ARP);
        let operation = match self.operation {
            Operation::Request => OPERATION_REQUEST,
            Operation::Reply => OPERATION_REPLY,
        };
        let message = &mut frame[ETHERNET_HEADER_LEN..FRAME_LEN];
        message[0..2].copy_from_slice(&HARDWARE_ETHERNET.to_be_bytes());
        message[2..4].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        message[4..6].copy_from_slice(&[6, 4]);
        message[6..8].copy_from_slice(&operation.to_be_bytes());
        message[8..14].copy_from_slice(&self.sender_mac.0);
        message[14..18].copy_from_slice(&self.sender.octets());
        message[18..24].copy_from_slice(&self.target_mac.0);
        message[24..28].copy_from_slice(&self.target.octets());
        FRAME_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{self, Body};
    use etherparse::{ArpOperation, ArpPacketSlice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_parsed_and_an_independent_reader_agrees(
            is_request: bool, mut sender_mac: [u8; 6], sender: [u8; 4], target_mac: [u8; 6], target: [u8; 4],
        ) {
            sender_mac[0] = (sender_mac[0] & 0xfe) | 2;
            let message = Message {
                operation: if is_request { Operation::Request } else { Operation::Reply },
                sender_mac: MacAddr(sender_mac),
                sender: sender.into(),
                target_mac: MacAddr(target_mac),
                target: target.into(),
            };
            let ethernet = Ethernet { source: message.sender_mac, destination: MacAddr::BROADCAST };
            let mut bytes = [0xee; FRAME_LEN];
            prop_assert_eq!(message.write_frame(&mut bytes, &ethernet), FRAME_LEN);
            prop_assert_eq!(frame::parse(&bytes).unwrap().body, Body::Arp(message));

            let slice = ArpPacketSlice::from_slice(&bytes[14..]).unwrap();
            let operation = if is_request { ArpOperation::REQUEST } else { ArpOperation::REPLY };
            prop_assert_eq!(slice.operation(), operation);
            prop_assert_eq!(slice.sender_hw_addr(), &sender_mac[..]);
            prop_assert_eq!(slice.sender_protocol_addr(), &sender[..]);
            prop_assert_eq!(slice.target_hw_addr(), &target_mac[..]);
            prop_assert_eq!(slice.target_protocol_addr(), &target[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn other_hardware_and_operations_are_refused() {
        let message = Message {
            operation: Operation::Request,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender: Ipv4Addr::new(10, 0, 2, 100),
            target_mac: MacAddr([0; 6]),
            target: Ipv4Addr::new(10, 0, 2, 2),
        };
        let mut bytes = [0; FRAME_LEN];
        message.write_frame(
            &mut bytes,
            &Ethernet { source: message.sender_mac, destination: MacAddr::BROADCAST },
        );
        assert_eq!(parse(&bytes[14..]), Ok(message));
        for (at, value) in [(1, 6), (3, 1), (4, 8), (5, 16), (7, 3), (8, 1)] {
            let mut broken = bytes;
            broken[14 + at] = value;
            assert_eq!(parse(&broken[14..]), Err(FrameError::Arp), "byte {at}");
        }
        assert_eq!(parse(&bytes[14..41]), Err(FrameError::Truncated));
    }
}
