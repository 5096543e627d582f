//! Tests of `dhcpv6`, sentences of its behaviour. Requests are written and answers read by `dhcproto`.

use super::*;
use crate::config::{Aliases, Offers, Services};
use crate::stack::emit::tests::{ETHERNET, Link, link_config};
use crate::wire::frame::{self, Body};
use crate::wire::ip;
use dhcproto::v6::{self, DhcpOption, MessageType, ORO, OptionCode};
use dhcproto::{Decodable, Encodable};

const CLIENT: &str = "fe80::99";
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 2];

fn config(dns: bool) -> Config {
    let services = Services { dns, dhcpv6: true, ..Services::default() };
    Config { services, ..Config::on(link_config()) }
}

fn information_request(options: &[DhcpOption]) -> v6::Message {
    let mut message = v6::Message::new_with_id(MessageType::InformationRequest, [1, 2, 3]);
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message
}

fn ask(config: &Config, message: &v6::Message) -> Result<v6::Message, DropReason> {
    let mut link = Link::default();
    let source = CLIENT.parse().unwrap();
    handle_message(config, &message.to_vec().unwrap(), source, &ETHERNET, &mut link)?;
    assert_eq!(link.frames.len(), 1);
    assert!(!link.frames[0].meta.checksum_partial);
    let frame = frame::parse(&link.frames[0].bytes).unwrap();
    assert_eq!((frame.source, frame.destination), (ETHERNET.source, ETHERNET.destination));
    let Body::Ip(packet) = frame.body else { panic!("not IP") };
    // RFC 8415 §7.2: to the port of clients, wherever the request came from.
    assert_eq!((packet.source, packet.destination), ("fe80::2".parse().unwrap(), source));
    assert!(ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, packet.payload));
    let datagram = udp::parse(packet.payload).unwrap();
    assert_eq!((datagram.source_port, datagram.destination_port), (547, 546));
    Ok(v6::Message::from_bytes(datagram.payload).unwrap())
}

#[test]
fn an_information_request_is_answered_with_the_resolver() {
    let client = DhcpOption::ClientId(vec![0, 1, 9, 9]);
    let asked =
        DhcpOption::ORO(ORO { opts: vec![OptionCode::DomainSearchList, OptionCode::DomainNameServers] });
    for options in [&[client.clone()][..], &[client.clone(), asked]] {
        let reply = ask(&config(true), &information_request(options)).unwrap();
        assert_eq!((reply.msg_type(), reply.xid()), (MessageType::Reply, [1, 2, 3]));
        let options = reply.opts();
        assert_eq!(options.get(OptionCode::ClientId), Some(&client));
        assert_eq!(options.get(OptionCode::ServerId), Some(&DhcpOption::ServerId(DUID.into())));
        let dns: Ipv6Addr = "fd00::3".parse().unwrap();
        let expected = DhcpOption::DomainNameServers(vec![dns]);
        assert_eq!(options.get(OptionCode::DomainNameServers), Some(&expected));
    }
}

#[test]
fn the_resolver_is_named_only_to_who_asks_and_where_there_is_one() {
    let asked = DhcpOption::ORO(ORO { opts: vec![OptionCode::DomainSearchList] });
    let reply = ask(&config(true), &information_request(&[asked])).unwrap();
    assert_eq!(reply.opts().get(OptionCode::DomainNameServers), None);
    let reply = ask(&config(false), &information_request(&[])).unwrap();
    assert_eq!(reply.opts().iter().count(), 1, "who we are, and no more");
}

#[test]
fn a_request_to_us_is_answered_and_one_to_another_is_not() {
    let ours = DhcpOption::ServerId(DUID.into());
    assert!(ask(&config(true), &information_request(&[ours])).is_ok());
    let other = DhcpOption::ServerId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9]);
    let outcome = ask(&config(true), &information_request(&[other]));
    assert_eq!(outcome.unwrap_err(), DropReason::DhcpNotServed);
}

