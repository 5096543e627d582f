//! What the user is told while it runs.

pub mod log;
