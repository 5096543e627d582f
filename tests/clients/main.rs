//! The programs that start `slirp4netns`, with ours in its place: podman, buildah and RootlessKit as Debian has them.
//!
//! The ground is that of `tests/netns`; [`session`] adds what a user of containers has on it, [`image`] the image
//! they run, [`witness`] the evidence that it was the program under test that carried the traffic. The other modules
//! hold the cases, by client and by what they are about.
//!
//! `CLIENTS_SLIRP4NETNS=/usr/bin/slirp4netns cargo test --test clients` runs the same cases with the original, which
//! shows that a case is right; without it they run ours.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used, clippy::must_use_candidate)]

#[path = "../netns/rig.rs"]
mod rig;

mod image;
mod session;
mod witness;

mod bridged;
mod builds;
mod networks;
mod podman;
mod ports;
mod rootlesskit;

use rig::{dns, ground, pattern, process, servers};

/// See [`session`].
const FACE: session::Face = session::Face {
    name: "slirp4netns",
    other: "CLIENTS_SLIRP4NETNS",
    setting: "network_cmd_path = \"/mnt/bin/slirp4netns\"",
};
