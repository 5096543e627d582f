//! What the gateway itself offers the container: router advertisements, DHCP of both families, and the DNS forwarder.

pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod router_advert;
pub mod settings;

use std::net::IpAddr;

use super::Stack;
use super::boundary::{FrameSink, Instant};
use super::drop_reason::DropReason;

impl Stack {
    /// Takes one message to the DHCP server of either family.
    pub(super) fn handle_dhcp(
        &mut self,
        source: IpAddr,
        message: &[u8],
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        match (source, &mut self.dhcp) {
            (IpAddr::V4(_), Some(server)) => server.handle_message(message, now, frames),
            (IpAddr::V4(_), None) => Err(DropReason::DhcpNotServed),
            (IpAddr::V6(_), _) => {
                let ethernet = self.neighbor.ethernet()?;
                dhcpv6::handle_message(&self.config, message, source, &ethernet, frames)
            }
        }
    }
}
