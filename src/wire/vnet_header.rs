//! The virtio-net header that precedes every frame on a TAP opened with `IFF_VNET_HDR`.
//!
//! It carries what a checksum or segmentation engine would need, so that the kernel hands over super-segments
//! of up to 64 KiB and accepts them, at an honest MTU. Ten bytes, little-endian on every machine we build for
//! (`struct virtio_net_hdr`, virtio 1.2 §5.1.6).

/// Bytes of the header on the descriptor (`TUNSETVNETHDRSZ`).
pub const VNET_HEADER_LEN: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the link can do for us; the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Transport checksums may be left partial, and arrive so.
    pub checksum: bool,
    /// IPv4 TCP super-segments.
    pub tcp4: bool,
    /// IPv6 TCP super-segments.
    pub tcp6: bool,
    /// UDP super-datagrams of both families (`TUN_F_USO4|TUN_F_USO6`).
    pub udp: bool,
}

impl Offload {
    /// Everything on.
    pub const ALL: Offload = Offload { checksum: true, tcp4: true, tcp6: true, udp: true };
    /// Everything off: full checksums, no frame above the MTU.
    pub const NONE: Offload = Offload { checksum: false, tcp4: false, tcp6: false, udp: false };
}

/// How the payload of one frame is to be cut, or was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP segments of `segment_bytes` payload each.
    Tcp {
        /// Payload bytes of each segment but the last.
        segment_bytes: u16,
        /// CWR stands only on the first segment.
        ecn: bool,
    },
    /// UDP datagrams of `segment_bytes` payload each.
    Udp {
        /// Payload bytes of each datagram but the last.
        segment_bytes: u16,
    },
}

/// What stands beside a frame on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// The transport checksum holds only the pseudo-header sum; the reader completes it.
    pub checksum_partial: bool,
    /// The other side vouches for the transport checksum.
    pub checksum_valid: bool,
    /// Set when the frame is a super-segment.
    pub segmentation: Option<Segmentation>,
}

/// Why a header was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VnetHeaderError {
    /// Fewer than [`VNET_HEADER_LEN`] bytes.
    #[error("shorter than its ten bytes")]
    Truncated,
    /// A segmentation type that was never negotiated.
    #[error("unknown segmentation type {0}")]
    UnknownSegmentation(u8),
    /// A super-segment of segments of no bytes.
    #[error("segment size zero")]
    ZeroSegment,
}

impl FrameMeta {
    /// Reads the header in front of a frame.
    pub fn parse(bytes: &[u8]) -> Result<FrameMeta, VnetHeaderError> {
        let header: &[u8; VNET_HEADER_LEN] = bytes.first_chunk().ok_or(VnetHeaderError::Truncated)?;
        let segment_bytes = u16::from_le_bytes([header[4], header[5]]);
        let ecn = header[1] & GSO_ECN != 0;
        let segmentation = match header[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 | GSO_TCPV6 => Some(Segmentation::Tcp { segment_bytes, ecn }),
            GSO_UDP_L4 => Some(Segmentation::Udp { segment_bytes }),
            other => return Err(VnetHeaderError::UnknownSegmentation(other)),
        };
        if segmentation.is_some() && segment_bytes == 0 {
            return Err(VnetHeaderError::ZeroSegment);
        }
        Ok(FrameMeta {
            checksum_partial: header[0] & FLAG_NEEDS_CSUM != 0,
            checksum_valid: header[0] & FLAG_DATA_VALID != 0,
            segmentation,
        })
    }

    /// Writes the header for a frame whose transport header starts at `transport_offset` bytes into it, is
    /// `transport_header_len` bytes long and holds its checksum `checksum_offset` bytes in.
    #[must_use]
    pub fn encode(
        &self,
        is_ipv6: bool,
        transport_offset: u16,
        transport_header_len: u16,
        checksum_offset: u16,
    ) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0u8; VNET_HEADER_LEN];
        if self.checksum_partial {
            header[0] = FLAG_NEEDS_CSUM;
            header[6..8].copy_from_slice(&transport_offset.to_le_bytes());
            header[8..10].copy_from_slice(&checksum_offset.to_le_bytes());
        }
        let (kind, segment_bytes) = match self.segmentation {
            None => return header,
            Some(Segmentation::Tcp { segment_bytes, ecn }) => {
                (if is_ipv6 { GSO_TCPV6 } else { GSO_TCPV4 } | if ecn { GSO_ECN } else { 0 }, segment_bytes)
            }
            Some(Segmentation::Udp { segment_bytes }) => (GSO_UDP_L4, segment_bytes),
        };
        header[1] = kind;
        header[2..4].copy_from_slice(&(transport_offset + transport_header_len).to_le_bytes());
        header[4..6].copy_from_slice(&segment_bytes.to_le_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips() {
        for segmentation in [
            None,
            Some(Segmentation::Tcp { segment_bytes: 1448, ecn: false }),
            Some(Segmentation::Tcp { segment_bytes: 1448, ecn: true }),
            Some(Segmentation::Udp { segment_bytes: 1200 }),
        ] {
            let meta = FrameMeta { checksum_partial: true, checksum_valid: false, segmentation };
            assert_eq!(FrameMeta::parse(&meta.encode(false, 34, 20, 16)), Ok(meta));
        }
    }

    #[test]
    fn unknown_or_empty_segmentation_is_refused() {
        assert_eq!(FrameMeta::parse(&[0; 9]), Err(VnetHeaderError::Truncated));
        assert_eq!(
            FrameMeta::parse(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0]),
            Err(VnetHeaderError::UnknownSegmentation(3))
        );
        assert_eq!(FrameMeta::parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(VnetHeaderError::ZeroSegment));
    }
}
