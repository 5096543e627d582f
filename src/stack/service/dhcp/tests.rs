//! Tests of `dhcp`, sentences of its behaviour. Requests are written and answers read by `dhcproto`.

use super::*;
use crate::config::{DhcpPool, LinkConfig, Offers, Services};
use crate::stack::boundary::Duration;
use crate::stack::emit::tests::{CONTAINER_MAC, GATEWAY_MAC, Link, link_config};
use crate::wire::frame::{self, Body};
use crate::wire::ip;
use dhcproto::v4::{self, DhcpOption, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable, Name};
use proptest::prelude::*;
use rstest::rstest;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const NOW: Instant = Instant::ZERO;
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn at(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, host)
}

fn config() -> Config {
    let dhcp = Some(DhcpPool { first: at(15), last: at(30) });
    let link = LinkConfig { mtu: 1_400, ..link_config() };
    Config { services: Services { dhcp, ..Services::default() }, ..Config::on(link) }
}

fn server() -> DhcpServer {
    DhcpServer::new(&config()).unwrap()
}

/// A message of the container.
fn message(kind: MessageType, ciaddr: Ipv4Addr, options: &[DhcpOption]) -> v4::Message {
    let mut message = v4::Message::new_with_id(7, ciaddr, NONE, NONE, NONE, &CONTAINER_MAC.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message
}

/// An answer, with the addresses it went to.
#[derive(Debug)]
struct Heard {
    mac: MacAddr,
    destination: Ipv4Addr,
    message: v4::Message,
}

impl Heard {
    fn kind(&self) -> MessageType {
        self.message.opts().msg_type().unwrap()
    }

    fn option(&self, code: OptionCode) -> Option<DhcpOption> {
        self.message.opts().get(code).cloned()
    }
}

/// What the server answers to `message`.
fn ask(server: &mut DhcpServer, message: &v4::Message, now: Instant) -> Result<Option<Heard>, DropReason> {
    let mut link = Link::default();
    server.handle_message(&message.to_vec().unwrap(), now, &mut link)?;
    let Some(sent) = link.frames.pop() else { return Ok(None) };
    assert!(link.frames.is_empty(), "one answer at most");
    assert!(!sent.meta.checksum_partial, "packet sockets want a complete checksum");
    let frame = frame::parse(&sent.bytes).unwrap();
    assert_eq!(frame.source, GATEWAY_MAC);
    let Body::Ip(packet) = frame.body else { panic!("not IP") };
    assert!(ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, packet.payload));
    assert_eq!(packet.source, GATEWAY);
    let std::net::IpAddr::V4(destination) = packet.destination else { panic!("not IPv4") };
    let datagram = udp::parse(packet.payload).unwrap();
    assert_eq!((datagram.source_port, datagram.destination_port), (67, 68));
    let message = v4::Message::from_bytes(datagram.payload).unwrap();
    assert_eq!((message.xid(), message.chaddr()), (7, &CONTAINER_MAC.0[..]));
    Ok(Some(Heard { mac: frame.destination, destination, message }))
}

fn heard(server: &mut DhcpServer, message: &v4::Message) -> Heard {
    ask(server, message, NOW).unwrap().expect("an answer")
}

fn identifier(number: u8) -> DhcpOption {
    DhcpOption::ClientIdentifier(vec![255, number])
}

#[test]
fn discover_and_request_lead_to_the_lowest_address_and_all_of_the_network() {
    let mut server = server();
    let offer = heard(&mut server, &message(MessageType::Discover, NONE, &[]));
    assert_eq!((offer.kind(), offer.message.yiaddr()), (MessageType::Offer, at(15)));
    // RFC 2131 §4.1: to the address it will have, by its link address, as ARP would fail.
    assert_eq!((offer.destination, offer.mac), (at(15), CONTAINER_MAC));
    let request = message(
        MessageType::Request,
        NONE,
        &[DhcpOption::RequestedIpAddress(at(15)), DhcpOption::ServerIdentifier(GATEWAY)],
    );
    let ack = heard(&mut server, &request);
    assert_eq!((ack.kind(), ack.message.yiaddr(), ack.message.ciaddr()), (MessageType::Ack, at(15), NONE));
    for expected in [
        DhcpOption::ServerIdentifier(GATEWAY),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::BroadcastAddr(at(255)),
        DhcpOption::Router(vec![GATEWAY]),
        DhcpOption::DomainNameServer(vec![at(3)]),
        DhcpOption::InterfaceMtu(1_400),
        DhcpOption::AddressLeaseTime(86_400),
        DhcpOption::Renewal(43_200),
        DhcpOption::Rebinding(75_600),
    ] {
        let code = OptionCode::from(&expected);
        assert_eq!(offer.option(code), Some(expected.clone()), "the offer");
        assert_eq!(ack.option(code), Some(expected), "the acknowledgement");
    }
}

