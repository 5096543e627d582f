//! The behaviours, by what they are about.

mod clock_jumps;
mod closed_ports;
mod control;
mod days;
mod dhcp;
mod dns;
mod echo;
mod hook;
mod hostile;
mod impair;
mod isolation;
mod limits;
mod link_layer;
mod names;
mod network_errors;
mod policy;
mod publish;
mod rules;
mod shaping;
mod sweep;
mod tcp_ecn;
mod tcp_failure;
mod tcp_faults;
mod tcp_flow_control;
mod tcp_life;
mod tcp_receive;
mod tcp_reset;
mod tcp_send;
mod tcp_transfer;
mod udp;
mod udp_mapping;
mod udp_sizes;
mod workers;

use std::net::SocketAddr;

use netferry::wire::vnet_header::Offload;

use crate::world::{Settings, World, at};

/// An outside address of each family.
const TARGETS: [&str; 2] = ["203.0.113.5:80", "[2001:db8::5]:80"];

/// Runs for both families, with and without offload.
fn everywhere(run: impl Fn(World, SocketAddr)) {
    for offload in [Offload::ALL, Offload::NONE] {
        for target in TARGETS {
            run(World::new(Settings::default().offload(offload)), at(target));
        }
    }
}

/// Runs for both families.
fn both_families(run: impl Fn(SocketAddr)) {
    TARGETS.into_iter().for_each(|target| run(at(target)));
}
