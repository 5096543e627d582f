//! Published ports: which host ports lead to which container ports.

use std::net::IpAddr;

/// Transport of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortProtocol {
    /// Stream.
    Tcp,
    /// Datagram.
    Udp,
}

/// One host port that leads to one container port. A range on the command line is many of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishRule {
    /// Transport.
    pub protocol: PortProtocol,
    /// Host address to bind; the unspecified address of a family stands for all of that family.
    pub host_address: IpAddr,
    /// Host port to bind.
    pub host_port: u16,
    /// Port of the container's server, at the container's address of the same family.
    pub container_port: u16,
}
