//! Tests of `ndp`, sentences of its behaviour.

use super::*;
use crate::wire::ip::{protocol, transport_checksum_ok};
use etherparse::{Icmpv6Slice, Icmpv6Type};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, NdiscRepr, NdiscRouterFlags};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const CONTAINER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);

fn checksum_ok(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> bool {
    transport_checksum_ok(source.into(), destination.into(), protocol::ICMPV6, message)
}

proptest! {
    #[test]
    fn solicitations_are_parsed_back(source: u128, target: u128, mut mac: [u8; 6]) {
        mac[0] = (mac[0] & 0xfe) | 2;
        let (source, target) = (Ipv6Addr::from(source), Ipv6Addr::from(target));
        prop_assume!(!target.is_multicast());
        let group = solicited_node(target);
        let mut out = [0xee; NEIGHBOR_LEN];
        prop_assert_eq!(write_neighbor_solicitation(&mut out, source, group, target, MacAddr(mac)), NEIGHBOR_LEN);
        let source_mac = Some(MacAddr(mac));
        prop_assert_eq!(parse(&out, 255), Some(Message::NeighborSolicitation { target, source_mac }));
        prop_assert!(checksum_ok(source, group, &out));
    }

    #[test]
    fn advertisements_are_parsed_back(source: u128, target: u128, solicited: bool) {
        let (source, target) = (Ipv6Addr::from(source), Ipv6Addr::from(target));
        prop_assume!(!target.is_multicast());
        let mut out = [0xee; NEIGHBOR_LEN];
        write_neighbor_advertisement(&mut out, source, CONTAINER, target, MAC, solicited);
        let target_mac = Some(MAC);
        prop_assert_eq!(parse(&out, 255), Some(Message::NeighborAdvertisement { target, target_mac }));
        prop_assert!(checksum_ok(source, CONTAINER, &out));
        let Icmpv6Type::NeighborAdvertisement(header) = Icmpv6Slice::from_slice(&out).unwrap().icmp_type() else {
            panic!("an independent reader sees something else");
        };
        prop_assert!(header.router && header.r#override);
        prop_assert_eq!(header.solicited, solicited);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100), kind in 132u8..138) {
        if bytes.len() > 1 {
            bytes[0] = kind;
            bytes[1] = 0;
        }
        let _ = parse(&bytes, 255);
    }

    #[test]
    fn arbitrary_options_never_panic(options in prop::collection::vec(0u8..4, 0..100)) {
        let mut bytes = vec![133, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(options);
        let _ = parse(&bytes, 255);
    }
}

#[test]
fn only_messages_of_this_link_count() {
    let mut out = [0; NEIGHBOR_LEN];
    write_neighbor_solicitation(&mut out, CONTAINER, GATEWAY, GATEWAY, MAC);
    assert!(parse(&out, 255).is_some());
    assert_eq!(parse(&out, 254), None);
    out[1] = 1;
    assert_eq!(parse(&out, 255), None, "a code other than zero");
}

#[test]
fn malformed_solicitations_are_discarded() {
    let mut out = [0; NEIGHBOR_LEN];
    write_neighbor_solicitation(&mut out, CONTAINER, GATEWAY, GATEWAY, MAC);
    assert_eq!(parse(&out[..23], 255), None);
    assert_eq!(
        parse(&out[..24], 255),
        Some(Message::NeighborSolicitation { target: GATEWAY, source_mac: None })
    );
    assert_eq!(parse(&out[..31], 255), None, "an option that overruns the message");
    out[25] = 0;
    assert_eq!(parse(&out, 255), None, "an option of length zero");
    out[25] = 1;
    out[8] = 0xff;
    assert_eq!(parse(&out, 255), None, "a group as the target");
    assert_eq!(parse(&[133, 0, 0, 0, 0, 0, 0], 255), None);
    assert_eq!(
        parse(&[133, 0, 0, 0, 0, 0, 0, 0], 255),
        Some(Message::RouterSolicitation { source_mac: None })
    );
}

#[test]
fn groups_are_those_of_the_rfcs() {
    let address: Ipv6Addr = "fd00::1:2345:6789".parse().unwrap();
    assert_eq!(solicited_node(address), "ff02::1:ff45:6789".parse::<Ipv6Addr>().unwrap());
    assert_eq!(multicast_mac(solicited_node(address)), MacAddr([0x33, 0x33, 0xff, 0x45, 0x67, 0x89]));
}

#[test]
fn an_independent_reader_understands_the_router_advertisement() {
    let resolvers = ["fd00:1234::3", "2001:db8::53"].map(|text| text.parse::<Ipv6Addr>().unwrap());
    let search = ["example.org", "b"].map(|text| DomainName::new(text).unwrap());
    let advertisement = RouterAdvertisement {
        source: GATEWAY,
        destination: CONTAINER,
        mac: MAC,
        hop_limit: 64,
        managed: false,
        other_configuration: true,
        router_lifetime: 9_000,
        prefix: "fd00:1234::/64".parse().unwrap(),
        autonomous: true,
        valid_lifetime: 86_400,
        preferred_lifetime: 14_400,
        mtu: 1_500,
        resolvers: &resolvers,
        search: &search,
        dns_lifetime: 1_800,
    };
    let mut out = [0xee; RouterAdvertisement::MAX_LEN];
    let len = advertisement.write(&mut out);
    let out = &mut out[..];
    let (out, unused) = out.split_at_mut(len);
    assert!(unused.iter().all(|byte| *byte == 0));
    assert!(checksum_ok(GATEWAY, CONTAINER, out));
    assert!(Icmpv6Slice::from_slice(out).unwrap().is_checksum_valid(GATEWAY.octets(), CONTAINER.octets()));

    let packet = Icmpv6Packet::new_checked(&out[..]).unwrap();
    let repr = Icmpv6Repr::parse(&GATEWAY, &CONTAINER, &packet, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit,
        flags,
        router_lifetime,
        lladdr,
        mtu,
        prefix_info,
        ..
    }) = repr
    else {
        panic!("an independent reader sees {repr:?}");
    };
    assert_eq!((hop_limit, flags, router_lifetime.secs()), (64, NdiscRouterFlags::OTHER, 9_000));
    assert_eq!((lladdr.unwrap().as_bytes(), mtu), (&MAC.0[..], Some(1_500)));
    let prefix = prefix_info.unwrap();
    assert_eq!((prefix.prefix_len, prefix.prefix), (64, "fd00:1234::".parse::<Ipv6Addr>().unwrap()));
    assert_eq!((prefix.valid_lifetime.secs(), prefix.preferred_lifetime.secs()), (86_400, 14_400));
    assert_eq!(prefix.flags.bits(), 0xc0);
    // RFC 8106 §5.1 and §5.2, byte by byte: no reader at hand knows them.
    assert_eq!(out[64..72], [25, 5, 0, 0, 0, 0, 0x07, 0x08]);
    assert_eq!(out[72..104], [resolvers[0].octets(), resolvers[1].octets()].concat());
    assert_eq!(out[104..112], [31, 3, 0, 0, 0, 0, 0x07, 0x08]);
    assert_eq!(out[112..], b"\x07example\x03org\0\x01b\0"[..]);

    let without = RouterAdvertisement {
        resolvers: &[],
        search: &[],
        autonomous: false,
        managed: true,
        other_configuration: false,
        ..advertisement
    };
    let mut out = [0xee; RouterAdvertisement::MAX_LEN];
    let len = without.write(&mut out);
    assert_eq!((len, out[35], out[5]), (64, 0x80, 0x80));
    assert!(checksum_ok(GATEWAY, CONTAINER, &out[..len]));
    let both = RouterAdvertisement { other_configuration: true, ..without };
    both.write(&mut out);
    assert_eq!(out[5], 0xc0);
}

#[test]
fn an_advertisement_tells_what_fits_one_packet() {
    let resolvers = vec![GATEWAY; 200];
    let search: Vec<_> = (0..200).map(|at| DomainName::new(&format!("a{at}.example")).unwrap()).collect();
    for (resolvers, search) in [(&resolvers[..], &search[..]), (&[], &search), (&resolvers[..68], &search)] {
        let advertisement = RouterAdvertisement {
            source: GATEWAY,
            destination: CONTAINER,
            mac: MAC,
            hop_limit: 64,
            managed: false,
            other_configuration: false,
            router_lifetime: 1,
            prefix: "fd00:1234::/64".parse().unwrap(),
            autonomous: true,
            valid_lifetime: 1,
            preferred_lifetime: 1,
            mtu: 1_280,
            resolvers,
            search,
            dns_lifetime: 1,
        };
        let mut out = [0xee; RouterAdvertisement::MAX_LEN];
        let len = advertisement.write(&mut out);
        assert!(len <= 1_240 && len > 1_200, "{len}");
        let mut options = &out[16..len];
        while let [_, units, ..] = options {
            options = &options[usize::from(*units) * 8..];
        }
        assert!(options.is_empty());
    }
}

#[test]
fn discovery_is_told_from_other_icmpv6() {
    for kind in [133, 134, 135, 136, 137] {
        assert!(is_discovery(&[kind]));
    }
    for message in [&[128][..], &[129], &[132], &[138], &[143], &[]] {
        assert!(!is_discovery(message), "{message:?}");
    }
}