#[test]
fn questions_about_addresses_are_not_answered_on_a_private_segment() {
    for kind in [MessageType::Solicit, MessageType::Request, MessageType::Renew, MessageType::Confirm] {
        let message = v6::Message::new_with_id(kind, [1, 2, 3]);
        assert_eq!(ask(&config(true), &message).unwrap_err(), DropReason::DhcpNotServed, "{kind:?}");
    }
    let opts = v6::DhcpOptions::new();
    let association = DhcpOption::IANA(v6::IANA { id: 1, t1: 0, t2: 0, opts });
    let outcome = ask(&config(true), &information_request(&[association]));
    assert_eq!(outcome.unwrap_err(), DropReason::DhcpNotServed, "RFC 8415 §16.12");
}

#[test]
fn garbage_and_a_full_link_are_named() {
    let (config, source) = (config(true), CLIENT.parse().unwrap());
    let outcome = handle_message(&config, &[11, 0], source, &ETHERNET, &mut Link::default());
    assert_eq!(outcome, Err(DropReason::DhcpInvalid));
    let request = information_request(&[]).to_vec().unwrap();
    let mut full = Link { room: 0, ..Link::default() };
    assert_eq!(handle_message(&config, &request, source, &ETHERNET, &mut full), Err(DropReason::LinkFull));
}

/// An instance whose container shares the host's address.
fn shared() -> Config {
    let mut config = config(true);
    config.link.segment = Segment::Shared(Aliases::default());
    config
}

fn own_address() -> Ipv6Addr {
    link_config().ipv6.unwrap().container
}

fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let mut opts = v6::DhcpOptions::new();
    for &addr in addresses {
        let none = v6::DhcpOptions::new();
        opts.insert(DhcpOption::IAAddr(v6::IAAddr { addr, preferred_life: 9, valid_life: 9, opts: none }));
    }
    DhcpOption::IANA(v6::IANA { id, t1: 0, t2: 0, opts })
}

fn to_server(kind: MessageType, options: &[DhcpOption]) -> v6::Message {
    let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
    message.opts_mut().insert(DhcpOption::ClientId(vec![0, 1, 9, 9]));
    options.iter().for_each(|option| message.opts_mut().insert(option.clone()));
    message
}

/// Addresses of the first association of an answer, with how long each is valid.
fn leased(reply: &v6::Message) -> Vec<(Ipv6Addr, u32)> {
    let Some(DhcpOption::IANA(association)) = reply.opts().get(OptionCode::IANA) else { return Vec::new() };
    let addresses = association.opts.iter().filter_map(|option| match option {
        DhcpOption::IAAddr(address) => Some((address.addr, address.valid_life)),
        _ => None,
    });
    addresses.collect()
}

#[test]
fn on_a_shared_segment_the_container_is_given_the_hosts_address() {
    let (config, server, wanted) = (shared(), DhcpOption::ServerId(DUID.into()), association(5, &[]));
    let advertised = ask(&config, &to_server(MessageType::Solicit, std::slice::from_ref(&wanted))).unwrap();
    assert_eq!(advertised.msg_type(), MessageType::Advertise);
    assert_eq!(leased(&advertised), [(own_address(), 86_400)]);
    let at_once =
        ask(&config, &to_server(MessageType::Solicit, &[wanted.clone(), DhcpOption::RapidCommit])).unwrap();
    assert_eq!(at_once.msg_type(), MessageType::Reply);
    assert!(at_once.opts().get(OptionCode::RapidCommit).is_some());
    for kind in [MessageType::Request, MessageType::Renew] {
        let reply = ask(&config, &to_server(kind, &[wanted.clone(), server.clone()])).unwrap();
        assert_eq!(reply.msg_type(), MessageType::Reply, "{kind:?}");
        assert_eq!(leased(&reply), [(own_address(), 86_400)]);
        let dns = link_config().ipv6.unwrap().dns.unwrap();
        let dns = DhcpOption::DomainNameServers(vec![dns]);
        assert_eq!(reply.opts().get(OptionCode::DomainNameServers), Some(&dns));
    }
    let stale: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let reply = ask(&config, &to_server(MessageType::Rebind, &[association(5, &[stale])])).unwrap();
    assert_eq!(leased(&reply), [(own_address(), 86_400), (stale, 0)], "RFC 8415 §18.3.5");
}