#[test]
fn no_resolver_is_named_where_there_is_none() {
    let mut config = config();
    config.services.dns = false;
    let mut server = DhcpServer::new(&config).unwrap();
    let offer = heard(&mut server, &message(MessageType::Discover, NONE, &[]));
    assert_eq!(offer.option(OptionCode::DomainNameServer), None);
    assert!(offer.option(OptionCode::Router).is_some());
}

#[test]
fn there_is_no_server_without_a_pool_or_without_ipv4() {
    let mut config = config();
    config.link.ipv4 = None;
    assert!(DhcpServer::new(&config).is_none());
    config.link.ipv4 = link_config().ipv4;
    config.services.dhcp = None;
    assert!(DhcpServer::new(&config).is_none());
}

#[test]
fn who_cannot_receive_unicast_is_answered_by_broadcast() {
    let mut server = server();
    let mut discover = message(MessageType::Discover, NONE, &[]);
    discover.set_flags(v4::Flags::default().set_broadcast());
    let offer = heard(&mut server, &discover);
    assert_eq!((offer.destination, offer.mac), (Ipv4Addr::BROADCAST, MacAddr::BROADCAST));
    assert_eq!(offer.message.yiaddr(), at(15));
    assert!(offer.message.flags().broadcast());
}

#[test]
fn a_renewal_is_acknowledged_to_the_address_it_renews() {
    let mut server = server();
    heard(&mut server, &message(MessageType::Request, NONE, &[DhcpOption::RequestedIpAddress(at(15))]));
    let mut renewal = message(MessageType::Request, at(15), &[]);
    // The flag does not count for who has an address.
    renewal.set_flags(v4::Flags::default().set_broadcast());
    let half = NOW + Duration::from_secs(43_200);
    let ack = ask(&mut server, &renewal, half).unwrap().unwrap();
    assert_eq!((ack.kind(), ack.message.yiaddr(), ack.message.ciaddr()), (MessageType::Ack, at(15), at(15)));
    assert_eq!((ack.destination, ack.mac), (at(15), CONTAINER_MAC));
    // It now lasts until half a day after its first end.
    let other =
        message(MessageType::Discover, NONE, &[identifier(9), DhcpOption::RequestedIpAddress(at(15))]);
    let first_end = NOW + Duration::from_secs(86_400);
    assert_eq!(ask(&mut server, &other, first_end).unwrap().unwrap().message.yiaddr(), at(16));
    let second_end = half + Duration::from_secs(86_400);
    let request =
        message(MessageType::Request, NONE, &[identifier(8), DhcpOption::RequestedIpAddress(at(15))]);
    assert_eq!(ask(&mut server, &request, second_end).unwrap().unwrap().kind(), MessageType::Ack);
}

#[rstest]
#[case::free(at(22), MessageType::Ack)]
#[case::outside_the_pool(at(100), MessageType::Nak)]
#[case::the_gateways(GATEWAY, MessageType::Nak)]
#[case::of_another_network(Ipv4Addr::new(192, 168, 1, 7), MessageType::Nak)]
#[case::somebody_elses(at(15), MessageType::Nak)]
fn a_client_that_was_here_before_learns_at_once_whether_its_address_holds(
    #[case] address: Ipv4Addr,
    #[case] expected: MessageType,
) {
    // Named in an option after a reboot, in `ciaddr` when rebinding.
    let reboot = message(MessageType::Request, NONE, &[DhcpOption::RequestedIpAddress(address)]);
    for request in [reboot, message(MessageType::Request, address, &[])] {
        let mut server = server();
        let other = [identifier(1), DhcpOption::RequestedIpAddress(at(15))];
        heard(&mut server, &message(MessageType::Request, NONE, &other));
        let answer = heard(&mut server, &request);
        assert_eq!(answer.kind(), expected);
        if expected == MessageType::Nak {
            assert_eq!((answer.destination, answer.mac), (Ipv4Addr::BROADCAST, MacAddr::BROADCAST));
            assert_eq!((answer.message.yiaddr(), answer.message.ciaddr()), (NONE, NONE));
            // RFC 2131, table 3: no lease and no network.
            assert_eq!(answer.message.opts().len(), 2);
        }
    }
}

#[test]
fn a_choice_for_another_server_frees_the_offer() {
    let mut server = server();
    heard(&mut server, &message(MessageType::Discover, NONE, &[]));
    let elsewhere = [DhcpOption::RequestedIpAddress(at(99)), DhcpOption::ServerIdentifier(at(77))];
    let outcome = ask(&mut server, &message(MessageType::Request, NONE, &elsewhere), NOW);
    assert_eq!(outcome.unwrap_err(), DropReason::DhcpNotServed);
    let next = heard(&mut server, &message(MessageType::Discover, NONE, &[identifier(2)]));
    assert_eq!(next.message.yiaddr(), at(15));
}

