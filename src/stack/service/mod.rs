//! What the gateway itself offers the container: router advertisements and the DNS forwarder.

pub mod dns;
pub mod router_advert;
