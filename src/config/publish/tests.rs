//! Tests of the arguments of `--publish` and of the rules made of them.

use super::*;
use crate::config::limits::Limits;
use proptest::prelude::*;
use rstest::rstest;

fn rules(specs: &[&str], link: &LinkConfig) -> Result<Vec<String>, PublishError> {
    let specs: Vec<PublishSpec> = specs.iter().map(|text| text.parse().unwrap()).collect();
    let rules = resolve(&specs, link, Limits::default().published_ports)?;
    Ok(rules.iter().map(ToString::to_string).collect())
}

fn ipv4_only() -> LinkConfig {
    LinkConfig { ipv6: None, ..LinkConfig::default() }
}

#[rstest]
#[case("8080", "8080:8080/tcp")]
#[case("8080:80", "8080:80/tcp")]
#[case("8080:80/tcp", "8080:80/tcp")]
#[case("5353:53/udp", "5353:53/udp")]
#[case("53/udp", "53:53/udp")]
#[case("8000-8002", "8000-8002:8000-8002/tcp")]
#[case("8000-8002:80-82/udp", "8000-8002:80-82/udp")]
#[case("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp")]
#[case("0.0.0.0:1:65535", "0.0.0.0:1:65535/tcp")]
#[case("[::1]:8080:80", "[::1]:8080:80/tcp")]
#[case("[2001:db8::7]:8000-8001:80-81/udp", "[2001:db8::7]:8000-8001:80-81/udp")]
#[case("7-7:8-8", "7:8/tcp")]
fn well_formed_argument_is_understood(#[case] text: &str, #[case] canonical: &str) {
    assert_eq!(text.parse::<PublishSpec>().unwrap().to_string(), canonical);
}

#[rstest]
#[case("", PublishSpecError::Syntax)]
#[case("/tcp", PublishSpecError::Syntax)]
#[case("[::1", PublishSpecError::Syntax)]
#[case("[::1]80:80", PublishSpecError::Syntax)]
#[case("[::1]:80:80:80", PublishSpecError::TooManyColons)]
#[case("::1:8080:80", PublishSpecError::TooManyColons)]
#[case("1:2:3:4", PublishSpecError::TooManyColons)]
#[case("127.0.0.1:8080", PublishSpecError::OnePortOnly)]
#[case("[::1]:8080", PublishSpecError::OnePortOnly)]
#[case("localhost:80:80", PublishSpecError::Address("localhost".into()))]
#[case("[127.0.0.1]:80:80", PublishSpecError::Address("127.0.0.1".into()))]
#[case("[fe80::1%eth0]:80:80", PublishSpecError::Address("fe80::1%eth0".into()))]
#[case("[fe80::1]:80:80", PublishSpecError::NotAHostAddress("fe80::1".parse().unwrap()))]
#[case(":80:80", PublishSpecError::Address(String::new()))]
#[case("224.0.0.1:80:80", PublishSpecError::NotAHostAddress("224.0.0.1".parse().unwrap()))]
#[case("255.255.255.255:80:80", PublishSpecError::NotAHostAddress("255.255.255.255".parse().unwrap()))]
#[case("[ff02::1]:80:80", PublishSpecError::NotAHostAddress("ff02::1".parse().unwrap()))]
#[case("[::ffff:127.0.0.1]:80:80", PublishSpecError::NotAHostAddress("::ffff:127.0.0.1".parse().unwrap()))]
#[case("http", PublishSpecError::Port("http".into()))]
#[case("80:", PublishSpecError::Port(String::new()))]
#[case(":80", PublishSpecError::Port(String::new()))]
#[case("+80:80", PublishSpecError::Port("+80".into()))]
#[case(" 80:80", PublishSpecError::Port(" 80".into()))]
#[case("65536:80", PublishSpecError::Port("65536".into()))]
#[case("80-:80", PublishSpecError::Port(String::new()))]
#[case("1-2-3:1-3", PublishSpecError::Port("2-3".into()))]
#[case("0:80", PublishSpecError::PortZero)]
#[case("80:0", PublishSpecError::PortZero)]
#[case("0-5:1-6", PublishSpecError::PortZero)]
#[case("90-80:80-90", PublishSpecError::Reversed { first: 90, last: 80 })]
#[case("80-81:80", PublishSpecError::UnequalRanges { host: 2, container: 1 })]
#[case("80:80-89", PublishSpecError::UnequalRanges { host: 1, container: 10 })]
#[case("80:80/sctp", PublishSpecError::Protocol("sctp".into()))]
#[case("80:80/", PublishSpecError::Protocol(String::new()))]
#[case("80:80/tcp/udp", PublishSpecError::Protocol("tcp/udp".into()))]
#[case("80:80/TCP", PublishSpecError::Protocol("TCP".into()))]
fn malformed_argument_is_refused_with_its_reason(#[case] text: &str, #[case] expected: PublishSpecError) {
    assert_eq!(text.parse::<PublishSpec>(), Err(expected));
}

