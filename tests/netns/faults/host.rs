//! The host's network goes, comes again, and comes as another.

use std::time::Duration;

use super::{Agent, Face, eventually, host_ip, serve_world};
use crate::ground::{Ground, sealed};

/// Where the container can tell the difference: behind an address of its own, and at the host's.
const FACES: [Face; 2] = [Face::Run, Face::Pasta];

/// A connection and a flow of datagrams of each family, that work.
fn hold(agent: &mut Agent) {
    for (suffix, address) in [("4", "198.51.100.7"), ("6", "2001:db8:2::7")] {
        agent.expect(&format!("connect('old{suffix}', '{address}')"), "connected");
        agent.expect(&format!("echo('old{suffix}')"), "echoed");
        agent.expect(&format!("datagrams('flow{suffix}', '{address}')"), "open");
        works(agent, &format!("asks('flow{suffix}')"), "from ");
        agent.expect(&format!("pings('ping{suffix}', '{address}')"), "open");
        works(agent, &format!("echoes('ping{suffix}')"), "answered");
    }
}

#[track_caller]
fn works(agent: &mut Agent, what: &str, wanted: &str) {
    let quoted = wanted.replace('\'', "");
    let answer = agent.ask(&format!("until('{quoted}', \"{what}\")"));
    assert!(answer.contains(wanted), "{what}: {answer}");
}

#[track_caller]
fn pings_go_on(agent: &mut Agent) {
    for ping in ["ping4", "ping6"] {
        works(agent, &format!("echoes('{ping}')"), "answered");
    }
}

/// What the host had of its own, and loses with its link.
fn give_back(ground: &Ground) {
    host_ip(ground, "address add 2001:db8:1::1/64 dev host0 nodad");
    host_ip(ground, "route add default via 203.0.113.2");
    host_ip(ground, "-6 route add default via fe80::1 dev host0");
}

#[test]
fn a_link_of_the_host_that_goes_down_is_told_and_all_go_on_when_it_is_up_again() {
    sealed(|ground| {
        ground.allow_ping();
        serve_world(ground);
        for face in FACES {
            let served = face.serve(ground, &[]);
            let mut agent = served.agent(ground);
            hold(&mut agent);
            host_ip(ground, "link set host0 down");
            for address in ["198.51.100.7", "2001:db8:2::7"] {
                agent.expect(&format!("connect('new', '{address}')"), "ENETUNREACH");
            }
            for flow in ["asks('flow4')", "asks('flow6')", "echoes('ping4')", "echoes('ping6')"] {
                works(&mut agent, flow, "ENETUNREACH");
            }
            agent.begin("echo('old4', 100000)");
            host_ip(ground, "link set host0 up");
            give_back(ground);
            assert_eq!(agent.answer(), "echoed", "{face:?}");
            agent.expect("echo('old6', 100000)", "echoed");
            for (flow, from) in [("flow4", "from 203.0.113.1:"), ("flow6", "from [2001:db8:1::1]:")] {
                works(&mut agent, &format!("asks('{flow}')"), from);
            }
            pings_go_on(&mut agent);
            for address in ["198.51.100.7", "2001:db8:2::7"] {
                works(&mut agent, &format!("connect('new', '{address}')"), "connected");
            }
            assert!(served.cpu() < Duration::from_secs(2), "{:?}", served.cpu());
            drop(agent);
            served.end();
        }
    });
}

#[test]
fn a_route_of_the_host_that_is_gone_is_told_until_it_is_back() {
    sealed(|ground| {
        ground.allow_ping();
        serve_world(ground);
        let served = Face::Run.serve(ground, &[]);
        let mut agent = served.agent(ground);
        hold(&mut agent);
        host_ip(ground, "route del default");
        agent.expect("connect('new')", "ENETUNREACH");
        works(&mut agent, "asks('flow4')", "ENETUNREACH");
        // Who can be reached is.
        works(&mut agent, "asks('flow6')", "from ");
        host_ip(ground, "route add default via 203.0.113.2");
        agent.expect("connect('new')", "connected");
        works(&mut agent, "asks('flow4')", "from ");
        agent.expect("echo('old4', 100000)", "echoed");
        drop(agent);
        served.end();
    });
}

#[test]
fn flows_leave_from_the_address_that_the_host_has_now() {
    sealed(|ground| {
        ground.allow_ping();
        serve_world(ground);
        for face in FACES {
            let served = face.serve(ground, &[]);
            let mut agent = served.agent(ground);
            hold(&mut agent);
            for (family, old, new, length) in
                [("-4", "203.0.113.1", "203.0.113.9", 24), ("-6", "2001:db8:1::1", "2001:db8:1::9", 64)]
            {
                host_ip(ground, &format!("{family} address del {old}/{length} dev host0"));
                host_ip(ground, &format!("{family} address add {new}/{length} dev host0"));
            }
            host_ip(ground, "route replace default via 203.0.113.2");
            eventually("the new address is usable", || {
                !ground.text_of("ip", &["address", "show", "dev", "host0"]).contains("tentative")
            });
            for (flow, from) in [("flow4", "from 203.0.113.9:"), ("flow6", "from [2001:db8:1::9]:")] {
                works(&mut agent, &format!("asks('{flow}')"), from);
            }
            pings_go_on(&mut agent);
            for address in ["198.51.100.7", "2001:db8:2::7"] {
                agent.expect(&format!("connect('new', '{address}')"), "connected");
                agent.expect("echo('new', 100000)", "echoed");
            }
            // A connection is its addresses: as everywhere on this host, it waits for them, or for its kernel to give up.
            agent.begin("echo('old4', 1000)");
            host_ip(ground, "address del 203.0.113.9/24 dev host0");
            host_ip(ground, "address add 203.0.113.1/24 dev host0");
            host_ip(ground, "-6 address del 2001:db8:1::9/64 dev host0");
            host_ip(ground, "-6 address add 2001:db8:1::1/64 dev host0 nodad");
            host_ip(ground, "route replace default via 203.0.113.2");
            assert_eq!(agent.answer(), "echoed", "{face:?}");
            assert!(served.cpu() < Duration::from_secs(2), "{:?}", served.cpu());
            drop(agent);
            served.end();
        }
    });
}
