//! netferry in the place of pasta, beside the original: a published port, reached from the host's loopback, where both
//! splice.
//!
//! `cargo bench --bench splice`. Both are started with the same arguments; an iperf3 server is in the container, its client on
//! the host. They take turns inside each round, with the kernel's own buffer limits: once with the congestion control that
//! new namespaces have on this machine, and once with reno, should that be another.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SPLICE_SECONDS` | length of one run | 3 |
//! | `SPLICE_ROUNDS` | runs behind each median | 5 |
//! | `SPLICE_STREAMS` | parallel connections | 1 |
//! | `SPLICE_ORIGINAL` | the original | `pasta` |
//! | `NETFERRY_BIN` | ours | as built |

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../tests/netns/ground.rs"]
#[allow(dead_code)]
mod ground;
mod measure;
#[path = "../tests/netns/process.rs"]
#[allow(dead_code)]
mod process;

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use ground::{Ground, SCRATCH, SUBJECT, find_program};
use measure::{
    CONGESTION, Direction, Sample, container, inside, processor_seconds, report, sample, setting, settle,
    usual_congestion, wait_for_route,
};
use process::{SOON, Stream, start};

/// The host's port that is published.
const PORT: &str = "15201";

fn main() {
    let ground = measure::ground();
    let original = env::var("SPLICE_ORIGINAL").unwrap_or_else(|_| "pasta".to_owned());
    let Some(original) = find_program(&original).and_then(|path| path.to_str().map(str::to_owned)) else {
        println!("{original} is not installed: nothing to compare with");
        return;
    };
    let ours = format!("{SCRATCH}/pasta");
    symlink(SUBJECT, &ours).expect("the scratch directory is writable");
    let relays = [("netferry", ours.as_str()), ("pasta", original.as_str())];
    let rounds = setting("SPLICE_ROUNDS", 5);
    println!("single runs of {} s, {rounds} rounds", setting("SPLICE_SECONDS", 3));
    let mut congestions = vec![usual_congestion(&ground), "reno".to_owned()];
    congestions.dedup();
    let directions = [Direction::Up, Direction::Down];
    for (congestion, direction) in congestions.iter().flat_map(|name| directions.map(|way| (name, way))) {
        fs::write(CONGESTION, congestion).expect("the namespace is ours");
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (collected, (_, program)) in samples.iter_mut().zip(relays) {
                collected.push(measure(&ground, program, direction, congestion));
            }
        }
        let title = format!("spliced port, {direction:?}, {congestion}");
        let medians =
            report(&title, &[(relays[0].0, samples[0].as_slice()), (relays[1].0, samples[1].as_slice())]);
        println!("\nnetferry is {:.2} times the original", medians[0] / medians[1]);
    }
}

/// A container and a relay, iperf3 once through a published port.
fn measure(ground: &Ground, program: &str, direction: Direction, congestion: &str) -> Sample {
    let (_container, pid) = container(ground);
    settle(ground, &pid, congestion);
    let mut command = ground.user(program);
    command.args(["--foreground", "--config-net", "--ns-ifname", "tap0", "-t", "15201:5201"]);
    command.args(["-u", "none", "-T", "none", "-U", "none", &pid]);
    let relay = start(command);
    wait_for_route(ground, &pid, &relay);

    let mut server = start(inside(ground, &pid, "exec iperf3 --server --one-off --forceflush"));
    server.wait_for(Stream::Out, "Server listening");
    let (seconds, streams) = (setting("SPLICE_SECONDS", 3), setting("SPLICE_STREAMS", 1));
    let (seconds_text, streams) = (seconds.to_string(), streams.to_string());
    let mut client = ground.root("iperf3");
    client.args(["--json", "--client", "127.0.0.1", "--port", PORT, "--time", &seconds_text]);
    client.args(["--parallel", &streams]);
    // The server is the one in the container: what goes up is what it sends.
    if direction == Direction::Up {
        client.arg("--reverse");
    }
    let before = processor_seconds(&["pasta", "passt"]);
    let outcome = start(client).finish(Duration::from_secs(u64::from(seconds)) + SOON);
    sample(outcome, processor_seconds(&["pasta", "passt"]) - before)
    // Relay, server and container are killed here, by their own handles.
}
