//! The Internet checksum (RFC 1071) and the pseudo-headers it covers (RFC 9293 §3.1, RFC 8200 §8.1).
//!
//! Sums are kept folded to 16 bits and *not* inverted, which is what a partial checksum field holds and what
//! can be added up piece by piece, as long as every piece but the last is of even length.

use std::net::IpAddr;

use super::ip::protocol;

/// Folded sum of `bytes`, an odd last byte padded with zero.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // RFC 1071 §2 (B): the sum does not depend on byte order, so whole machine words are added and the
    // result is swapped once. 65 535 bytes of 32-bit words stay far below the accumulator's range.
    let words = bytes.chunks_exact(4);
    let mut last = [0u8; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let total: u64 =
        words.map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum::<u64>()
            + u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// Sum of two folded sums.
#[must_use]
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[inline]
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    // The loop leaves at most 16 bits.
    (total & 0xffff) as u16
}

/// Folded sum of the pseudo-header for `transport_len` bytes of transport. ICMP over IPv4 has none: zero.
#[must_use]
#[inline]
pub fn pseudo_header_sum(source: IpAddr, destination: IpAddr, protocol: u8, transport_len: usize) -> u16 {
    if protocol == protocol::ICMP {
        return 0;
    }
    let length = fold(transport_len as u64);
    add(add(address_sum(source), address_sum(destination)), add(u16::from(protocol), length))
}

fn address_sum(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    }
}

/// The complete checksum to store in `transport`, whose checksum field the caller has zeroed.
#[must_use]
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let checksum = !add(pseudo_header_sum(source, destination, protocol, transport.len()), sum(transport));
    // RFC 768: zero would mean "none", so UDP sends its other representation.
    if checksum == 0 && protocol == protocol::UDP { 0xffff } else { checksum }
}

/// Whether the checksum that stands in `transport` is right.
///
/// UDP without one passes over IPv4 (RFC 768) and fails over IPv6 (RFC 8200 §8.1).
#[must_use]
pub fn transport_checksum_ok(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> bool {
    if protocol == protocol::UDP && transport.get(6..8) == Some(&[0, 0]) {
        return source.is_ipv4();
    }
    add(pseudo_header_sum(source, destination, protocol, transport.len()), sum(transport)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sum_is_that_of_a_word_by_word_addition(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut expected = 0u64;
            for pair in bytes.chunks(2) {
                expected += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            }
            prop_assert_eq!(sum(&bytes), fold(expected));
        }

        #[test]
        fn checksum_that_was_stored_is_right_and_any_bit_flip_is_not(
            mut bytes in prop::collection::vec(any::<u8>(), 20..200),
            source: [u8; 4],
            destination: [u8; 4],
            flip in 0usize..160,
        ) {
            let (source, destination) = (IpAddr::from(source), IpAddr::from(destination));
            bytes[16..18].fill(0);
            let checksum = transport_checksum(source, destination, protocol::TCP, &bytes);
            bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
            prop_assert!(transport_checksum_ok(source, destination, protocol::TCP, &bytes));
            bytes[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!transport_checksum_ok(source, destination, protocol::TCP, &bytes));
        }
    }

    #[test]
    fn udp_without_checksum_passes_over_ipv4_only() {
        let datagram = [0, 53, 0, 53, 0, 8, 0, 0];
        let v4 = IpAddr::from([10, 0, 2, 100]);
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert!(transport_checksum_ok(v4, v4, protocol::UDP, &datagram));
        assert!(!transport_checksum_ok(v6, v6, protocol::UDP, &datagram));
    }

    #[test]
    fn udp_checksum_never_becomes_zero() {
        // A datagram whose sum is 0xffff: the ports make up for everything else.
        let address = IpAddr::from([0, 0, 0, 0]);
        let rest = 17 + 8 + 8; // protocol, pseudo-header length, UDP length
        let [high, low] = (0xffffu16 - rest).to_be_bytes();
        let datagram = [high, low, 0, 0, 0, 8, 0, 0];
        assert_eq!(transport_checksum(address, address, protocol::UDP, &datagram), 0xffff);
    }
}
