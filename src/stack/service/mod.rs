//! Services that the gateway itself offers to the container.

pub mod router_advert;
