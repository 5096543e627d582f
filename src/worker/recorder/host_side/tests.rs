//! The packets of a socket's life, read by an independent reader.

use super::*;
use etherparse::{SlicedPacket, TransportSlice};

const FLOW: FlowId = FlowId { slot: 3, generation: 1 };

/// Direction, flags, sequence number, acknowledgement, payload.
type Told = (Direction, String, u32, u32, Vec<u8>);

struct Reader {
    side: HostSide,
    told: Vec<Told>,
    as_on_wire: bool,
}

impl Reader {
    fn new() -> Reader {
        Reader { side: HostSide::default(), told: Vec::new(), as_on_wire: false }
    }

    fn sees(&mut self, happening: Happening, bytes: &[u8]) {
        let told = &mut self.told;
        let all = (Some(bytes), bytes.len());
        self.side.handle(FLOW, &happening, all, self.as_on_wire, |direction, packet, len| {
            let packet = packet.expect("put together");
            assert_eq!(len, packet.len());
            let sliced = SlicedPacket::from_ip(packet).unwrap();
            let read = ip::parse(packet).unwrap();
            assert_eq!(read.bytes.len(), packet.len());
            assert!(ip::transport_checksum_ok(read.source, read.destination, read.protocol, read.payload));
            match sliced.transport.unwrap() {
                TransportSlice::Tcp(tcp) => {
                    let mut flags = String::new();
                    for (is_set, name) in
                        [(tcp.syn(), "S"), (tcp.fin(), "F"), (tcp.rst(), "R"), (tcp.ack(), ".")]
                    {
                        flags.push_str(if is_set { name } else { "" });
                    }
                    let (sequence, acknowledged) = (tcp.sequence_number(), tcp.acknowledgment_number());
                    told.push((direction, flags, sequence, acknowledged, tcp.payload().to_vec()));
                }
                TransportSlice::Udp(udp) => {
                    let ports = format!("{}>{}", udp.source_port(), udp.destination_port());
                    told.push((direction, ports, 0, 0, udp.payload().to_vec()));
                }
                TransportSlice::Icmpv4(icmp) => {
                    told.push((direction, "icmp".to_owned(), 0, 0, icmp.slice().to_vec()));
                }
                other => panic!("{other:?}"),
            }
        });
    }

