//! Tests of the resolution of subnets to addresses.

use super::*;
use proptest::prelude::*;
use rstest::rstest;

fn ipv4(text: &str) -> Result<Ipv4Link, AddressError> {
    Ipv4Link::from_cidr(text.parse().unwrap())
}

fn ipv6(text: &str) -> Result<Ipv6Link, AddressError> {
    Ipv6Link::from_cidr(text.parse().unwrap())
}

#[rstest]
#[case("10.0.2.0/24", "10.0.2.2", "10.0.2.3", "10.0.2.100")]
#[case("172.16.0.0/12", "172.16.0.2", "172.16.0.3", "172.16.0.100")]
#[case("10.0.2.128/25", "10.0.2.130", "10.0.2.131", "10.0.2.254")]
#[case("192.168.7.8/29", "192.168.7.10", "192.168.7.11", "192.168.7.14")]
#[case("169.254.7.0/24", "169.254.7.2", "169.254.7.3", "169.254.7.100")]
#[case("10.0.2.50/24", "10.0.2.2", "10.0.2.3", "10.0.2.50")]
#[case("10.0.2.1/29", "10.0.2.2", "10.0.2.3", "10.0.2.1")]
fn ipv4_addresses_follow_from_the_subnet(
    #[case] cidr: &str,
    #[case] gateway: &str,
    #[case] dns: &str,
    #[case] container: &str,
) {
    let link = ipv4(cidr).unwrap();
    assert_eq!(link.gateway.to_string(), gateway);
    assert_eq!(link.dns.unwrap().to_string(), dns);
    assert_eq!(link.container.to_string(), container);
}

#[rstest]
#[case("127.0.0.0/24", "covers loopback (127.0.0.0/8) addresses")]
#[case("0.0.0.0/0", "covers unspecified (0.0.0.0/8) addresses")]
#[case("0.1.2.0/24", "covers unspecified")]
#[case("64.0.0.0/2", "covers loopback")]
#[case("224.0.0.0/24", "covers multicast")]
#[case("239.1.0.0/16", "covers multicast")]
#[case("255.255.255.0/24", "covers reserved")]
#[case("10.0.2.0/30", "a /30 has no room for gateway, DNS and container")]
#[case("10.0.2.5/32", "a /32 has no room")]
#[case("10.0.2.2/24", "10.0.2.2 is the gateway address")]
#[case("10.0.2.3/24", "10.0.2.3 is the DNS address")]
#[case("10.0.2.255/24", "10.0.2.255 is the broadcast address")]
fn unusable_ipv4_subnet_is_refused_with_its_reason(#[case] cidr: &str, #[case] beginning: &str) {
    let error = ipv4(cidr).unwrap_err().to_string();
    assert!(error.starts_with(beginning), "{error}");
}

#[test]
fn too_small_subnet_says_which_size_is_enough() {
    assert_eq!(
        ipv4("10.0.2.0/30").unwrap_err().to_string(),
        "a /30 has no room for gateway, DNS and container beside its network and broadcast address; \
         use a /29 or larger"
    );
}

#[rstest]
#[case("fd00::/64", "fd00::2", "fd00::3", "fd00::100")]
#[case("fd00:1::/48", "fd00:1::2", "fd00:1::3", "fd00:1::100")]
#[case("2001:db8:0:5::/64", "2001:db8:0:5::2", "2001:db8:0:5::3", "2001:db8:0:5::100")]
#[case("fd00::a00/119", "fd00::a02", "fd00::a03", "fd00::b00")]
#[case("fd00::a00/120", "fd00::a02", "fd00::a03", "fd00::a10")]
#[case("fd00::50/64", "fd00::2", "fd00::3", "fd00::50")]
fn ipv6_addresses_follow_from_the_prefix(
    #[case] cidr: &str,
    #[case] gateway: &str,
    #[case] dns: &str,
    #[case] container: &str,
) {
    let link = ipv6(cidr).unwrap();
    assert_eq!(link.gateway.to_string(), gateway);
    assert_eq!(link.dns.unwrap().to_string(), dns);
    assert_eq!(link.container.to_string(), container);
    assert_eq!(link.gateway_link_local.to_string(), "fe80::2");
}

#[rstest]
#[case("::1/64", "covers loopback (::1) addresses")]
#[case("::ffff:10.0.2.0/120", "covers IPv4-mapped")]
#[case("64:ff9b::/96", "covers reserved (::/8)")]
#[case("fe80::/64", "covers link-local")]
#[case("ff02::/64", "covers multicast")]
#[case("fd00::/47", "prefix length 47 is out of range; use /48 to /120, best /64")]
#[case("fd00::/121", "prefix length 121 is out of range")]
#[case("fd00::2/64", "fd00::2 is the gateway address")]
#[case("fd00::3/64", "fd00::3 is the DNS address")]
fn unusable_ipv6_prefix_is_refused_with_its_reason(#[case] cidr: &str, #[case] beginning: &str) {
    let error = ipv6(cidr).unwrap_err().to_string();
    assert!(error.starts_with(beginning), "{error}");
}

