//! The control plane: requests from outside while the network is up.
//!
//! [`server`] owns the socket and its clients and knows nothing of what they say; each codec ([`slirp4netns`])
//! turns the bytes of one request into a [`Request`](crate::stack::boundary::Request) and what came of it into bytes.
//! The driver carries requests out between two batches of packets, a few each time, so that no client ever stops
//! traffic.

pub mod server;
pub mod slirp4netns;

pub use server::{ControlError, Server};