#[test]
fn a_client_identifier_names_the_client_and_is_repeated() {
    let mut server = server();
    for (number, host) in [(1, 15), (2, 16), (1, 15)] {
        let offer = heard(&mut server, &message(MessageType::Discover, NONE, &[identifier(number)]));
        assert_eq!(offer.message.yiaddr(), at(host));
        assert_eq!(offer.option(OptionCode::ClientIdentifier), Some(identifier(number)), "RFC 6842");
    }
}

#[test]
fn a_declined_address_is_not_offered_again() {
    let mut server = server();
    let discover = message(MessageType::Discover, NONE, &[]);
    assert_eq!(heard(&mut server, &discover).message.yiaddr(), at(15));
    let decline = [DhcpOption::RequestedIpAddress(at(15)), DhcpOption::ServerIdentifier(GATEWAY)];
    let decline = message(MessageType::Decline, NONE, &decline);
    assert!(ask(&mut server, &decline, NOW).unwrap().is_none(), "there is no answer to it");
    assert_eq!(heard(&mut server, &discover).message.yiaddr(), at(16));
    assert_eq!(ask(&mut server, &decline, NOW).unwrap_err(), DropReason::DhcpNotServed);
}

#[test]
fn a_released_address_is_free() {
    let mut server = server();
    heard(&mut server, &message(MessageType::Request, NONE, &[DhcpOption::RequestedIpAddress(at(15))]));
    let release = message(MessageType::Release, at(15), &[DhcpOption::ServerIdentifier(GATEWAY)]);
    assert!(ask(&mut server, &release, NOW).unwrap().is_none());
    let other = [identifier(1), DhcpOption::RequestedIpAddress(at(15))];
    assert_eq!(heard(&mut server, &message(MessageType::Request, NONE, &other)).kind(), MessageType::Ack);
}

#[test]
fn who_has_an_address_of_its_own_is_told_the_rest() {
    let mut server = server();
    let ack = heard(&mut server, &message(MessageType::Inform, at(100), &[]));
    assert_eq!((ack.kind(), ack.destination, ack.mac), (MessageType::Ack, at(100), CONTAINER_MAC));
    assert_eq!((ack.message.ciaddr(), ack.message.yiaddr()), (at(100), NONE));
    assert_eq!(ack.option(OptionCode::AddressLeaseTime), None, "RFC 2131 §4.3.5");
    assert_eq!(ack.option(OptionCode::Renewal), None);
    assert_eq!(ack.option(OptionCode::DomainNameServer), Some(DhcpOption::DomainNameServer(vec![at(3)])));
    for address in [NONE, GATEWAY, at(255), Ipv4Addr::new(192, 168, 1, 7), Ipv4Addr::BROADCAST] {
        let outcome = ask(&mut server, &message(MessageType::Inform, address, &[]), NOW);
        assert_eq!(outcome.unwrap_err(), DropReason::DhcpInvalid, "{address}");
    }
}

#[test]
fn requests_without_an_address_and_relayed_ones_are_refused() {
    let mut server = server();
    for kind in [MessageType::Request, MessageType::Decline] {
        let outcome = ask(&mut server, &message(kind, NONE, &[]), NOW);
        assert_eq!(outcome.unwrap_err(), DropReason::DhcpInvalid, "{kind:?}");
    }
    let mut relayed = message(MessageType::Discover, NONE, &[]);
    relayed.set_giaddr(at(50));
    assert_eq!(ask(&mut server, &relayed, NOW).unwrap_err(), DropReason::DhcpNotServed);
    let mut ours = message(MessageType::Discover, NONE, &[]);
    ours.set_chaddr(&GATEWAY_MAC.0);
    assert_eq!(ask(&mut server, &ours, NOW).unwrap_err(), DropReason::DhcpNotServed);
    let garbage = server.handle_message(b"garbage", NOW, &mut Link::default());
    assert_eq!(garbage, Err(DropReason::DhcpInvalid));
}

#[test]
fn an_exhausted_pool_offers_nothing_until_offers_lapse() {
    let mut server = server();
    for number in 0..16 {
        heard(&mut server, &message(MessageType::Discover, NONE, &[identifier(number)]));
    }
    let late = message(MessageType::Discover, NONE, &[identifier(99)]);
    assert_eq!(ask(&mut server, &late, NOW).unwrap_err(), DropReason::DhcpPoolEmpty);
    assert!(ask(&mut server, &late, NOW + Duration::from_secs(60)).unwrap().is_some());
}

#[test]
fn a_full_link_is_named() {
    let discover = message(MessageType::Discover, NONE, &[]).to_vec().unwrap();
    let outcome = server().handle_message(&discover, NOW, &mut Link { room: 0, ..Link::default() });
    assert_eq!(outcome, Err(DropReason::LinkFull));
}

