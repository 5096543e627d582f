//! What is told when the network is up: a line of our own, or the lines of slirp4netns.

use std::fmt::Write;
use std::net::SocketAddr;

use super::container::{container_addresses, dns_addresses};
use crate::cli::Plan;
use crate::config::{LinkConfig, OutboundAddresses, PortProtocol, PublishRule};

/// Published ports that are named one by one; of more, the rest is counted.
const NAMED_PORTS: usize = 8;

/// What was set up, in one line without the program's name.
#[must_use]
pub fn banner(tap_name: &str, link: &LinkConfig, publish: &[PublishRule]) -> String {
    let mut text = String::from(tap_name);
    for (address, prefix_len) in container_addresses(link) {
        let _ = write!(text, " {address}/{prefix_len}");
    }
    let gateways = [link.ipv4.map(|v4| v4.gateway.to_string()), link.ipv6.map(|v6| v6.gateway.to_string())];
    let _ = write!(text, ", gateway {}", joined(gateways.into_iter().flatten()));
    let _ = write!(text, ", DNS {}", joined(dns_addresses(link).iter().map(ToString::to_string)));
    let _ = write!(text, ", MTU {}", link.mtu);
    if !publish.is_empty() {
        let _ = write!(text, ", published {}", joined(publish.iter().take(NAMED_PORTS).map(rule_text)));
    }
    if publish.len() > NAMED_PORTS {
        let _ = write!(text, " and {} more", publish.len() - NAMED_PORTS);
    }
    text
}

/// What was set up, a line each, as slirp4netns tells it: with its labels, for those who read its log.
#[must_use]
pub fn slirp4netns_lines(plan: &Plan, link: &LinkConfig, outbound: OutboundAddresses) -> String {
    let mut text = String::from("Starting slirp\n");
    let mut tell = |label: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "* {:<17}{value}", format!("{label}:"));
    };
    tell("MTU", &link.mtu);
    if let Some(ipv4) = link.ipv4 {
        tell("Network", &ipv4.subnet.network());
        tell("Netmask", &ipv4.subnet.netmask());
        tell("Gateway", &ipv4.gateway);
        if let Some(dns) = ipv4.dns {
            tell("DNS", &dns);
        }
        if let Some(pool) = plan.services.dhcp {
            tell("DHCP begin", &pool.first);
            tell("DHCP end", &pool.last);
        }
        tell("Recommended IP", &ipv4.container);
    }
    if let Some(ipv6) = link.ipv6 {
        tell("IPv6 network", &ipv6.prefix);
    }
    if let Some(path) = &plan.api_socket {
        tell("API Socket", &path.display());
    }
    if let Some(mac) = plan.link.container_mac {
        tell("MAC address", &mac);
    }
    if let Some(address) = outbound.ipv4 {
        tell("Outbound IPv4", &address);
    }
    if let Some(address) = outbound.ipv6 {
        tell("Outbound IPv6", &address);
    }
    if let Some(ipv4) = link.ipv4.filter(|_| plan.host_loopback) {
        let gateway = ipv4.gateway;
        let _ = writeln!(
            text,
            "WARNING: the host's 127.0.0.1 is reached at {gateway}; --disable-host-loopback prevents that"
        );
    }
    text
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" ")
}

fn rule_text(rule: &PublishRule) -> String {
    let host = SocketAddr::new(rule.host_address, rule.host_port);
    let protocol = match rule.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
    };
    format!("{host}->{}/{protocol}", rule.container_port)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rule(host_port: u16) -> PublishRule {
        PublishRule {
            protocol: PortProtocol::Tcp,
            host_address: Ipv4Addr::UNSPECIFIED.into(),
            host_port,
            interface: None,
            container_address: None,
            container_port: 80,
        }
    }

    #[test]
    fn line_names_addresses_gateway_dns_mtu_and_ports() {
        let link = LinkConfig { ipv6: None, ..LinkConfig::default() };
        assert_eq!(
            banner("tap0", &link, &[rule(8080)]),
            "tap0 10.0.2.100/24, gateway 10.0.2.2, DNS 10.0.2.3, MTU 1500, published 0.0.0.0:8080->80/tcp"
        );
    }

    #[test]
    fn both_families_are_named_and_many_ports_are_counted() {
        let link = LinkConfig::default();
        let rules: Vec<_> = (0..20).map(|i| rule(9_000 + i)).collect();
        let text = banner("eth0", &link, &rules);
        assert!(text.contains(&format!("{}/64", link.ipv6.unwrap().container)), "{text}");
        assert!(text.ends_with("0.0.0.0:9007->80/tcp and 12 more"), "{text}");
    }

    #[test]
    fn lines_of_slirp4netns_have_its_labels() {
        let words = ["slirp4netns", "-c", "--cidr=10.9.0.0/16", "--api-socket=/tmp/s", "7"];
        let plan = crate::cli::parse(words.map(std::ffi::OsString::from)).unwrap();
        let outbound = OutboundAddresses { ipv4: Some("192.0.2.1".parse().unwrap()), ..Default::default() };
        let text = slirp4netns_lines(&plan, &plan.link, outbound);
        let expected = "Starting slirp\n\
            * MTU:             1500\n\
            * Network:         10.9.0.0\n\
            * Netmask:         255.255.0.0\n\
            * Gateway:         10.9.0.2\n\
            * DNS:             10.9.0.3\n\
            * DHCP begin:      10.9.0.15\n\
            * DHCP end:        10.9.0.30\n\
            * Recommended IP:  10.9.0.100\n\
            * API Socket:      /tmp/s\n\
            * Outbound IPv4:   192.0.2.1\n\
            WARNING: the host's 127.0.0.1 is reached at 10.9.0.2; --disable-host-loopback prevents that\n";
        assert_eq!(text, expected);
        let quiet = Plan { host_loopback: false, ..plan };
        assert!(!slirp4netns_lines(&quiet, &quiet.link, outbound).contains("WARNING"));
    }
}
