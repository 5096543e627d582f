//! Configuring the container's network, checked with `ip` and with sockets.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use netferry::sys::host::own_addresses;
use netferry::sys::netlink::{Netlink, NetlinkError};
use netferry::sys::sysctl::{permit_low_ports, permit_ping, settle_ipv6};
use netferry::sys::tap::{Tap, TapFeatures};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Case;
use crate::container::{contained, output_of};

pub const CASES: &[Case] = &[
    ("network_is_set_up_as_ip_shows_it", set_up_as_shown),
    ("network_route_by_a_link_local_gateway_names_its_interface", link_local_gateway),
    ("network_address_given_twice_is_refused", address_twice),
    ("network_unreachable_gateway_is_refused_with_a_reason", unreachable_gateway),
    ("network_refuses_who_has_no_rights", no_rights),
    ("network_loopback_works_once_up", loopback),
    ("network_lets_everybody_ping_once_permitted", ping),
    ("network_has_no_reserved_ports_once_permitted", low_ports),
];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Without spaces, so that it does not depend on how it is laid out.
fn ip_json(arguments: &[&str]) -> String {
    output_of("ip", &[&["-j", "-d"], arguments].concat()).split_whitespace().collect()
}

fn set_up_as_shown() {
    contained(|| {
        let _tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        assert!(settle_ipv6("tap0"));
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap0").unwrap();
        let mac = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];
        netlink.set_mac(index, mac).unwrap();
        netlink.set_mtu(index, 65_520).unwrap();
        netlink.add_address(index, address("10.0.2.100"), 24, false).unwrap();
        netlink.add_address(index, address("fd00:1:2:3::100"), 64, true).unwrap();
        netlink.set_up(index).unwrap();
        netlink.add_default_route(index, address("10.0.2.2")).unwrap();
        netlink.add_default_route(index, address("fd00:1:2:3::2")).unwrap();

        assert_eq!(netlink.mac(index).unwrap(), mac);
        assert_eq!(netlink.mtu(index).unwrap(), 65_520);
        let listed = netlink.addresses().unwrap();
        assert!(listed.contains(&(index, address("10.0.2.100"), 24)), "{listed:?}");
        assert!(listed.contains(&(index, address("fd00:1:2:3::100"), 64)), "{listed:?}");
        let own = own_addresses().unwrap();
        assert!(own.contains(&address("10.0.2.100")) && own.contains(&address("fd00:1:2:3::100")), "{own:?}");

        let shown = ip_json(&["address", "show", "dev", "tap0"]);
        for part in [
            r#""address":"02:aa:bb:cc:dd:ee""#,
            r#""mtu":65520"#,
            r#""local":"10.0.2.100","prefixlen":24,"broadcast":"10.0.2.255""#,
            r#""local":"fd00:1:2:3::100","prefixlen":64"#,
            r#""UP""#,
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        // Usable at once: no address waits for duplicate detection, the link-local one included, but for the kernel thread
        // that finds there is none to be done.
        let detection = fs::read_to_string("/proc/sys/net/ipv6/conf/tap0/accept_dad").unwrap();
        assert_eq!(detection.trim(), "0");
        let deadline = Instant::now() + Duration::from_secs(30);
        while ip_json(&["address", "show", "dev", "tap0", "tentative"]).contains("local") {
            assert!(Instant::now() < deadline, "{shown}");
            thread::sleep(Duration::from_millis(10));
        }
        let routes = ip_json(&["route"]);
        assert!(routes.contains(r#""dst":"default","gateway":"10.0.2.2","dev":"tap0""#), "{routes}");
        let routes = ip_json(&["-6", "route"]);
        assert!(routes.contains(r#""dst":"default","gateway":"fd00:1:2:3::2","dev":"tap0""#), "{routes}");
        UdpSocket::bind(SocketAddr::new(address("fd00:1:2:3::100"), 0)).unwrap();
    });
}

fn link_local_gateway() {
    contained(|| {
        let _tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap0").unwrap();
        netlink.set_up(index).unwrap();
        netlink.add_default_route(index, address("fe80::2")).unwrap();
        let routes = ip_json(&["-6", "route"]);
        assert!(routes.contains(r#""dst":"default","gateway":"fe80::2","dev":"tap0""#), "{routes}");
    });
}

fn address_twice() {
    contained(|| {
        let _tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap0").unwrap();
        for (text, prefix_len) in [("10.0.2.100", 24), ("fd00::100", 64)] {
            netlink.add_address(index, address(text), prefix_len, true).unwrap();
            let error = netlink.add_address(index, address(text), prefix_len, true).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
        }
    });
}

fn unreachable_gateway() {
    contained(|| {
        let _tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap0").unwrap();
        netlink.set_up(index).unwrap();
        let error = netlink.add_default_route(index, address("192.0.2.1")).unwrap_err();
        assert!(matches!(error, NetlinkError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("cannot add the default route by 192.0.2.1"), "{text}");
        assert!(text.contains("Network is unreachable"), "{text}");
    });
}

fn no_rights() {
    contained(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("lo").unwrap();
        let error = netlink.set_up(index).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    });
}

fn loopback() {
    contained(|| {
        assert!(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().is_ok());
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.addresses().unwrap(), []);
        let index = netlink.link_index("lo").unwrap();
        netlink.set_up(index).unwrap();
        let mut listed = netlink.addresses().unwrap();
        listed.sort();
        let expected = [(index, address("127.0.0.1"), 8), (index, IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
        assert_eq!(listed, expected);
        let listener = TcpListener::bind("[::1]:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    });
}

fn ping() {
    let open = || Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4));
    contained(|| {
        assert_eq!(open().unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert!(permit_ping());
        open().unwrap();
        Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6)).unwrap();
    });
}

fn low_ports() {
    contained(|| {
        assert!(permit_low_ports());
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        assert_eq!(start.trim(), "0");
    });
}