#[test]
fn the_smallest_mtu_carries_the_longest_answer() {
    let mut config = config();
    config.link.mtu = crate::config::address::MIN_MTU_IPV4;
    let mut server = DhcpServer::new(&config).unwrap();
    let identifier = DhcpOption::ClientIdentifier(vec![9; dhcp::MAX_CLIENT_IDENTIFIER]);
    let offer = heard(&mut server, &message(MessageType::Discover, NONE, &[identifier]));
    assert_eq!(offer.kind(), MessageType::Offer);
}

proptest! {
    /// Answers go to the asking interface, or to all, and never to an address that is not on the link.
    #[test]
    fn hostile_clients_direct_no_answer_elsewhere(
        steps in prop::collection::vec((1u8..9, any::<u32>(), 10u8..34, any::<bool>(), 0u8..40, any::<bool>()), 1..60),
    ) {
        let mut server = server();
        for (kind, foreign, host, is_foreign, client, broadcast) in steps {
            let address = if is_foreign { foreign.into() } else { at(host) };
            let in_option = DhcpOption::RequestedIpAddress(address);
            for (ciaddr, options) in [(address, vec![identifier(client)]), (NONE, vec![identifier(client), in_option])] {
                let mut message = message(MessageType::from(kind), ciaddr, &options);
                if broadcast {
                    message.set_flags(v4::Flags::default().set_broadcast());
                }
                if let Ok(Some(heard)) = ask(&mut server, &message, NOW) {
                    prop_assert!(heard.destination.is_broadcast() || leases::is_assignable(&server.ipv4, heard.destination));
                    prop_assert!(heard.mac == CONTAINER_MAC || heard.mac == MacAddr::BROADCAST);
                    let given = heard.message.yiaddr();
                    prop_assert!(given.is_unspecified() || (at(15)..=at(30)).contains(&given));
                }
            }
        }
    }
}

#[test]
fn offers_are_told_and_the_name_in_full_to_who_asks() {
    let offers = Offers {
        resolvers: Some(vec!["192.0.2.53".parse().unwrap(), "fd00::53".parse().unwrap(), at(9).into()]),
        search: vec!["example.org".into(), "lan".into()],
        hostname: Some("box".into()),
        fqdn: Some("box.example.org".into()),
    };
    let mut server = DhcpServer::new(&Config { offers, ..config() }).unwrap();
    let heard = |server: &mut DhcpServer, options: &[DhcpOption]| {
        heard(server, &message(MessageType::Discover, NONE, options))
    };
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let offer = heard(&mut server, &[]);
    for expected in [
        DhcpOption::DomainNameServer(vec!["192.0.2.53".parse().unwrap(), at(9)]),
        DhcpOption::DomainSearch(vec![name("example.org."), name("lan.")]),
        DhcpOption::Hostname("box".into()),
    ] {
        assert_eq!(offer.option(OptionCode::from(&expected)), Some(expected));
    }
    assert_eq!(offer.option(OptionCode::ClientFQDN), None);
    assert_eq!(offer.option(OptionCode::ClasslessStaticRoute), None, "the gateway is a neighbor");
    let asked = DhcpOption::ParameterRequestList(vec![OptionCode::ClientFQDN]);
    let told = v4::fqdn::ClientFQDN::new(0x0c.into(), name("box.example.org."));
    assert_eq!(
        heard(&mut server, &[asked]).option(OptionCode::ClientFQDN),
        Some(DhcpOption::ClientFQDN(told))
    );
}

#[test]
fn a_gateway_outside_the_subnet_is_reached_by_a_route_of_its_own() {
    let mut config = config();
    let gateway = Ipv4Addr::new(203, 0, 113, 1);
    config.link.ipv4.as_mut().unwrap().gateway = gateway;
    let network = DhcpServer::new(&config).unwrap().network;
    assert!(network.router_is_elsewhere);
    assert_eq!(network.router, gateway);
}

#[test]
fn answers_are_as_large_as_client_and_link_take() {
    let search = (0..200).map(|number| format!("a{number}.example")).collect();
    let offers = Offers { search, ..Offers::default() };
    let mut server = DhcpServer::new(&Config { offers, ..config() }).unwrap();
    for (size, expected) in [(None, 576), (Some(0), 576), (Some(1_000), 1_000), (Some(u16::MAX), 1_400)] {
        let options: Vec<_> = size.map(DhcpOption::MaxMessageSize).into_iter().collect();
        let mut link = Link::default();
        let request = message(MessageType::Discover, NONE, &options).to_vec().unwrap();
        server.handle_message(&request, NOW, &mut link).unwrap();
        let len = link.frames[0].bytes.len() - 14;
        assert!(len <= expected && len > expected - 20, "{size:?}: {len}");
    }
}
