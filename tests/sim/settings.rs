//! What a world is made of: addresses, configuration, seed and faults.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use netferry::config::{ClosedPorts, Config, Ipv4Link, Ipv6Link, LinkConfig, PortProtocol, PublishRule};
use netferry::wire::MacAddr;
use netferry::wire::vnet_header::Offload;

use crate::link::Faults;

pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
pub const CONTAINER_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 100];
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub const GATEWAY6_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
pub const CONTAINER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);

/// An address outside, by its text.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub offload: Offload,
    pub config: Config,
    pub resolvers: Vec<SocketAddr>,
    /// Bytes of the guest's TCP buffers.
    pub guest_buffer_bytes: usize,
    pub down: Faults,
    pub up: Faults,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: seed_from_environment().unwrap_or(1),
            offload: Offload::ALL,
            config: config(),
            resolvers: vec![at("203.0.113.53:53"), at("203.0.113.54:53")],
            guest_buffer_bytes: 256 << 10,
            down: Faults::default(),
            up: Faults::default(),
        }
    }
}

impl Settings {
    pub fn offload(self, offload: Offload) -> Settings {
        Settings { offload, ..self }
    }

    /// The same faults both ways.
    pub fn faults(self, faults: Faults) -> Settings {
        Settings { down: faults, up: faults, ..self }
    }

    /// Changes the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Settings {
        change(&mut self.config);
        self
    }

    /// Publishes one more port of the host; its listener is the place of its rule.
    pub fn publishing(self, protocol: PortProtocol, host: SocketAddr, container_port: u16) -> Settings {
        let rule = PublishRule {
            protocol,
            host_address: host.ip(),
            host_port: host.port(),
            interface: None,
            container_address: None,
            container_port,
        };
        self.with(|config| config.publish.push(rule))
    }
}

/// The seed that a failure has printed, to see it again.
pub fn seed_from_environment() -> Option<u64> {
    std::env::var("NETFERRY_SIM_SEED").ok().map(|text| text.parse().expect("NETFERRY_SIM_SEED is a number"))
}

/// The usual instance.
pub fn config() -> Config {
    Config {
        closed_ports: ClosedPorts::Accept,
        host_addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8:7::7".parse().unwrap()],
        host_networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..Config::on(LinkConfig {
            segment: Default::default(),
            ipv4: Some(Ipv4Link {
                subnet: "10.0.2.0/24".parse().unwrap(),
                gateway: GATEWAY,
                dns: Some(DNS),
                container: CONTAINER,
            }),
            ipv6: Some(Ipv6Link {
                prefix: "fd00::/64".parse().unwrap(),
                gateway: GATEWAY6,
                gateway_link_local: GATEWAY6_LINK_LOCAL,
                dns: Some(DNS6),
                container: CONTAINER6,
            }),
            mtu: 1500,
            gateway_mac: MacAddr(GATEWAY_MAC),
            container_mac: Some(MacAddr(CONTAINER_MAC)),
        })
    }
}
