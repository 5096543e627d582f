//! netferry gives a network to processes that have none, without root.
//!
//! # Theory of operation
//!
//! A container's network namespace holds one TAP device. Whatever the container sends through it is an Ethernet
//! frame that we read, and whatever we write is a frame that its kernel receives: we are the other end of its
//! only cable. Behind that cable stands a router that does not exist. It answers ARP and neighbor discovery for
//! its own addresses, terminates the container's TCP in an endpoint of our own for each connection, and carries
//! the bytes over an ordinary socket of the host; UDP and echo likewise. To the world, all of that is one
//! unprivileged process that opens sockets. Nothing of the host's network is changed.
//!
//! The TAP is opened with a virtio-net header, so that super-segments of up to 64 KiB cross it in one system
//! call although the MTU is an honest 1500. That, and not copying more than needed, is where the speed is from.
//!
//! # Three layers
//!
//! - [`wire`] and [`config`]: bytes and wishes. Pure functions and checked values.
//! - [`stack`]: the core. A deterministic state machine between a link and the host's sockets; it sees no
//!   descriptor, no clock, no errno and no randomness. See [`stack::boundary`] for the contract.
//! - [`worker`]: the driver. One poll loop that owns the TAP, the sockets and the clock, carries out the core's
//!   actions and feeds it what happened.
//!
//! [`sys`] is what the driver and [`run`] know of Linux, and the only place with unsafe code. [`cli`] turns a
//! command line into a plan; [`run`] carries the plan out in an order in which every error comes before anything
//! is created.
//!
//! # Walks
//!
//! - A container's first segment to the world: TAP, `worker`, [`stack::Stack::handle_frame`] (parsed once),
//!   [`stack::forward`] (where may it go?), `stack::tcp` (the SYN is held, `Action::ConnectStream`), `worker`
//!   connects, `HostEvent::Connected`, SYN-ACK. Refused: RST. Unreachable: ICMP.
//! - Data: flow table, endpoint, relay, `HostIo::send_stream`; the acknowledgement leaves at the next flush,
//!   one for the batch.
//! - From the host: readiness, `HostEvent::Readable`, the relay reads into the endpoint's buffer, the endpoint
//!   writes super-segments into frames, `FrameSink::commit`, TAP.
//! - A published port: the listener accepts, [`stack::Stack::accept_stream`], [`stack::forward`] (how does the
//!   client look from inside?), the endpoint connects to the container with the client's own address and port
//!   as its source; then the same relay.
//!
//! `docs/architecture.md` has the reasons.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod observe;
pub mod run;
pub mod stack;
pub mod sys;
pub mod wire;
pub mod worker;
