//! The control plane: requests from outside while the network is up.
//!
//! [`server`] owns a socket and its clients and knows nothing of what they say. There are two languages: [`single`] is how
//! a client of slirp4netns speaks, whose requests [`slirp4netns`] understands; [`native`] is ours, which every `netferry`
//! command speaks. [`http`] serves one page, the metrics. The driver carries requests out between two batches of packets, one in a turn, so that no client ever
//! stops traffic. docs/control.md tells what may be asked.

pub mod http;
pub mod native;
pub mod network;
pub mod server;
pub mod single;
pub mod slirp4netns;

pub use server::{ClientName, ControlError, Server};
