//! What the fuzzers have found worth keeping, replayed: each file of `fuzz/corpus/TARGET` goes through the driver of
//! its target, as do some thousand inputs that chance and one seed make of them.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

#[path = "../sim/clock.rs"]
mod clock;
mod drivers;
#[path = "../sim/link.rs"]
mod link;
#[path = "../sim/offload.rs"]
mod offload;
#[path = "../sim/packet.rs"]
mod packet;
#[path = "../sim/prng.rs"]
mod prng;
#[path = "../sim/settings.rs"]
mod settings;

use std::fs;
use std::path::Path;

use drivers::DRIVERS;
use prng::Prng;

/// Inputs made of each kept one.
const VARIATIONS: usize = 8;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn replay(target: &str) {
    let (_, drive) = DRIVERS.iter().find(|(name, _)| *name == target).expect("a driver of that name");
    let files = corpus(target);
    assert!(files.len() >= 3, "{target} has a corpus");
    let mut prng = Prng::new(1, target);
    for (name, bytes) in &files {
        // The harness shows it if the driver panics.
        println!("{name}");
        drive(bytes);
        for variation in 0..VARIATIONS {
            println!("variation {variation} of it");
            drive(&varied(bytes, &files, &mut prng));
        }
    }
}

fn varied(bytes: &[u8], others: &[(String, Vec<u8>)], prng: &mut Prng) -> Vec<u8> {
    let mut varied = bytes.to_vec();
    for _ in 0..=prng.below(4) {
        let at = prng.below(varied.len() as u64 + 1) as usize;
        match prng.below(4) {
            0 => varied.insert(at, prng.next() as u8),
            1 => varied.truncate(at),
            2 => {
                let (_, other) = &others[prng.below(others.len() as u64) as usize];
                varied.truncate(at);
                varied.extend(&other[at.min(other.len())..]);
            }
            _ => {
                if let Some(byte) = varied.get_mut(at) {
                    *byte = prng.next() as u8;
                }
            }
        }
    }
    varied
}

/// One test a target, so that a failure names it and they run side by side.
macro_rules! replayed {
    ($($target:ident),* $(,)?) => {
        $(#[test] fn $target() { replay(stringify!($target)); })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($target)),*];
            let drivers: Vec<_> = DRIVERS.iter().map(|(name, _)| *name).collect();
            assert_eq!(replayed[..], drivers[..]);
            for target in replayed {
                let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{target}.rs"));
                assert!(fs::read_to_string(&binary).unwrap().contains(&format!("drivers::{target}")), "{target}");
            }
        }
    };
}

replayed!(
    frames,
    vnet,
    dhcp,
    dhcpv6,
    ndp,
    dns,
    names,
    tcp,
    reassembly,
    control,
    cli_native,
    cli_slirp4netns,
    cli_pasta,
    ports,
    resolv_conf,
    rules,
    proc_net,
    bridge,
);
