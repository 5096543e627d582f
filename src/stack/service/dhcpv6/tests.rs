//! Tests of `dhcpv6`, sentences of its behaviour. Requests are written and answers read by `dhcproto`.

use super::*;
use crate::config::{Limits, OutboundAddresses, Services, Timeouts, UdpMapping};
use crate::stack::emit::tests::{ETHERNET, Link, link_config};
use crate::wire::frame::{self, Body};
use crate::wire::ip;
use dhcproto::v6::{self, DhcpOption, MessageType, ORO, OptionCode};
use dhcproto::{Decodable, Encodable};
use std::net::Ipv6Addr;

const CLIENT: &str = "fe80::99";
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 2];

fn config(dns: bool) -> Config {
    Config {
        link: link_config(),
        host_loopback: false,
        transports: Default::default(),
        offers: Default::default(),
        local_clients: Default::default(),
        services: Services { dns, dhcp: None, dhcpv6: true, ..Services::default() },
        outbound: OutboundAddresses::default(),
        udp_mapping: UdpMapping::Connected,
        publish: Vec::new(),
        host_addresses: Vec::new(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    }
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
fn questions_about_addresses_are_not_answered() {
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
