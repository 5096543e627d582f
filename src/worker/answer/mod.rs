//! What can be asked of a running instance in our own language, one file for each request.
//!
//! A handler is given the driver between two batches of packets, reads its arguments, and answers in bounded time:
//! what is long is answered in pages. A new request is a file here, a line in [`HANDLERS`], and a row in docs/control.md.

mod capture;
mod explain;
pub mod flows;
mod impair;
mod kill;
pub(super) mod metrics;
pub mod rate;
mod rules;
mod shape;
mod status;

use std::net::IpAddr;

use super::Worker;
use super::crew::inquiry::OF_EACH;
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, RefusalCode, Request};

/// Carries a request out.
type Handler = fn(&mut Worker, ClientName, &mut Request) -> Result<Answer, Refusal>;

/// Every request there is, by name.
pub const HANDLERS: &[(&str, Handler)] = &[
    ("rules", rules::answer),
    ("reload-rules", rules::reload),
    ("explain", explain::answer),
    ("names", explain::names),
    ("failures", explain::failures),
    ("capture", capture::answer),
    ("impair", impair::answer),
    ("shape", shape::answer),
    ("flows", flows::answer),
    ("kill", kill::answer),
    ("metrics", metrics::answer),
    ("status", status::answer),
];

/// What an instance of several workers answers as one of one does: it is the leader's, or is counted all the while.
const BY_LEADER: [&str; 5] = ["status", "rules", "explain", "names", "metrics"];

/// Who this instance is, and for whom it is there: what its own user may be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// What the instance is called; its process id, mostly.
    pub id: String,
    /// `run`, `attach`, `slirp4netns` or `pasta`.
    pub face: &'static str,
    /// Our process.
    pub pid: u32,
    /// A process of the container, where one is known: the command of `run`, the PID of `attach`.
    pub container_pid: Option<i32>,
    /// What names the container: the command, the path, as far as known.
    pub container: Option<String>,
    /// The network namespace, by its inode.
    pub namespace: Option<u64>,
    /// Name of the interface in the container.
    pub interface: String,
    /// The container's addresses, as they were set up.
    pub addresses: Vec<IpAddr>,
}

/// Answers one request.
pub(super) fn answer(
    worker: &mut Worker,
    client: ClientName,
    request: &mut Request,
) -> Result<Answer, Refusal> {
    let name = request.name.as_str();
    let is_known = HANDLERS.iter().any(|(known, _)| *known == name);
    if worker.crew_size() == 1 || !is_known || BY_LEADER.contains(&name) {
        return answer_alone(worker, client, request);
    }
    if OF_EACH.contains(&name) {
        return worker.ask_each(client, request);
    }
    let message = format!("{name} is answered by one worker alone; start the instance without --workers");
    Err(Refusal::new(RefusalCode::Refused, message))
}

/// The same for this worker, whatever others there are.
pub(super) fn answer_alone(
    worker: &mut Worker,
    client: ClientName,
    request: &mut Request,
) -> Result<Answer, Refusal> {
    match HANDLERS.iter().find(|(name, _)| *name == request.name) {
        Some((_, handler)) => handler(worker, client, request),
        None => Err(unknown(&request.name)),
    }
}

fn unknown(name: &str) -> Refusal {
    let known: Vec<&str> = HANDLERS.iter().map(|(name, _)| *name).collect();
    let name: String = name.chars().take(40).collect();
    let message = format!("there is no request {name:?}; there are: {}", known.join(", "));
    Refusal::new(RefusalCode::UnknownRequest, message)
}
