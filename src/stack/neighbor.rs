//! stub
use super::{boundary::FrameSink, drop_reason::DropReason};
use crate::{
    config::LinkConfig,
    wire::{MacAddr, arp, ip},
};
#[derive(Debug)]
pub struct Neighbor {
    mac: Option<MacAddr>,
}
impl Neighbor {
    pub fn new(c: &LinkConfig) -> Self {
        Neighbor { mac: c.container_mac }
    }
    pub fn container_mac(&self) -> Option<MacAddr> {
        self.mac
    }
    pub fn learn(&mut self, _m: MacAddr, _ip: std::net::IpAddr) {}
    pub fn handle_arp(&mut self, _m: &arp::Message, _f: &mut impl FrameSink) -> Result<(), DropReason> {
        Ok(())
    }
    pub fn handle_ndp(
        &mut self,
        _m: &ip::Packet<'_>,
        _c: &LinkConfig,
        _f: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        Ok(())
    }
}