#[test]
fn default_link_is_the_documented_one() {
    let link = LinkConfig::default();
    assert_eq!(link.ipv4, Some(ipv4("10.0.2.0/24").unwrap()));
    assert_eq!(link.ipv6, Some(ipv6("fd40:6ce4:2b9f::/64").unwrap()));
    assert_eq!(link.mtu, 1_500);
}

#[test]
fn ethernet_addresses_are_unicast_local_and_distinct() {
    for container in [Ipv4Addr::new(10, 0, 2, 100), Ipv4Addr::new(103, 119, 0, 2), Ipv4Addr::new(0, 0, 0, 2)]
    {
        let mac = derived_mac(container);
        assert!(mac.is_unicast() && mac.0[0] & 2 == 2, "{mac}");
        assert_ne!(mac, GATEWAY_MAC);
    }
    assert!(GATEWAY_MAC.is_unicast());
    assert_eq!(container_mac(GATEWAY_MAC), Err(AddressError::GatewayMac));
    assert_eq!(container_mac(MacAddr([2, 0, 0, 0, 0, 1])), Ok(MacAddr([2, 0, 0, 0, 0, 1])));
}

#[rstest]
#[case(1_280, true, Ok(1_280))]
#[case(65_520, true, Ok(65_520))]
#[case(576, false, Ok(576))]
#[case(1_279, true, Err(AddressError::MtuNeedsNoIpv6))]
#[case(576, true, Err(AddressError::MtuNeedsNoIpv6))]
#[case(575, true, Err(AddressError::MtuOutOfRange { smallest: 1_280 }))]
#[case(575, false, Err(AddressError::MtuOutOfRange { smallest: 576 }))]
#[case(65_521, false, Err(AddressError::MtuOutOfRange { smallest: 576 }))]
#[case(65_536 + 1_500, true, Err(AddressError::MtuOutOfRange { smallest: 1_280 }))]
#[case(0, false, Err(AddressError::MtuOutOfRange { smallest: 576 }))]
fn mtu_is_held_to_what_the_families_need(
    #[case] asked: u64,
    #[case] with_ipv6: bool,
    #[case] expected: Result<u16, AddressError>,
) {
    assert_eq!(mtu(asked, with_ipv6), expected);
}

proptest! {
    #[test]
    fn accepted_ipv4_addresses_are_distinct_hosts_of_the_subnet(bits in any::<u32>(), prefix_len in 0u8..=32) {
        let cidr = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix_len).unwrap();
        if let Ok(link) = Ipv4Link::from_cidr(cidr) {
            let roles = [link.gateway, link.dns.unwrap(), link.container, link.subnet.network(), link.subnet.broadcast()];
            for (place, address) in roles.iter().enumerate() {
                prop_assert!(link.subnet.contains(address));
                prop_assert!(!roles[..place].contains(address));
            }
        }
    }

    #[test]
    fn accepted_ipv6_addresses_are_distinct_hosts_of_the_prefix(bits in any::<u128>(), prefix_len in 0u8..=128) {
        let cidr = Ipv6Net::new(Ipv6Addr::from_bits(bits), prefix_len).unwrap();
        if let Ok(link) = Ipv6Link::from_cidr(cidr) {
            let roles = [link.gateway, link.dns.unwrap(), link.container, link.prefix.network()];
            for (place, address) in roles.iter().enumerate() {
                prop_assert!(link.prefix.contains(address));
                prop_assert!(!roles[..place].contains(address));
            }
        }
    }
}

#[test]
fn ethernet_address_makes_an_interface_identifier() {
    // RFC 4291, appendix A, with a locally administered address.
    let mac = "02:11:22:33:44:55".parse().unwrap();
    let made = eui64_address("fd00::/64".parse().unwrap(), mac);
    assert_eq!(made, "fd00::11:22ff:fe33:4455".parse::<Ipv6Addr>().unwrap());
    let mut link = LinkConfig { container_mac: None, ..LinkConfig::default() };
    link.adopt_container_mac(mac);
    let ipv6 = link.ipv6.unwrap();
    assert_eq!((link.container_mac, ipv6.container), (Some(mac), eui64_address(ipv6.prefix, mac)));
}

#[test]
fn random_ethernet_address_is_local_unicast_and_not_the_gateways() {
    for random in [0, u64::MAX, 0x0102_0304_0506_0708, 0x0067_7700_0002_0000] {
        let mac = random_mac(random);
        assert_eq!(mac.0[0] & 0x03, 0x02, "{mac}");
        assert!(mac.is_unicast() && mac != GATEWAY_MAC, "{mac}");
    }
    assert_ne!(random_mac(1 << 16), random_mac(2 << 16));
}
