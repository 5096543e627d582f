//! The process that serves a network of several containers.

pub mod members;
