//! What the kernel tells of a socket of ours, for those who look: its two ends, and how its TCP is doing.
//!
//! Reference: tcp(7), `struct tcp_info` of <linux/tcp.h>.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;

/// Where a socket is, and whom it is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// The host's address and port.
    pub local: Option<SocketAddr>,
    /// The peer, where there is one.
    pub peer: Option<SocketAddr>,
}

/// What of `TCP_INFO` is told on. An older kernel leaves the last ones zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// As in RFC 9293, in lower case.
    pub state: &'static str,
    /// Smoothed, and its variation.
    pub round_trip: (Duration, Duration),
    /// Until what is lost is sent again.
    pub retransmission_timeout: Duration,
    /// Segments sent again since the beginning.
    pub retransmissions: u32,
    /// Segments taken for lost now.
    pub lost: u32,
    /// Segments on their way.
    pub unacknowledged: u32,
    /// In segments.
    pub congestion_window: u32,
    /// Bytes of a segment toward the peer.
    pub segment_bytes: u32,
    /// The largest packet that the path takes, as far as known.
    pub path_mtu: u32,
    /// Payload that the peer has acknowledged.
    pub acknowledged_bytes: u64,
    /// Payload that has arrived.
    pub received_bytes: u64,
    /// The kernel's estimate, in bytes a second.
    pub delivery_rate: u64,
}

/// The two ends of a socket.
pub fn ends(socket: &impl AsFd) -> Ends {
    let socket = SockRef::from(socket);
    let of =
        |address: std::io::Result<socket2::SockAddr>| address.ok().and_then(|address| address.as_socket());
    let peer = of(socket.peer_addr());
    Ends {
        local: of(socket.local_addr()),
        peer: peer.filter(|peer| peer.port() != 0 || !peer.ip().is_unspecified()),
    }
}

/// How a TCP socket is doing.
pub fn tcp_info(socket: &impl AsFd) -> Result<TcpInfo, Errno> {
    let mut raw = RawTcpInfo::default();
    let mut len = size_of::<RawTcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `raw`, which has as many and consists of numbers only; both outlive
    // the call, and the descriptor is borrowed for it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut raw).cast(),
            &raw mut len,
        )
    };
    Errno::result(result)?;
    let micros = |value: u32| Duration::from_micros(value.into());
    Ok(TcpInfo {
        state: state_name(raw.state),
        round_trip: (micros(raw.rtt), micros(raw.rttvar)),
        retransmission_timeout: micros(raw.rto),
        retransmissions: raw.total_retrans,
        lost: raw.lost,
        unacknowledged: raw.unacked,
        congestion_window: raw.snd_cwnd,
        segment_bytes: raw.snd_mss,
        path_mtu: raw.pmtu,
        acknowledged_bytes: raw.bytes_acked,
        received_bytes: raw.bytes_received,
        delivery_rate: raw.delivery_rate,
    })
}

/// The kernel's numbers of states.
fn state_name(state: u8) -> &'static str {
    const NAMES: [&str; 13] = [
        "unknown",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "new-syn-recv",
    ];
    NAMES.get(usize::from(state)).copied().unwrap_or("unknown")
}

/// `struct tcp_info`, as far as Linux 4.9 has it; the kernel cuts off what is behind.
#[repr(C)]
#[derive(Default)]
struct RawTcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    /// Four bits each.
    window_shifts: u8,
    limited: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn kernel_tells_what_a_connection_has_moved() {
        assert_eq!(std::mem::offset_of!(RawTcpInfo, bytes_acked), 120);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1_000]).unwrap();
        server.read_exact(&mut [0; 1_000]).unwrap();
        server.write_all(&[1; 10]).unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
        let info = tcp_info(&client).unwrap();
        assert_eq!((info.state, info.received_bytes, info.retransmissions), ("established", 10, 0));
        assert!(info.acknowledged_bytes >= 1_000 && info.segment_bytes > 500, "{info:?}");
        let ends = ends(&client);
        assert_eq!((ends.local, ends.peer), (client.local_addr().ok(), listener.local_addr().ok()));
        assert_eq!(
            tcp_info(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap_err(),
            Errno::EOPNOTSUPP
        );
    }
}
