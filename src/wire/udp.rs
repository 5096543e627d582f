//! UDP headers (RFC 768).

use super::be16;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// A datagram, or a run of equal ones that the link left joined: then the length covers them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender's port; zero when it wants no answer.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// As it stands; zero for none.
    pub checksum: u16,
    /// Data.
    pub payload: &'a [u8],
}

/// Why bytes are no datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UdpError {
    /// Fewer than eight bytes.
    #[error("shorter than a UDP header")]
    Truncated,
    /// The length field says less than the header or more than there is.
    #[error("bad UDP length")]
    Length,
}

/// Parses a datagram; bytes beyond its length field are cut off.
#[inline]
pub fn parse(transport: &[u8]) -> Result<Datagram<'_>, UdpError> {
    let header: &[u8; HEADER_LEN] = transport.first_chunk().ok_or(UdpError::Truncated)?;
    let len = usize::from(be16(header, 4));
    let payload = transport.get(HEADER_LEN..len).ok_or(UdpError::Length)?;
    Ok(Datagram {
        source_port: be16(header, 0),
        destination_port: be16(header, 2),
        checksum: be16(header, 6),
        payload,
    })
}

/// Writes the header for `payload_len` bytes of data at the front of `transport`, with a zero checksum.
pub fn write_header(transport: &mut [u8], source_port: u16, destination_port: u16, payload_len: usize) {
    let len = HEADER_LEN + payload_len;
    debug_assert!(len <= usize::from(u16::MAX), "a datagram of {len} bytes");
    transport[0..2].copy_from_slice(&source_port.to_be_bytes());
    transport[2..4].copy_from_slice(&destination_port.to_be_bytes());
    transport[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    set_checksum(transport, 0);
}

/// Stores a checksum, complete or partial.
pub fn set_checksum(transport: &mut [u8], value: u16) {
    transport[CHECKSUM_OFFSET..HEADER_LEN].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{UdpHeader, UdpHeaderSlice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_headers_are_parsed_back_and_an_independent_reader_agrees(
            source_port: u16, destination_port: u16, payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = vec![0xee; HEADER_LEN];
            bytes.extend(&payload);
            write_header(&mut bytes, source_port, destination_port, payload.len());
            prop_assert_eq!(
                parse(&bytes),
                Ok(Datagram { source_port, destination_port, checksum: 0, payload: &payload }),
            );
            let slice = UdpHeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(slice.source_port(), source_port);
            prop_assert_eq!(slice.destination_port(), destination_port);
            prop_assert_eq!(usize::from(slice.length()), bytes.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn length_field_trims_but_never_extends() {
        let header = UdpHeader { source_port: 1, destination_port: 2, length: 10, checksum: 3 };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend([7; 4]);
        assert_eq!(parse(&bytes).unwrap().payload, [7, 7]);
        assert_eq!(parse(&bytes).unwrap().checksum, 3);
        for length in [0u16, 7, 13, u16::MAX] {
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            assert_eq!(parse(&bytes), Err(UdpError::Length), "{length}");
        }
        assert_eq!(parse(&bytes[..7]), Err(UdpError::Truncated));
    }
}
