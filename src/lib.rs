//! netferry gives a network to processes that have none, without root.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod stack;
pub mod sys;
pub mod wire;
