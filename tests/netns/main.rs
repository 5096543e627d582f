//! The real program against the real kernel, on sealed ground.
//!
//! [`ground`] tells how a case is sealed off; the other modules hold the cases, by what they are about. Run by
//! `tests/run` with everything they need; `cargo test --test netns` when that is installed already.
//!
//! What is not shown here: behaviour that needs a clock or a loss on the wire (`tests/sim`), the command line's
//! grammar (`tests/cli`).

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used, clippy::must_use_candidate)]

mod dns;
mod ground;
mod pattern;
mod process;
mod routers;
mod servers;

mod api_socket;
mod attach;
mod bad_input;
mod bad_path;
mod bess;
mod bridge;
mod capture;
mod conditions;
mod control;
mod crowd;
mod dhcp;
mod echo;
mod faults;
mod floods;
mod hook;
mod host_access;
mod hostile;
mod isolation;
mod lifecycle;
mod load;
mod members;
mod networks;
mod oracle;
mod output;
mod pasta;
mod pasta_dhcp;
mod pasta_ports;
mod path_mtu;
mod programs;
mod publish;
mod raw_tcp;
mod refusals;
mod resolver;
mod rules;
mod sandbox;
mod scarcity;
mod slirp4netns;
mod soundness;
mod spliced;
mod storm;
mod streams;
mod timeouts;
mod trace;
mod transfer;
mod udp;
mod udp_nat;
mod walk;
mod web;
mod workers;
