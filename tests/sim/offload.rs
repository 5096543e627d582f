//! What a kernel does to frames at a TAP with a virtio-net header: completes checksums and cuts super-segments
//! (`split`), and joins what its own TCP sent back to back (`Joiner`). Every liberty the core takes with the
//! header or the frame beyond what the kernel tolerates is an error here.

use netferry::wire::vnet_header::{Offload, VNET_HEADER_LEN};

use crate::packet::{self, ACK, CWR, ETHERNET, FIN, PSH, TCP, UDP};

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// The frames, whole and at most `mtu` IP bytes long, that the container's stack sees of one frame of ours.
pub fn split(
    header: &[u8; VNET_HEADER_LEN],
    frame: &[u8],
    offload: Offload,
    mtu: usize,
) -> Result<Vec<Vec<u8>>, String> {
    let seen = packet::read(frame)?;
    let gso = header[1] & !GSO_ECN;
    if gso == 0 && frame.len() > ETHERNET + mtu {
        return Err(format!(
            "{} bytes exceed the MTU of {mtu} and are no super-segment",
            frame.len() - ETHERNET
        ));
    }
    if header[0] & !(NEEDS_CSUM | DATA_VALID) != 0 {
        return Err(format!("unknown flags in {header:02x?}"));
    }
    let mut whole = frame.to_vec();
    if header[0] & NEEDS_CSUM == 0 {
        return if gso == 0 {
            Ok(vec![whole])
        } else {
            Err("a super-segment with a complete checksum".into())
        };
    }
    if !offload.checksum {
        return Err("a partial checksum on a link without offload".into());
    }
    let ip = seen.ip.ok_or("a partial checksum on something that is not IP")?;
    let (start, offset) = (word(header, 6), word(header, 8));
    if start != ip.transport_at || Some(offset) != packet::checksum_offset(ip.protocol) {
        return Err(format!("checksum at {start}+{offset}, transport at {}", ip.transport_at));
    }
    let pseudo = packet::pseudo_sum(ip.source, ip.destination, ip.protocol, ip.transport.len());
    let held = u16::from_be_bytes([ip.transport[offset], ip.transport[offset + 1]]);
    if held != pseudo {
        return Err(format!("partial checksum {held:04x}, pseudo-header sum {pseudo:04x}"));
    }
    if gso == 0 {
        packet::fill_checksum(ip.source, ip.destination, ip.protocol, &mut whole[start..]);
        return Ok(vec![whole]);
    }
    let allowed = match gso {
        GSO_TCPV4 => offload.tcp4 && ip.protocol == TCP && ip.source.is_ipv4(),
        GSO_TCPV6 => offload.tcp6 && ip.protocol == TCP && ip.source.is_ipv6(),
        GSO_UDP => offload.udp && ip.protocol == UDP,
        _ => false,
    };
    if !allowed {
        return Err(format!("segmentation type {gso} of protocol {} to {}", ip.protocol, ip.destination));
    }
    let transport_len = if gso == GSO_UDP { 8 } else { usize::from(ip.transport[12] >> 4) * 4 };
    if word(header, 2) != start + transport_len {
        return Err(format!("header length {}, headers end at {}", word(header, 2), start + transport_len));
    }
    let size = word(header, 4);
    if size == 0 || start - ETHERNET + transport_len + size > mtu {
        return Err(format!("segments of {size} bytes at an MTU of {mtu}"));
    }
    Ok(cut(frame, &ip, start + transport_len, size))
}

