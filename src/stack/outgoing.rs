//! Packets of our own toward the container that belong to no flow: what they begin with, and what was wrong with one of its.

use std::net::IpAddr;

use super::Stack;
use super::boundary::{FrameSink, Instant};
use super::drop_reason::DropReason;
use super::emit::Transport;
use super::tcp::endpoint::LinkView;
use super::unreachable::Report;
use crate::wire::icmp::Problem;
use crate::wire::ip;
use crate::wire::tcp::BareSegment;

impl Stack {
    /// The hop limit with which a packet goes on: one less where we are a router to it, and where none is left the
    /// container is told.
    pub(super) fn forwarded_hop_limit(
        &mut self,
        packet: &ip::Packet<'_>,
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Result<u8, DropReason> {
        if !self.config.link.is_routed(packet.destination) {
            return Ok(packet.hop_limit);
        }
        if packet.hop_limit <= 1 {
            self.send_problem(Problem::HopLimitExceeded, packet.bytes, now, frames)?;
            return Err(DropReason::HopLimit);
        }
        Ok(packet.hop_limit - 1)
    }

    /// Tells the container, as its gateway, what was wrong with a packet of its own.
    pub(super) fn send_problem(
        &mut self,
        problem: Problem,
        offending: &[u8],
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        let destination = ip::destination(offending).ok_or(DropReason::BadTransport)?;
        let gateway = self.config.link.gateway_like(destination).ok_or(DropReason::BadTransport)?;
        // A closed port is the addressed host's own finding.
        let from = match problem {
            Problem::PortUnreachable | Problem::ProtocolUnreachable if !destination.is_multicast() => {
                destination
            }
            _ => gateway,
        };
        let ethernet = self.neighbor.ethernet()?;
        let report = Report { problem, from, hop_limit: None, offending };
        self.unreachable.send(&report, now, &ethernet, &self.emitter, frames)
    }

    /// Puts one segment without options on the link.
    pub(super) fn emit_segment(
        &mut self,
        header: &ip::Header,
        segment: &BareSegment,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        let ethernet = self.neighbor.ethernet()?;
        let fill = |transport: &mut [u8]| {
            segment.write(transport);
            BareSegment::LEN
        };
        self.emitter.send(
            &ethernet,
            header,
            Transport::Tcp { segmentation: None },
            BareSegment::LEN,
            fill,
            frames,
        )
    }

    pub(super) fn header(&self, source: IpAddr, destination: IpAddr, protocol: u8) -> ip::Header {
        ip::Header {
            source,
            destination,
            protocol,
            hop_limit: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    pub(super) fn link_view(&self) -> Result<LinkView, DropReason> {
        let ethernet = self.neighbor.ethernet()?;
        Ok(LinkView {
            ethernet,
            mtu: self.config.link.mtu,
            offload: self.offload,
            bottleneck: self.bottleneck,
        })
    }
}
