//! netferry in the place of slirp4netns, beside the original: a published port, as podman's `port_handler=slirp4netns` and
//! RootlessKit's `--port-driver=slirp4netns` make it.
//!
//! `cargo bench --bench clients`. Both are started with the same arguments and told over the API socket to publish the port;
//! an iperf3 server is in the container, its client in the world. They take turns inside each round. Reno everywhere and the
//! kernel's own buffer limits.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `CLIENTS_SECONDS` | length of one run | 3 |
//! | `CLIENTS_ROUNDS` | runs behind each median | 3 |
//! | `CLIENTS_MTU` | MTUs, separated by spaces | `1500 65520` |
//! | `CLIENTS_STREAMS` | parallel connections | 1 |
//! | `CLIENTS_ORIGINAL` | the original | `slirp4netns` |
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
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ground::{Ground, HOST4, SCRATCH, SUBJECT, find_program};
use measure::{
    Direction, Sample, container, inside, processor_seconds, report, sample, setting, settle, wait_for_route,
};
use process::{SOON, Stream, start};

/// The host's port that is published.
const PORT: &str = "15201";

fn main() {
    let ground = measure::ground();
    let original = env::var("CLIENTS_ORIGINAL").unwrap_or_else(|_| "slirp4netns".to_owned());
    let Some(original) = find_program(&original).and_then(|path| path.to_str().map(str::to_owned)) else {
        println!("{original} is not installed: nothing to compare with");
        return;
    };
    let ours = format!("{SCRATCH}/slirp4netns");
    symlink(SUBJECT, &ours).expect("the scratch directory is writable");
    let relays = [("netferry", ours.as_str()), ("slirp4netns", original.as_str())];
    let rounds = setting("CLIENTS_ROUNDS", 3);
    println!("single runs of {} s, {rounds} rounds, congestion control reno", setting("CLIENTS_SECONDS", 3));
    let mtus = env::var("CLIENTS_MTU").unwrap_or_else(|_| "1500 65520".to_owned());
    for mtu in mtus.split_whitespace() {
        for direction in [Direction::Up, Direction::Down] {
            let mut samples = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (collected, (_, program)) in samples.iter_mut().zip(relays) {
                    collected.push(measure(&ground, program, mtu, direction));
                }
            }
            let title = format!("published port, MTU {mtu}, {direction:?}");
            let medians =
                report(&title, &[(relays[0].0, samples[0].as_slice()), (relays[1].0, samples[1].as_slice())]);
            println!("\nnetferry is {:.1} times the original", medians[0] / medians[1]);
        }
    }
}

/// A container and a relay, iperf3 once through a published port.
fn measure(ground: &Ground, program: &str, mtu: &str, direction: Direction) -> Sample {
    let (_container, pid) = container(ground);
    settle(ground, &pid, "reno");
    let socket = format!("{SCRATCH}/api-{pid}.sock");
    let mut command = ground.user(program);
    command.args(["--configure", "--mtu", mtu, "--api-socket", &socket, &pid, "tap0"]);
    let relay = start(command);
    wait_for_route(ground, &pid, &relay);
    publish(&socket);

    let mut server = start(inside(ground, &pid, "exec iperf3 --server --one-off --forceflush"));
    server.wait_for(Stream::Out, "Server listening");
    let (seconds, streams) = (setting("CLIENTS_SECONDS", 3), setting("CLIENTS_STREAMS", 1));
    let (host, seconds_text, streams) = (HOST4.to_string(), seconds.to_string(), streams.to_string());
    let mut client = ground.root("iperf3");
    client.args(["--json", "--client", &host, "--port", PORT, "--time", &seconds_text]);
    client.args(["--parallel", &streams]);
    // The server is the one in the container: what goes up is what it sends.
    if direction == Direction::Up {
        client.arg("--reverse");
    }
    let names = ["netferry", "slirp4netns"];
    let before = processor_seconds(&names);
    let outcome = ground.in_world(|| start(client).finish(Duration::from_secs(u64::from(seconds)) + SOON));
    sample(outcome, processor_seconds(&names) - before)
    // Relay, server and container are killed here, by their own handles.
}

/// Publishes the port as podman does: one request, a newline, the end of the stream; then the whole answer.
fn publish(socket: &str) {
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("{socket}: {error}"));
    let request = format!(
        "{{\"execute\":\"add_hostfwd\",\"arguments\":{{\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\",\
         \"host_port\":{PORT},\"guest_addr\":\"\",\"guest_port\":5201}}}}\n"
    );
    stream.write_all(request.as_bytes()).expect("the relay reads requests");
    stream.shutdown(Shutdown::Write).expect("an open stream");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the relay answers");
    assert!(answer.contains("\"return\""), "the port was not published: {answer}");
}
