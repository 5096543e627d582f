//! Podman 5 with our program as its `pasta`, and RootlessKit 2, as Debian 13 has them.
//!
//! The cases live in a root file system of Debian 13, which `tests/debian13` makes (`tests/run` calls it): a layer above it
//! takes what they change. Ground, session and witnesses are those of `tests/clients`.
//!
//! `PODMAN5_PASTA=/usr/bin/pasta.avx2 cargo test --test podman5` runs the same cases with the original, which shows that
//! a case is right (`pasta` itself goes over to the build for the processor at hand, by another name); without it they
//! run ours. `NETFERRY_DEBIAN13` names the root where it is elsewhere.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used, clippy::must_use_candidate)]

#[path = "../netns/rig.rs"]
mod rig;

#[path = "../clients/image.rs"]
#[allow(dead_code)]
mod image;
#[path = "../clients/session.rs"]
#[allow(dead_code)]
mod session;
#[path = "../clients/witness.rs"]
#[allow(dead_code)]
mod witness;

mod addresses;
mod lifecycle;
mod networks;
mod ports;
mod reach;
mod rootlesskit;

use std::env;
use std::path::PathBuf;

use rig::ground::Ground;
use rig::process::Outcome;
use rig::{dns, ground, pattern, process, servers};
use session::Session;

/// See [`session`].
const FACE: session::Face = session::Face {
    name: "pasta",
    other: "PODMAN5_PASTA",
    setting: "helper_binaries_dir = [\"/mnt/bin\", \"/usr/libexec/podman\", \"/usr/lib/podman\"]",
};

/// A case on sealed ground, in Debian 13, with an image in the user's storage.
fn case<F: FnOnce(&Session)>(body: F) {
    ground::sealed_as::<F>(Some(&root()), |ground: &Ground| {
        let session = Session::start(ground);
        image::import(&session);
        body(&session);
    });
}

fn root() -> PathBuf {
    env::var_os("NETFERRY_DEBIAN13").map_or_else(
        || {
            let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(target).join("debian13")
        },
        PathBuf::from,
    )
}

/// Runs `script` in a container of its own on the network of pasta.
#[track_caller]
fn run_in(session: &Session, network: &str, script: &str) -> Outcome {
    let outcome = session.podman(&["run", "--rm", "--network", network, image::IMAGE, "sh", "-ec", script]);
    let outcome = outcome.expect_success();
    assert_eq!(outcome.stderr, "", "podman takes every word of its helper for a warning");
    outcome
}
