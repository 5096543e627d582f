//! The core.
pub mod boundary;
