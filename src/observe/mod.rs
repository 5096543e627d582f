//! What the user is told while it runs.

pub mod audit;
pub mod capture;
pub mod file;
pub mod log;
pub mod log_file;
pub mod metrics;
pub mod panics;
pub mod pcapng;
pub mod rotation;
