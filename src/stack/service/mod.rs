//! What the gateway itself offers the container: router advertisements, DHCP, and the DNS forwarder.

pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod router_advert;
