//! The sealed ground and what stands on it, for the suites beside this one that run real programs: a module of this file
//! and `use rig::{...}` is all they need.

#![allow(dead_code)]

pub mod dns;
pub mod ground;
pub mod pattern;
pub mod process;
pub mod servers;
