//! stub (local)
#![allow(missing_docs)]
use super::{boundary::FrameSink, drop_reason::DropReason};
use crate::{
    config::LinkConfig,
    wire::{MacAddr, arp, ip, ndp},
};
use std::net::IpAddr;
#[derive(Debug)]
pub struct Neighbor {
    mac: Option<MacAddr>,
    link: LinkConfig,
}
impl Neighbor {
    pub fn new(c: &LinkConfig) -> Self {
        Neighbor { mac: c.container_mac, link: c.clone() }
    }
    pub fn container_mac(&self) -> Option<MacAddr> {
        self.mac
    }
    pub fn learn(&mut self, _m: MacAddr, _ip: std::net::IpAddr) {}
    pub fn handle_arp(&mut self, m: &arp::Message, f: &mut impl FrameSink) -> Result<(), DropReason> {
        if m.operation == arp::Operation::Request && (self.link.is_gateway(m.target.into()) || self.link.is_dns(m.target.into())) {
            let r = arp::Message { operation: arp::Operation::Reply, sender_mac: self.link.gateway_mac, sender: m.target, target_mac: m.sender_mac, target: m.sender };
            let b = f.reserve(42).unwrap();
            let n = r.write_frame(b, &ip::Ethernet { source: self.link.gateway_mac, destination: m.sender_mac });
            f.commit(n, [0; 10]);
        }
        Ok(())
    }
    pub fn handle_ndp(&mut self, p: &ip::Packet<'_>, _c: &LinkConfig, f: &mut impl FrameSink) -> Result<(), DropReason> {
        if let Some(ndp::Message::NeighborSolicitation { target, .. }) = ndp::parse(p.payload, p.hop_limit) {
            if self.link.is_gateway(target.into()) || self.link.is_dns(target.into()) {
                let IpAddr::V6(d) = p.source else { return Ok(()) };
                let b = f.reserve(200).unwrap();
                let h = ip::Header { source: target.into(), destination: p.source, protocol: 58, hop_limit: 255, traffic_class: 0, identification: 0, dont_fragment: true };
                let o = ip::write_headers(b, &ip::Ethernet { source: self.link.gateway_mac, destination: self.mac.unwrap() }, &h, 32);
                let n = ndp::write_neighbor_advertisement(&mut b[o..], target, d, target, self.link.gateway_mac, true);
                f.commit(o + n, [0; 10]);
            }
        }
        Ok(())
    }
}