fn cut(frame: &[u8], ip: &packet::SeenIp, headers: usize, size: usize) -> Vec<Vec<u8>> {
    let start = ip.transport_at;
    let end = start + ip.transport.len();
    let count = (end - headers).div_ceil(size).max(1);
    (0..count)
        .map(|index| {
            let from = headers + index * size;
            let to = (from + size).min(end);
            let mut part = [&frame[..headers], &frame[from..to]].concat();
            if ip.protocol == TCP {
                let sequence = ip.sequence().wrapping_add((index * size) as u32);
                part[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
                if index + 1 < count {
                    part[start + 13] &= !(FIN | PSH);
                }
                if index > 0 {
                    part[start + 13] &= !CWR;
                }
            } else {
                let len = part.len() - start;
                part[start + 4..start + 6].copy_from_slice(&(len as u16).to_be_bytes());
            }
            finish(&mut part, ip, index as u16);
            part
        })
        .collect()
}

/// Makes lengths, identification and checksums of a frame agree with its size.
fn finish(frame: &mut [u8], ip: &packet::SeenIp, later_by: u16) {
    let total = frame.len() - ETHERNET;
    if ip.source.is_ipv4() {
        frame[16..18].copy_from_slice(&(total as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&ip.identification.wrapping_add(later_by).to_be_bytes());
        frame[24..26].fill(0);
        let checksum = !packet::sum(0, &frame[ETHERNET..ETHERNET + 20]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        frame[18..20].copy_from_slice(&((total - 40) as u16).to_be_bytes());
    }
    packet::fill_checksum(ip.source, ip.destination, ip.protocol, &mut frame[ip.transport_at..]);
}

/// Joins frames of the container into super-segments, as its kernel would hand them over.
#[derive(Debug, Default)]
pub struct Joiner {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    frame: Vec<u8>,
    segment_bytes: usize,
    next_sequence: u32,
    segments: usize,
    complete: bool,
}

impl Joiner {
    /// Takes the next frame; what can grow no more comes out, with its header.
    pub fn push(
        &mut self,
        frame: Vec<u8>,
        offload: Offload,
        out: &mut Vec<([u8; VNET_HEADER_LEN], Vec<u8>)>,
    ) {
        let ip = packet::read(&frame).ok().and_then(|seen| seen.ip);
        let Some(ip) = ip.filter(|ip| ip.fragment.is_none() && ip.checksum_holds()) else {
            self.flush(out);
            out.push(([0; VNET_HEADER_LEN], frame));
            return;
        };
        let joinable = ip.protocol == TCP && if ip.source.is_ipv4() { offload.tcp4 } else { offload.tcp6 };
        if !joinable || ip.tcp_payload().is_empty() || ip.transport[13] & !(PSH | FIN) != ACK {
            self.flush(out);
            out.push(if offload.checksum { partial(frame, &ip) } else { ([0; VNET_HEADER_LEN], frame) });
            return;
        }
        if !self.held.as_ref().is_some_and(|held| held.fits(&frame, &ip)) {
            self.flush(out);
        }
        match &mut self.held {
            Some(held) => held.append(&ip),
            empty => *empty = Some(Held::new(frame, &ip)),
        }
    }

    /// Whatever is held comes out.
    pub fn flush(&mut self, out: &mut Vec<([u8; VNET_HEADER_LEN], Vec<u8>)>) {
        let Some(held) = self.held.take() else { return };
        let ip = packet::read(&held.frame).unwrap().ip.unwrap();
        let (segments, size) = (held.segments, held.segment_bytes);
        let mut whole = held.frame;
        let headers = whole.len() - ip.tcp_payload().len();
        if segments > 1 {
            let joined = packet::read(&whole).unwrap().ip.unwrap();
            finish(&mut whole, &joined, 0);
        }
        let joined = packet::read(&whole).unwrap().ip.unwrap();
        let (mut header, frame) = partial(whole, &joined);
        if segments > 1 {
            header[1] = if ip.source.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 };
            header[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
            header[4..6].copy_from_slice(&(size as u16).to_le_bytes());
        }
        out.push((header, frame));
    }
}

impl Held {
    fn new(frame: Vec<u8>, ip: &packet::SeenIp) -> Held {
        let len = ip.tcp_payload().len();
        Held {
            frame,
            segment_bytes: len,
            next_sequence: ip.sequence().wrapping_add(len as u32),
            segments: 1,
            complete: ip.transport[13] & (PSH | FIN) != 0,
        }
    }

    /// Same flow, in order, of one size, and nothing but the sequence, the flags and the window differ.
    fn fits(&self, frame: &[u8], ip: &packet::SeenIp) -> bool {
        let held = packet::read(&self.frame).unwrap().ip.unwrap();
        let header_len = usize::from(ip.transport[12] >> 4) * 4;
        let len = ip.tcp_payload().len();
        !self.complete
            && ip.sequence() == self.next_sequence
            && (held.source, held.destination, held.ports()) == (ip.source, ip.destination, ip.ports())
            && held.acknowledgement() == ip.acknowledgement()
            && held.window() == ip.window()
            && held.transport[12] == ip.transport[12]
            && held.transport[20..header_len] == ip.transport[20..header_len]
            && len <= self.segment_bytes
            && self.frame.len() + len <= ETHERNET + 65_535
            && frame.len() > ETHERNET
    }

    fn append(&mut self, ip: &packet::SeenIp) {
        let payload = ip.tcp_payload();
        self.frame.extend_from_slice(payload);
        // Keeps the held frame readable: the IP length grows with it.
        let total = self.frame.len() - ETHERNET;
        if ip.source.is_ipv4() {
            self.frame[16..18].copy_from_slice(&(total as u16).to_be_bytes());
            self.frame[24..26].fill(0);
            let checksum = !packet::sum(0, &self.frame[ETHERNET..ETHERNET + 20]);
            self.frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        } else {
            self.frame[18..20].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        }
        let flags = ip.transport[13];
        self.frame[ip.transport_at + 13] |= flags;
        self.next_sequence = self.next_sequence.wrapping_add(payload.len() as u32);
        self.segments += 1;
        self.complete = flags & (PSH | FIN) != 0 || payload.len() < self.segment_bytes;
    }
}

/// The frame with only the pseudo-header sum as its checksum, and the header that says so.
fn partial(mut frame: Vec<u8>, ip: &packet::SeenIp) -> ([u8; VNET_HEADER_LEN], Vec<u8>) {
    let mut header = [0; VNET_HEADER_LEN];
    if !matches!(ip.protocol, TCP | UDP) {
        return (header, frame);
    }
    let offset = packet::checksum_offset(ip.protocol).unwrap();
    let pseudo = packet::pseudo_sum(ip.source, ip.destination, ip.protocol, ip.transport.len());
    let at = ip.transport_at + offset;
    frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(ip.transport_at as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
    (header, frame)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::packet::{Ip, ethernet, read, tcp, udp};

    fn pair(is_ipv6: bool) -> (IpAddr, IpAddr) {
        let (a, b) = if is_ipv6 { ("fd00::64", "2001:db8::5") } else { ("10.0.2.100", "203.0.113.5") };
        (a.parse().unwrap(), b.parse().unwrap())
    }

    fn segment(is_ipv6: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = pair(is_ipv6);
        let segment = tcp((1, 2), sequence, 9, flags, payload);
        ethernet([2; 6], [4; 6], &Ip::new(source, destination, TCP).carrying(segment))
    }

    #[test]
    fn joined_segments_are_cut_again_into_the_same_segments() {
        for is_ipv6 in [false, true] {
            let bytes: Vec<u8> = (0..250).collect();
            let sequence = 0xffff_ff80u32;
            let frames: Vec<_> = bytes
                .chunks(100)
                .enumerate()
                .map(|(index, part)| {
                    let flags = if index == 2 { ACK | PSH | FIN } else { ACK };
                    segment(is_ipv6, sequence.wrapping_add_signed(index as i32 * 100), flags, part)
                })
                .collect();
            let (mut joiner, mut out) = (Joiner::default(), Vec::new());
            for frame in &frames {
                joiner.push(frame.clone(), Offload::ALL, &mut out);
            }
            assert!(out.is_empty());
            joiner.flush(&mut out);
            let [(header, joined)] = &out[..] else { panic!("{} frames", out.len()) };
            let mut parts = split(header, joined, Offload::ALL, 1500).unwrap();
            for (index, part) in parts.iter_mut().enumerate() {
                assert!(read(part).unwrap().ip.unwrap().checksum_holds());
                if !is_ipv6 {
                    // The identification alone differs from what was sent: it counts up.
                    assert_eq!(part[18..20], (1 + index as u16).to_be_bytes());
                    part[18..20].copy_from_slice(&1u16.to_be_bytes());
                    part[24..26].copy_from_slice(&frames[index][24..26]);
                }
            }
            assert_eq!(parts, frames);
        }
    }

    #[test]
    fn segments_of_another_flow_or_out_of_order_are_not_joined() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        for sequence in [100, 300, 200] {
            joiner.push(segment(false, sequence, ACK, &[0; 100]), Offload::ALL, &mut out);
        }
        joiner.push(segment(true, 300, ACK, &[0; 100]), Offload::ALL, &mut out);
        joiner.flush(&mut out);
        assert_eq!(out.len(), 4);
        assert!(out.iter().all(|(header, _)| header[0] == NEEDS_CSUM && header[1] == 0));
    }

    #[test]
    fn a_super_datagram_is_cut_into_datagrams() {
        let (source, destination) = pair(false);
        let payload: Vec<u8> = (0..25).collect();
        let mut frame =
            ethernet([2; 6], [4; 6], &Ip::new(source, destination, UDP).raw(&udp((5, 6), &payload)));
        let pseudo = packet::pseudo_sum(source, destination, UDP, 33);
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        let header = [NEEDS_CSUM, GSO_UDP, 42, 0, 10, 0, 34, 0, 6, 0];
        let parts = split(&header, &frame, Offload::ALL, 1500).unwrap();
        let read: Vec<_> = parts.iter().map(|part| read(part).unwrap().ip.unwrap()).collect();
        assert!(read.iter().all(packet::SeenIp::checksum_holds));
        let lens: Vec<_> = read.iter().map(|ip| ip.udp_payload().len()).collect();
        assert_eq!(lens, [10, 10, 5]);
        assert!(split(&header, &frame, Offload { udp: false, ..Offload::ALL }, 1500).is_err());
    }

    #[test]
    fn what_a_kernel_would_refuse_is_an_error() {
        let whole = segment(false, 1, ACK, &[7; 2000]);
        assert!(split(&[0; 10], &whole, Offload::ALL, 1500).unwrap_err().contains("MTU"));
        let small = segment(false, 1, ACK, &[7; 20]);
        let complete_but_called_partial = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];
        assert!(
            split(&complete_but_called_partial, &small, Offload::ALL, 1500).unwrap_err().contains("pseudo")
        );
        assert!(
            split(&complete_but_called_partial, &small, Offload::NONE, 1500).unwrap_err().contains("offload")
        );
        assert!(split(&[0; 10], &small, Offload::NONE, 1500).is_ok());
    }
}
