//! The table of all that goes on during a shift. An activity is added here: a row, with a function of `traffic.py` or one
//! of `churn.rs` behind it.

use crate::ground::Ground;
use crate::instances::{Face, Instance};
use crate::shift::{End, Tally};
use crate::{churn, observers};

/// Where a program of traffic runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the container of this instance.
    In(Face),
    /// In the world: clients of published ports.
    World,
    /// On the host: clients of spliced ports.
    Host,
}

impl Place {
    pub fn name(self) -> String {
        match self {
            Place::In(face) => face.name().to_owned(),
            Place::World => "from the world".to_owned(),
            Place::Host => "from the host".to_owned(),
        }
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub enum Activity {
    /// A function of `traffic.py`, with ADDRESS/PORT.
    Traffic(Place, &'static str, &'static str),
    /// A function here, called over and over; how many rounds it made.
    Churn(&'static str, fn(&Ground, &[Instance], End) -> Tally),
}

use Activity::{Churn, Traffic};
use Place::{Host, In, World};

const RUN: Place = In(Face::Run);
const SLIRP: Place = In(Face::Slirp4netns);
const PASTA: Place = In(Face::Pasta);
const WORKERS: Place = In(Face::Workers);
const NETWORK: Place = In(Face::Network);

/// All of them.
pub const ACTIVITIES: &[Activity] = &[
    // Through `run`, of both families.
    Traffic(RUN, "short", "203.0.113.2/7"),
    Traffic(RUN, "short", "2001:db8:1::2/7"),
    Traffic(RUN, "bulk", "203.0.113.2/7"),
    Traffic(RUN, "http", "2001:db8:1::2/8080"),
    Traffic(RUN, "datagrams", "203.0.113.2/7"),
    Traffic(RUN, "storm", "2001:db8:1::2/7"),
    Traffic(RUN, "resets", "203.0.113.2/7"),
    Traffic(RUN, "reset_by_peer", "203.0.113.2/19"),
    Traffic(RUN, "half_closes", "2001:db8:1::2/7"),
    Traffic(RUN, "killed", "203.0.113.2/8080"),
    Traffic(RUN, "refused", "203.0.113.2/9"),
    Traffic(RUN, "resting", "203.0.113.2/7"),
    Traffic(RUN, "slow", "203.0.113.2/8080"),
    Traffic(RUN, "dig", "10.0.2.3/53"),
    Traffic(RUN, "ping", "203.0.113.2/0"),
    // As slirp4netns, sandboxed.
    Traffic(SLIRP, "short", "203.0.113.2/7"),
    Traffic(SLIRP, "bulk", "2001:db8:1::2/7"),
    Traffic(SLIRP, "http", "203.0.113.2/8080"),
    Traffic(SLIRP, "datagrams", "2001:db8:1::2/7"),
    Traffic(SLIRP, "storm", "203.0.113.2/7"),
    Traffic(SLIRP, "resting", "203.0.113.2/7"),
    Traffic(SLIRP, "resets", "2001:db8:1::2/7"),
    Traffic(SLIRP, "dig", "10.0.2.3/53"),
    Traffic(SLIRP, "ping", "2001:db8:1::2/0"),
    // As pasta, and from its loopback to the host's.
    Traffic(PASTA, "short", "203.0.113.2/7"),
    Traffic(PASTA, "http", "2001:db8:1::2/8080"),
    Traffic(PASTA, "resting", "2001:db8:1::2/7"),
    Traffic(PASTA, "resting", "127.0.0.1/7207"),
    Traffic(PASTA, "half_closes", "203.0.113.2/7"),
    Traffic(PASTA, "dig", "169.254.1.1/53"),
    Traffic(PASTA, "ping", "203.0.113.2/0"),
    Traffic(PASTA, "bulk", "127.0.0.1/7207"),
    Traffic(PASTA, "short", "::1/7207"),
    Traffic(PASTA, "datagrams", "127.0.0.1/7207"),
    // Through two workers: bulk, and many small ones beside it.
    Traffic(WORKERS, "bulk", "203.0.113.2/7"),
    Traffic(WORKERS, "bulk", "2001:db8:1::2/7"),
    Traffic(WORKERS, "short", "203.0.113.2/7"),
    Traffic(WORKERS, "short", "2001:db8:1::2/7"),
    Traffic(WORKERS, "http", "203.0.113.2/8080"),
    Traffic(WORKERS, "datagrams", "203.0.113.2/7"),
    Traffic(WORKERS, "half_closes", "2001:db8:1::2/7"),
    Traffic(WORKERS, "resets", "203.0.113.2/7"),
    Traffic(WORKERS, "resting", "203.0.113.2/7"),
    Traffic(WORKERS, "dig", "10.0.2.3/53"),
    // From one container of a network to another, and to the world.
    Traffic(NETWORK, "short", "172.30.0.2/7"),
    Traffic(NETWORK, "bulk", "fd00:30::2/7"),
    Traffic(NETWORK, "by_name", "server/8080"),
    Traffic(NETWORK, "datagrams", "172.30.0.2/7"),
    Traffic(NETWORK, "resting", "fd00:30::2/7"),
    Traffic(NETWORK, "resets", "172.30.0.2/7"),
    Traffic(NETWORK, "short", "2001:db8:1::2/7"),
    Traffic(NETWORK, "http", "203.0.113.2/8080"),
    Traffic(NETWORK, "dig", "172.30.0.1/53"),
    Traffic(NETWORK, "ping", "172.30.0.2/0"),
    // Published ports: of `run` 7007 and 7080, of pasta 7107, of two workers 7707 and 7780, of a network 7507.
    Traffic(World, "short", "203.0.113.1/7007"),
    Traffic(World, "bulk", "2001:db8:1::1/7007"),
    Traffic(World, "datagrams", "203.0.113.1/7007"),
    Traffic(World, "resets", "203.0.113.1/7007"),
    Traffic(World, "half_closes", "203.0.113.1/7007"),
    Traffic(World, "killed", "203.0.113.1/7080"),
    Traffic(World, "slow", "203.0.113.1/7080"),
    Traffic(World, "resting", "203.0.113.1/7007"),
    Traffic(World, "short", "203.0.113.1/7107"),
    Traffic(World, "bulk", "203.0.113.1/7107"),
    Traffic(World, "short", "203.0.113.1/7707"),
    Traffic(World, "bulk", "203.0.113.1/7707"),
    Traffic(World, "killed", "203.0.113.1/7780"),
    Traffic(World, "short", "203.0.113.1/7507"),
    Traffic(World, "bulk", "203.0.113.1/7507"),
    // Spliced, into the container.
    Traffic(Host, "short", "127.0.0.1/7107"),
    Traffic(Host, "bulk", "::1/7107"),
    Traffic(Host, "resets", "127.0.0.1/7107"),
    Traffic(Host, "half_closes", "127.0.0.1/7107"),
    Traffic(Host, "datagrams", "127.0.0.1/7107"),
    // What comes and goes.
    Churn("instances that come and go", churn::instances),
    Churn("ports of the API that come and go", churn::ports),
    Churn("containers of a network that come and go", churn::members),
    Churn("rules that are reloaded beside a transfer", observers::rules),
    Churn("captures that come and go", observers::captures),
];