#[test]
fn what_is_not_to_be_had_is_refused_by_name() {
    let opts = v6::DhcpOptions::new();
    let prefix = DhcpOption::IAPD(v6::IAPD { id: 8, t1: 0, t2: 0, opts: opts.clone() });
    let temporary = DhcpOption::IATA(v6::IATA { id: 9, opts });
    let wanted = [association(5, &[]), association(6, &[]), prefix, temporary];
    let reply = ask(&shared(), &to_server(MessageType::Solicit, &wanted)).unwrap();
    let status = |opts: &v6::DhcpOptions| match opts.get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(code)) => Some(code.status),
        _ => None,
    };
    let told = reply.opts().iter().filter_map(|option| match option {
        DhcpOption::IANA(of) => Some((of.id, status(&of.opts))),
        DhcpOption::IAPD(of) => Some((of.id, status(&of.opts))),
        DhcpOption::IATA(of) => Some((of.id, status(&of.opts))),
        _ => None,
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|(id, _)| *id);
    let none = Some(v6::Status::NoAddrsAvail);
    // The writer puts them in an order of its own.
    assert!(told[..2] == [(5, None), (6, none)] || told[..2] == [(5, none), (6, None)], "{told:?}");
    assert_eq!(told[2..], [(8, Some(v6::Status::NoPrefixAvail)), (9, none)]);
}

#[test]
fn addresses_are_confirmed_where_they_belong_and_given_back_without_ado() {
    let status =
        |message: &v6::Message| match ask(&shared(), message).unwrap().opts().get(OptionCode::StatusCode) {
            Some(DhcpOption::StatusCode(code)) => code.status,
            other => panic!("{other:?}"),
        };
    let confirm = |address: Ipv6Addr| to_server(MessageType::Confirm, &[association(5, &[address])]);
    assert_eq!(status(&confirm(own_address())), v6::Status::Success);
    assert_eq!(status(&confirm("2001:db8::1".parse().unwrap())), v6::Status::NotOnLink);
    for kind in [MessageType::Release, MessageType::Decline] {
        let options = [association(5, &[own_address()]), DhcpOption::ServerId(DUID.into())];
        assert_eq!(status(&to_server(kind, &options)), v6::Status::Success, "{kind:?}");
    }
}

#[test]
fn messages_that_the_rfc_has_a_server_discard_are_not_answered() {
    let (config, wanted) = (shared(), association(5, &[]));
    let (ours, others) = (DhcpOption::ServerId(DUID.into()), DhcpOption::ServerId(vec![9]));
    let is_served = |kind, options: &[DhcpOption]| ask(&config, &to_server(kind, options)).is_ok();
    assert!(!is_served(MessageType::Solicit, &[wanted.clone(), ours.clone()]), "RFC 8415 §16.2");
    assert!(!is_served(MessageType::Request, std::slice::from_ref(&wanted)), "RFC 8415 §16.4");
    assert!(!is_served(MessageType::Renew, &[wanted.clone(), others]), "RFC 8415 §16.6");
    assert!(!is_served(MessageType::Rebind, &[wanted.clone(), ours.clone()]), "RFC 8415 §16.7");
    assert!(!is_served(MessageType::Confirm, std::slice::from_ref(&wanted)), "about no address");
    assert!(!is_served(MessageType::Solicit, &[]), "for nothing");
    let mut nobody = v6::Message::new_with_id(MessageType::Solicit, [1, 2, 3]);
    nobody.opts_mut().insert(wanted);
    assert!(ask(&config, &nobody).is_err(), "RFC 8415 §16.2: from nobody");
}

#[test]
fn offers_are_told_over_dhcpv6_too() {
    let resolver: Ipv6Addr = "2001:db8::53".parse().unwrap();
    let offers = Offers {
        resolvers: Some(vec!["192.0.2.53".parse().unwrap(), resolver.into()]),
        search: vec!["example.org".into()],
        ..Offers::default()
    };
    let reply = ask(&Config { offers, ..shared() }, &information_request(&[])).unwrap();
    let options = reply.opts();
    assert_eq!(
        options.get(OptionCode::DomainNameServers),
        Some(&DhcpOption::DomainNameServers(vec![resolver]))
    );
    let search = dhcproto::Name::from_ascii("example.org.").unwrap();
    assert_eq!(options.get(OptionCode::DomainSearchList), Some(&DhcpOption::DomainSearchList(vec![search])));
}
