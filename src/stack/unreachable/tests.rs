//! Tests of `unreachable`, sentences of its behaviour.

use super::*;
use crate::stack::boundary::Duration;
use crate::stack::emit::tests::{CONTAINER_MAC, ETHERNET, Link};
use crate::wire::frame;
use crate::wire::ip::{Fragment, write_fragment_headers, write_headers};
use crate::wire::vnet_header::Offload;

const V4: ([u8; 4], [u8; 4]) = ([10, 0, 2, 100], [203, 0, 113, 1]);
const GATEWAY_V4: [u8; 4] = [10, 0, 2, 2];

fn v6(text: &str) -> IpAddr {
    IpAddr::V6(text.parse().unwrap())
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        source,
        destination,
        protocol,
        hop_limit: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: false,
    };
    let mut frame = vec![0; 14 + ip::header_len(source.is_ipv6()) + payload.len()];
    let at = write_headers(&mut frame, &ETHERNET, &header, payload.len());
    frame[at..].copy_from_slice(payload);
    frame.split_off(14)
}

fn limited(per_second: u32) -> Unreachable {
    Unreachable::new(&Limits { icmp_errors_per_second: per_second, ..Limits::default() })
}

fn send(
    unreachable: &mut Unreachable,
    from: IpAddr,
    problem: Problem,
    offending: &[u8],
    now: Instant,
) -> Result<Link, DropReason> {
    let mut link = Link::default();
    let emitter = Emitter::new(1500, Offload::ALL);
    unreachable.send(
        &Report { problem, from, hop_limit: None, offending },
        now,
        &ETHERNET,
        &emitter,
        &mut link,
    )?;
    Ok(link)
}

fn outcome(from: IpAddr, offending: &[u8]) -> Result<(), DropReason> {
    send(&mut limited(1), from, Problem::PortUnreachable, offending, Instant::ZERO).map(|_| ())
}

#[test]
fn error_quotes_the_packet_to_its_sender() {
    for (source, destination, from) in [
        (IpAddr::from(V4.0), IpAddr::from(V4.1), IpAddr::from(V4.1)),
        (v6("fd00::64"), v6("2001:db8::1"), v6("fd00::2")),
    ] {
        let offending = packet(source, destination, protocol::UDP, &[0x5a; 1_400]);
        let link = send(&mut limited(1), from, Problem::PortUnreachable, &offending, Instant::ZERO).unwrap();
        let sent = frame::parse(&link.frames[0].bytes).unwrap();
        assert_eq!(sent.destination, CONTAINER_MAC);
        let frame::Body::Ip(error) = sent.body else { panic!("not IP") };
        assert_eq!((error.source, error.destination), (from, source));
        assert!(icmp::is_error(from.is_ipv6(), error.payload));
        assert!(ip::transport_checksum_ok(error.source, error.destination, error.protocol, error.payload));
        assert_eq!(error.payload[8..], offending[..error.payload.len() - 8]);
        assert_eq!(error.bytes.len(), if from.is_ipv6() { 1_280 } else { 576 });
    }
}

