//! The ratios that netferry is held to, all of one interleaved run.

use crate::figures::{Against, Goal};
use crate::plan::MOST_CONNECTIONS;

use Against::{BestPeer, Kernel, Number, Own};

const fn more(measure: &'static str, unit: &'static str, against: Against, ratio: f64) -> Goal {
    Goal { measure, unit, against, ratio, more_is_better: true }
}

const fn less(measure: &'static str, unit: &'static str, against: Against, ratio: f64) -> Goal {
    Goal { measure, unit, against, ratio, more_is_better: false }
}

const SPEED: &str = "Gbit/s";
const COST: &str = "relay CPU s/GB";
const DATAGRAMS: &str = "thousand datagrams/s";

pub const GOALS: &[Goal] = &[
    more("TCP up, 1 streams, MTU 1500", SPEED, BestPeer, 8.0),
    more("TCP down, 1 streams, MTU 1500", SPEED, BestPeer, 8.0),
    more("TCP up, 1 streams, MTU 1500", SPEED, Kernel, 0.5),
    more("TCP down, 1 streams, MTU 1500", SPEED, Kernel, 0.5),
    more("TCP up, 1 streams, MTU 65520", SPEED, BestPeer, 1.15),
    more("TCP down, 1 streams, MTU 65520", SPEED, BestPeer, 1.15),
    more("published port up, MTU 1500", SPEED, BestPeer, 1.0),
    more("published port down, MTU 1500", SPEED, BestPeer, 1.0),
    more("published port up, MTU 65520", SPEED, BestPeer, 1.0),
    more("published port down, MTU 65520", SPEED, BestPeer, 1.0),
    less("TCP up, 1 streams, MTU 1500", COST, BestPeer, 0.5),
    less("TCP down, 1 streams, MTU 1500", COST, BestPeer, 0.5),
    more("UDP up 64 B plain", DATAGRAMS, BestPeer, 1.2),
    more("UDP down 64 B plain", DATAGRAMS, BestPeer, 1.2),
    more("UDP up 1400 B plain", DATAGRAMS, BestPeer, 1.2),
    more("UDP down 1400 B plain", DATAGRAMS, BestPeer, 1.2),
    more("UDP up 64 B plain", DATAGRAMS, Kernel, 0.65),
    more("UDP down 64 B plain", DATAGRAMS, Kernel, 0.65),
    more("UDP up 1400 B with segmentation", DATAGRAMS, BestPeer, 8.0),
    more("UDP down 1400 B with segmentation", DATAGRAMS, BestPeer, 8.0),
    more("UDP up 64 B with segmentation", DATAGRAMS, BestPeer, 20.0),
    more("UDP down 64 B with segmentation", DATAGRAMS, BestPeer, 20.0),
    more("spliced port up, reno", SPEED, BestPeer, 1.3),
    more("spliced port down, reno", SPEED, BestPeer, 1.3),
    more("TCP round trips", "per s", BestPeer, 1.2),
    more("TCP connects", "per s", BestPeer, 1.2),
    less("TCP round trips under load up", "µs, p99", BestPeer, 1.0),
    less("TCP round trips under load down", "µs, p99", BestPeer, 1.0),
    less("10000 idle connections", "bytes per connection", Number(2048.0), 1.0),
    more("10000 idle connections", "Gbit/s up beside them", Own("1 idle connections"), 0.9),
    more("10000 idle connections", "Gbit/s down beside them", Own("1 idle connections"), 0.9),
    less("100000 idle connections", "bytes per connection", Number(2048.0), 1.0),
    more("100000 idle connections", "Gbit/s up beside them", Own("1 idle connections"), 0.9),
    more("100000 idle connections", "Gbit/s down beside them", Own("1 idle connections"), 0.9),
    less(MOST_CONNECTIONS, "bytes per connection", Number(2048.0), 1.0),
    more(MOST_CONNECTIONS, "Gbit/s up beside them", Own("1 idle connections"), 0.9),
    more(MOST_CONNECTIONS, "Gbit/s down beside them", Own("1 idle connections"), 0.9),
    less("start to ready", "ms", BestPeer, 1.0),
    less("start to ready, confined", "ms", BestPeer, 1.0),
    less("idle relay", "MiB resident", Number(6.0), 1.0),
];