    /// Direction and flags with their numbers, as one word each.
    fn summary(&self) -> Vec<String> {
        let arrow = |direction: &Direction| if *direction == Direction::Outbound { ">" } else { "<" };
        let one = |(direction, flags, sequence, acknowledged, payload): &Told| {
            format!("{}{flags} {sequence} {acknowledged} {}", arrow(direction), payload.len())
        };
        self.told.iter().map(one).collect()
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn began(by: End) -> Happening {
    Happening::Began { local: at("192.0.2.9:40000"), peer: at("198.51.100.7:80"), by }
}

#[test]
fn a_connection_has_its_handshake_its_bytes_and_its_ends() {
    let mut reader = Reader::new();
    reader.sees(began(End::Ours), b"");
    reader.sees(Happening::Established, b"");
    reader.sees(Happening::Sent(End::Ours), b"GET /");
    reader.sees(Happening::Sent(End::Peer), b"200 OK");
    reader.sees(Happening::Finished(End::Peer), b"");
    reader.sees(Happening::Finished(End::Ours), b"");
    reader.sees(Happening::Closed, b"");
    let expected = [
        ">S 0 0 0",
        "<S. 0 1 0",
        ">. 1 1 0",
        ">. 1 1 5",
        "<. 1 6 6",
        "<F. 7 6 0",
        ">. 6 8 0",
        ">F. 6 8 0",
        "<. 8 7 0",
        "<. 8 7 0",
    ];
    assert_eq!(reader.summary(), expected);
    assert!(reader.side.is_empty());
}

#[test]
fn a_client_that_was_accepted_says_syn_itself_and_may_be_reset() {
    let mut reader = Reader::new();
    reader.sees(began(End::Peer), b"");
    reader.sees(Happening::Established, b"");
    reader.sees(Happening::Reset(End::Ours), b"");
    reader.sees(Happening::Sent(End::Ours), b"too late");
    assert_eq!(reader.summary(), ["<S 0 0 0", ">S. 0 1 0", "<. 1 1 0", ">R. 1 1 0"]);
}

#[test]
fn a_refusal_is_a_reset_of_the_peers_and_a_connect_that_ends_is_nothing_more() {
    let mut reader = Reader::new();
    reader.sees(began(End::Ours), b"");
    reader.sees(Happening::Refused, b"");
    reader.sees(began(End::Ours), b"");
    reader.sees(Happening::Closed, b"");
    assert_eq!(reader.summary(), [">S 0 0 0", "<R. 0 1 0", ">S 0 0 0"]);
}

#[test]
fn long_writes_are_cut_acknowledged_and_in_order() {
    let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    for (as_on_wire, most) in [(false, LARGEST_PAYLOAD), (true, WIRE_PAYLOAD)] {
        let mut reader = Reader::new();
        reader.as_on_wire = as_on_wire;
        reader.sees(Happening::Met { local: at("[2001:db8::9]:40000"), peer: at("[2001:db8::7]:80") }, b"");
        reader.sees(Happening::Sent(End::Peer), &bytes);
        let (mut next, mut together, mut acknowledged) = (1, Vec::new(), 1);
        for (direction, _, sequence, acknowledgement, payload) in &reader.told {
            match direction {
                Direction::Inbound => {
                    assert_eq!((*sequence, *acknowledgement), (next, 1));
                    assert!(payload.len() <= most);
                    next += payload.len() as u32;
                    together.extend_from_slice(payload);
                }
                Direction::Outbound => {
                    assert_eq!((payload.len(), *acknowledgement), (0, next));
                    acknowledged = *acknowledgement;
                }
            }
        }
        assert_eq!(together, bytes);
        assert!(next - acknowledged < ACKNOWLEDGED_AFTER);
    }
}

#[test]
fn datagrams_and_echoes_have_the_addresses_of_the_socket() {
    let mut reader = Reader::new();
    let (local, peer) = (at("192.0.2.9:40000"), at("198.51.100.7:53"));
    let run = NonZeroU16::new(4);
    let happening = Happening::Datagrams { local, peer, from: End::Ours, segment_bytes: run, hop_limit: 63 };
    reader.sees(happening.clone(), b"aaaabbbbcc");
    let empty = Happening::Datagrams { local, peer, from: End::Peer, segment_bytes: None, hop_limit: 63 };
    reader.sees(empty, b"");
    let told: Vec<_> = reader.told.iter().map(|told| (told.1.as_str(), told.4.as_slice())).collect();
    let expected: [(&str, &[u8]); 4] =
        [("40000>53", b"aaaa"), ("40000>53", b"bbbb"), ("40000>53", b"cc"), ("53>40000", b"")];
    assert_eq!(told, expected);
    let mut reader = Reader::new();
    let echo = Happening::Echo { local, peer, from: End::Ours, hop_limit: 63 };
    reader.sees(echo, &[8, 0, 1, 2, 3, 4, 0, 1, 9, 9]);
    assert_eq!(reader.told[0].4[4..], [0x9c, 0x40, 0, 1, 9, 9], "the identifier is the socket's");
    reader.sees(Happening::Echo { local, peer, from: End::Ours, hop_limit: 63 }, &[8, 0]);
    assert_eq!(reader.told.len(), 1);
}

#[test]
fn bytes_that_are_only_counted_have_their_place() {
    let mut side = HostSide::default();
    let mut lens = Vec::new();
    for (happening, bytes, len) in [
        (Happening::Met { local: at("192.0.2.9:40000"), peer: at("198.51.100.7:80") }, &b""[..], 0),
        (Happening::Sent(End::Ours), b"abc", 70_000),
        (Happening::Sent(End::Ours), b"xyz", 3),
    ] {
        side.handle(FLOW, &happening, (Some(bytes), len), false, |_, packet, original| {
            let packet = packet.unwrap();
            let sequence = u32::from_be_bytes(packet[24..28].try_into().unwrap());
            let total = u16::from_be_bytes(packet[2..4].try_into().unwrap());
            assert_eq!(usize::from(total), original);
            lens.push((sequence, packet.len(), original));
        });
    }
    let ours: Vec<_> = lens.into_iter().filter(|(_, _, original)| *original > 40).collect();
    assert_eq!(ours, [(1, 43, 65_040), (65_001, 40, 5_040), (70_001, 43, 43)]);
}
