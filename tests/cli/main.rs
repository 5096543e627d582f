//! The command lines: which words lead to which plan, and what is said of the others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod binary;
mod manual;
mod network;
mod pasta;
mod pasta_ports;
mod plan;
mod slirp4netns;
