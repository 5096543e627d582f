//! The deterministic simulator: the core against an independent stack as the container, a scripted host, a bad
//! link and a simulated clock.
//!
//! One seed decides everything. `SEEDS=1000 cargo test --test sim` sweeps more of them;
//! `NETFERRY_SIM_SEED=7 cargo test --test sim` repeats one.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

mod app;
mod cases;
mod clock;
mod guest;
mod host;
mod hostile;
mod link;
mod offload;
mod packet;
mod prng;
mod raw;
mod settings;
mod world;
