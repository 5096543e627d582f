//! Ports that come and go while the network is up.

use netferry::config::PortProtocol::{Tcp, Udp};
use netferry::config::{PortProtocol, PublishRule};
use netferry::stack::boundary::ListenerId;
use netferry::stack::drop_reason::DropReason;
use netferry::stack::publish::PublishRefusal;

use crate::app::{Ending, Script};
use crate::clock::{ms, secs};
use crate::world::{CONTAINER, GATEWAY, Settings, World, at};

const CLIENT: &str = "198.51.100.9:33333";

fn rule(protocol: PortProtocol, host_port: u16, container_port: u16) -> PublishRule {
    PublishRule {
        protocol,
        host_address: "0.0.0.0".parse().unwrap(),
        host_port,
        interface: None,
        container_address: None,
        container_port,
    }
}

#[test]
fn a_port_published_later_is_reached_like_any_other() {
    let mut world = World::new(Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80));
    let stream = world.guest.listen(81, Script::container(1, 200_000));
    let ListenerId(later) = world.stack.publish(rule(Tcp, 8081, 81)).unwrap();
    assert_ne!(later, 0, "the first has its number");
    world.client_connects(later, at(CLIENT), Script::host(1, 100_000)).unwrap();
    world.run_until(secs(20), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(at(CLIENT)));
    assert_eq!(world.guest.streams[stream.0].remote.or(Some(at(CLIENT))), Some(at(CLIENT)));
    world.finish();
}

#[test]
fn connections_outlive_the_port_they_came_by() {
    let mut world = World::new(Settings::default());
    let stream = world.guest.listen(80, Script::container(1, 200_000));
    let listener = world.stack.publish(rule(Tcp, 8080, 80)).unwrap();
    world.client_connects(listener.0, at(CLIENT), Script::host(1, 100_000)).unwrap();
    world.run_for(ms(2));
    assert_eq!(world.stack.unpublish(listener), Some(rule(Tcp, 8080, 80)));
    assert_eq!(world.stack.unpublish(listener), None, "there is none any more");
    let late = world.client_connects(listener.0, at("198.51.100.9:33334"), Script::host(1, 10));
    assert_eq!((late, world.rejected.as_slice()), (None, &[DropReason::Denied][..]));
    world.run_until(secs(20), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(at(CLIENT)));
    world.finish();
}

#[test]
fn exchanges_of_datagrams_end_with_their_port() {
    let mut world = World::new(Settings::default());
    let server = world.guest.udp_bind(53);
    let listener = world.stack.publish(rule(Udp, 5353, 53)).unwrap();
    let local = "192.0.2.7".parse().unwrap();
    world.host.send_to_listener(listener, at(CLIENT), local, b"question");
    world.run_for(ms(50));
    assert_eq!(world.guest.udp_received(server).len(), 1);
    assert_eq!(world.stack.flow_count(), 1);
    world.stack.unpublish(listener);
    assert_eq!(world.stack.flow_count(), 0);
    world.host.send_to_listener(listener, at(CLIENT), local, b"another");
    world.run_for(ms(50));
    assert_eq!(world.guest.udp_received(server).len(), 1, "nothing comes in any more");
    // The number is not given to the next, for which something may be on its way.
    assert_ne!(world.stack.publish(rule(Udp, 5353, 53)).unwrap(), listener);
    world.finish();
}

#[test]
fn more_ports_than_the_limit_are_refused_until_one_goes() {
    let mut world = World::new(Settings::default().with(|config| config.limits.published_ports = 3));
    let ports: Vec<_> = (0..3).map(|port| world.stack.publish(rule(Tcp, 8000 + port, 80)).unwrap()).collect();
    assert_eq!(world.stack.publish(rule(Tcp, 9000, 80)), Err(PublishRefusal::TooMany(3)));
    world.stack.unpublish(ports[1]);
    world.stack.publish(rule(Tcp, 9000, 80)).unwrap();
    assert_eq!(world.stack.published().count(), 3);
}

#[test]
fn only_the_containers_addresses_are_published() {
    let mut world = World::new(Settings::default());
    let with = |address: &str| PublishRule {
        container_address: Some(address.parse().unwrap()),
        ..rule(Tcp, 8080, 80)
    };
    for address in ["192.168.7.7", "127.0.0.1", "10.0.2.255", "fd00::100", &GATEWAY.to_string()] {
        let refused = world.stack.publish(with(address));
        assert_eq!(refused, Err(PublishRefusal::NotTheContainers), "{address}");
    }
    let listener = world.stack.publish(with(&CONTAINER.to_string())).unwrap();
    let stream = world.guest.listen(80, Script::container(1, 10).ending(Ending::AfterPeerEnds));
    world.client_connects(listener.0, at(CLIENT), Script::host(1, 10)).unwrap();
    world.run_until(secs(5), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(at(CLIENT)));
    // Another address of the link, as a lease would give it: asked for, and so sent there.
    let leased = world.stack.publish(with("10.0.2.15")).unwrap();
    world.client_connects(leased.0, at("198.51.100.9:33335"), Script::host(1, 10)).unwrap();
    world.run_for(ms(10));
    let sent = world.sent_packets().filter(|ip| ip.destination.to_string() == "10.0.2.15").count();
    assert!(sent > 0, "no segment went there");
}
