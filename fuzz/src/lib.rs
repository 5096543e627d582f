//! The drivers of `tests/corpus`, for the fuzz targets.
#![allow(dead_code)]

#[path = "../../tests/sim/clock.rs"]
mod clock;
#[path = "../../tests/corpus/drivers/mod.rs"]
pub mod drivers;
#[path = "../../tests/sim/link.rs"]
mod link;
#[path = "../../tests/sim/offload.rs"]
mod offload;
#[path = "../../tests/sim/packet.rs"]
mod packet;
#[path = "../../tests/sim/prng.rs"]
mod prng;
#[path = "../../tests/sim/settings.rs"]
mod settings;
