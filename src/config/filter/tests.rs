//! What filters mean, and that nothing that is typed can hurt.

use proptest::prelude::*;

use super::*;

fn matches(filter: &str, transport: Transport, pairs: &[(&str, &str)]) -> bool {
    let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
    Filter::parse(filter).unwrap().matches(&Candidate { transport, pairs: &pairs })
}

/// A flow to a web server by way of a NAT.
fn web(filter: &str) -> bool {
    let inside = ("10.0.2.100:40000", "198.51.100.7:443");
    matches(filter, Transport::Tcp, &[inside, ("203.0.113.1:50000", "198.51.100.7:443")])
}

#[test]
fn primitives_speak_of_either_view() {
    for filter in [
        "",
        "tcp",
        "ip",
        "dst port 443",
        "tcp dst port 443",
        "tcp and dst port 443",
        "port 443",
        "src port 50000",
        "src host 10.0.2.100",
        "src 203.0.113.1",
        "net 198.51.100.0/24",
        "dst net 198.51.100.7/8",
        "portrange 440-450",
        "not udp",
        "!(udp || icmp)",
        "udp or tcp",
        "icmp or port 443 and tcp",
    ] {
        assert!(web(filter), "{filter:?}");
    }
    for filter in [
        "udp",
        "ip6",
        "src port 443",
        "dst port 40000",
        "dst host 10.0.2.100",
        "not tcp",
        "tcp and not port 443",
        "portrange 1-442",
        "udp port 443",
        "(icmp or port 443) and udp",
    ] {
        assert!(!web(filter), "{filter:?}");
    }
    // What has no ports has no port 0 either.
    assert!(!matches("port 0", Transport::Icmp, &[("10.0.2.100:0", "192.0.2.1:0")]));
}

#[test]
fn what_is_no_filter_is_told_with_the_word() {
    for (filter, word) in [
        ("tcp and", "the end"),
        ("port http", "\"http\""),
        ("tcp udp", "\"udp\""),
        ("(tcp", "the end"),
        ("tcp)", "\")\""),
        ("host 10.0.2", "\"10.0.2\""),
        ("net 10/8", "\"10/8\""),
        ("portrange 9-8", "\"9-8\""),
        ("src", "the end"),
        ("sausage", "\"sausage\""),
        ("a & b", "\"a\""),
        ("\u{1b}[2J", "\"\\u{1b}[2J\""),
    ] {
        let error = Filter::parse(filter).unwrap_err().to_string();
        assert!(error.contains(word), "{filter:?}: {error}");
    }
}

#[test]
fn limits_are_reached() {
    let nested = |depth: usize| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(Filter::parse(&nested(MAX_DEPTH + 1)), Err(FilterError::TooLarge));
    assert_eq!(Filter::parse(&"not ".repeat(MAX_DEPTH + 2)), Err(FilterError::TooLarge));
    assert_eq!(Filter::parse(&" ".repeat(MAX_BYTES + 1)), Err(FilterError::TooLarge));
}

fn primitive() -> impl Strategy<Value = String> {
    let side = prop_oneof![Just(""), Just("src "), Just("dst ")];
    let what = prop_oneof![
        any::<IpAddr>().prop_map(|address| format!("host {address}")),
        (any::<std::net::Ipv4Addr>(), 0..=32_u8).prop_map(|(address, len)| format!("net {address}/{len}")),
        any::<u16>().prop_map(|port| format!("port {port}")),
        (0..1_000_u16, 1_000..9_000_u16).prop_map(|(first, last)| format!("portrange {first}-{last}")),
    ];
    prop_oneof![
        prop_oneof![Just("tcp"), Just("udp"), Just("icmp"), Just("ip"), Just("ip6")].prop_map(str::to_owned),
        (side, what).prop_map(|(side, what)| format!("{side}{what}")),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    primitive().prop_recursive(4, 32, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.prop_map(|inner| format!("not ({inner})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}", words in "[a-z0-9 ()!&|./:-]{0,100}") {
        let _ = (Filter::parse(&text), Filter::parse(&words));
    }

    #[test]
    fn what_is_written_is_read_as_the_same(text in expression()) {
        let filter = Filter::parse(&text).unwrap();
        prop_assert_eq!(Filter::parse(&filter.to_string()).unwrap(), filter);
    }

    #[test]
    fn not_is_the_opposite(text in expression(), a: SocketAddr, b: SocketAddr) {
        let pairs = [(a, b)];
        let candidate = Candidate { transport: Transport::Udp, pairs: &pairs };
        let opposite = Filter::parse(&format!("not ({text})")).unwrap();
        prop_assert_ne!(Filter::parse(&text).unwrap().matches(&candidate), opposite.matches(&candidate));
    }
}