#[test]
fn without_an_address_both_families_listen() {
    assert_eq!(
        rules(&["8080:80"], &LinkConfig::default()),
        Ok(vec!["0.0.0.0:8080->80/tcp".into(), "[::]:8080->80/tcp".into()])
    );
}

#[test]
fn without_an_address_a_family_that_is_off_does_not_listen() {
    assert_eq!(rules(&["8080:80"], &ipv4_only()), Ok(vec!["0.0.0.0:8080->80/tcp".into()]));
}

#[test]
fn range_becomes_a_rule_for_each_port() {
    assert_eq!(
        rules(&["127.0.0.1:65534-65535:1-2/udp"], &LinkConfig::default()),
        Ok(vec!["127.0.0.1:65534->1/udp".into(), "127.0.0.1:65535->2/udp".into()])
    );
}

#[test]
fn address_of_a_family_that_is_off_is_refused() {
    let error = rules(&["[::1]:8080:80"], &ipv4_only()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--publish [::1]:8080:80/tcp: the family of its address is off; give an address of the other, or none for all"
    );
}

#[rstest]
#[case(&["8080:80", "8080:81"])]
#[case(&["8080:80", "127.0.0.1:8080:80"])]
#[case(&["[::1]:8080:80", "8080:80"])]
#[case(&["127.0.0.1:80-90:80-90", "127.0.0.1:90:1"])]
#[case(&["0.0.0.0:53:53/udp", "127.0.0.53:53:53/udp"])]
fn two_rules_for_one_host_port_are_refused(#[case] specs: &[&str]) {
    let error = rules(specs, &LinkConfig::default()).unwrap_err();
    assert!(matches!(error, PublishError::Duplicate { .. }), "{error}");
}

#[test]
fn duplicate_names_both_arguments() {
    assert_eq!(
        rules(&["8080:80", "127.0.0.1:8080:81"], &LinkConfig::default()).unwrap_err().to_string(),
        "--publish 127.0.0.1:8080:81/tcp: host port 8080/tcp is published already by 8080:80/tcp; choose another"
    );
}

#[rstest]
#[case(&["8080:80", "8080:80/udp"])]
#[case(&["0.0.0.0:8080:80", "[::]:8080:80"])]
#[case(&["127.0.0.1:8080:80", "127.0.0.2:8080:80"])]
#[case(&["8080:80", "8081:80"])]
fn rules_that_can_stand_together_do(#[case] specs: &[&str]) {
    assert!(rules(specs, &LinkConfig::default()).is_ok());
}

#[test]
fn number_of_rules_is_bounded() {
    assert_eq!(rules(&["1-4096"], &ipv4_only()).map(|rules| rules.len()), Ok(4_096));
    assert_eq!(rules(&["1-2048"], &LinkConfig::default()).map(|rules| rules.len()), Ok(4_096));
    let too_many = Err(PublishError::TooMany { asked: 4_097, limit: 4_096 });
    assert_eq!(rules(&["1-4096", "5000"], &ipv4_only()), too_many);
}

fn range() -> impl Strategy<Value = (u16, u16)> {
    (1..=u16::MAX, 0u16..100).prop_map(|(first, extra)| (first, first.saturating_add(extra)))
}

proptest! {
    #[test]
    fn text_and_argument_round_trip(
        udp in any::<bool>(),
        address in proptest::option::of(any::<IpAddr>()),
        (first, last) in range(),
        container_first in 1..=u16::MAX,
    ) {
        let protocol = if udp { PortProtocol::Udp } else { PortProtocol::Tcp };
        let host = PortRange::new(first, last).unwrap();
        let container_last = container_first.saturating_add(last - first);
        let container = PortRange::new(container_first, container_last).unwrap();
        if let Ok(spec) = PublishSpec::new(protocol, address, host, container) {
            prop_assert_eq!(spec.to_string().parse::<PublishSpec>(), Ok(spec));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in r"[0-9a-f:.\[\]/\-tcpudp +%]{0,40}|\PC{0,40}") {
        if let Ok(spec) = text.parse::<PublishSpec>() {
            prop_assert_eq!(spec.host_ports.count(), spec.container_ports.count());
            prop_assert_eq!(spec.to_string().parse::<PublishSpec>(), Ok(spec));
        }
    }
}