#[test]
fn no_error_about_an_error() {
    let (source, destination, gateway) = (V4.0.into(), V4.1.into(), GATEWAY_V4.into());
    for kind in [3, 4, 5, 11, 12] {
        let offending = packet(source, destination, protocol::ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(outcome(gateway, &offending), Err(DropReason::ErrorSuppressed), "{kind}");
    }
    assert_eq!(outcome(gateway, &packet(source, destination, protocol::ICMP, &[8, 0, 0, 0])), Ok(()));
    for kind in [1, 2, 3, 4, 127, 137] {
        let offending = packet(v6("fd00::64"), v6("2001:db8::1"), protocol::ICMPV6, &[kind, 0, 0, 0]);
        assert_eq!(outcome(v6("fd00::2"), &offending), Err(DropReason::ErrorSuppressed), "{kind}");
    }
    let echo = packet(v6("fd00::64"), v6("2001:db8::1"), protocol::ICMPV6, &[128, 0, 0, 0]);
    assert_eq!(outcome(v6("fd00::2"), &echo), Ok(()));
}

#[test]
fn no_error_about_a_later_fragment() {
    for (offset, expected) in [(0, Ok(())), (8, Err(DropReason::ErrorSuppressed))] {
        let mut frame = vec![0; 14 + 20 + 16];
        let header = Header {
            source: V4.0.into(),
            destination: V4.1.into(),
            protocol: protocol::UDP,
            hop_limit: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: false,
        };
        let fragment = Fragment { identification: 1, offset, more: true };
        write_fragment_headers(&mut frame, &ETHERNET, &header, &fragment, 16);
        assert_eq!(outcome(GATEWAY_V4.into(), &frame[14..]), expected);
    }
}

#[test]
fn no_error_to_or_about_what_is_not_one_host() {
    let one = IpAddr::from(V4.1);
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]] {
        let offending = packet(source.into(), one, protocol::UDP, &[0; 8]);
        assert_eq!(outcome(GATEWAY_V4.into(), &offending), Err(DropReason::ErrorSuppressed), "{source:?}");
    }
    for destination in [[224, 0, 0, 1], [255, 255, 255, 255]] {
        let offending = packet(V4.0.into(), destination.into(), protocol::UDP, &[0; 8]);
        assert_eq!(outcome(GATEWAY_V4.into(), &offending), Err(DropReason::ErrorSuppressed));
    }
    for source in ["::", "::1", "ff02::1"] {
        let offending = packet(v6(source), v6("2001:db8::1"), protocol::UDP, &[0; 8]);
        assert_eq!(outcome(v6("fd00::2"), &offending), Err(DropReason::ErrorSuppressed), "{source}");
    }
}

#[test]
fn only_packet_too_big_is_sent_about_an_ipv6_group() {
    let offending = packet(v6("fd00::64"), v6("ff05::1"), protocol::UDP, &[0; 8]);
    assert_eq!(outcome(v6("fd00::2"), &offending), Err(DropReason::ErrorSuppressed));
    let too_big = Problem::PacketTooBig { mtu: 1_280 };
    assert!(send(&mut limited(1), v6("fd00::2"), too_big, &offending, Instant::ZERO).is_ok());
}

#[test]
fn errors_are_limited_by_the_second() {
    let mut unreachable = limited(10);
    let offending = packet(V4.0.into(), V4.1.into(), protocol::UDP, &[0; 8]);
    let mut sent_at = |now: Instant| {
        (0..100)
            .filter(|_| {
                let outcome =
                    send(&mut unreachable, GATEWAY_V4.into(), Problem::HostUnreachable, &offending, now);
                match outcome {
                    Ok(_) => true,
                    Err(reason) => {
                        assert_eq!(reason, DropReason::ErrorRateLimit);
                        false
                    }
                }
            })
            .count()
    };
    let begin = Instant::from_secs(5);
    assert_eq!(sent_at(begin), 10);
    assert_eq!(sent_at(begin + Duration::from_millis(99)), 0);
    assert_eq!(sent_at(begin + Duration::from_millis(300)), 3);
    assert_eq!(sent_at(begin), 0, "a clock that steps back gives nothing");
    assert_eq!(sent_at(begin + Duration::from_secs(3_600)), 10, "silence is not saved up");
    assert_eq!(
        send(&mut limited(0), GATEWAY_V4.into(), Problem::HostUnreachable, &offending, begin).unwrap_err(),
        DropReason::ErrorRateLimit
    );
}

#[test]
fn nonsense_is_refused_without_spending() {
    let mut unreachable = limited(1);
    let offending = packet(V4.0.into(), V4.1.into(), protocol::UDP, &[0; 8]);
    let gateway = IpAddr::from(GATEWAY_V4);
    let mut outcome = |from, bytes: &[u8]| {
        send(&mut unreachable, from, Problem::Prohibited, bytes, Instant::ZERO).map(|_| ())
    };
    assert!(matches!(outcome(gateway, &offending[..10]), Err(DropReason::ErrorSuppressed)));
    assert_eq!(outcome(v6("fd00::2"), &offending), Err(DropReason::ErrorSuppressed));
    assert_eq!(outcome(gateway, &offending), Ok(()));
}
