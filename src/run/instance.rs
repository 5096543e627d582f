//! Where the control sockets of a user's instances are, and how an instance gets and loses its own.
//!
//! Sockets lie side by side as `ID.sock` in a directory for their owner alone: `$XDG_RUNTIME_DIR/netferry`; without that
//! variable `/run/user/UID/netferry`, and where there is no such place `/tmp/netferry-UID`. An instance takes the first that it can use;
//! whoever looks for instances looks in all. The ID is the process id, with a number behind it where another instance
//! has that name (from another PID namespace). At the end a janitor removes the socket ([`crate::sys::janitor`]); what a
//! janitor that was killed has left nobody answers at, and it is removed by the next who looks.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tracing::debug;

use super::RunError;
use crate::cli::{ControlPlace, Plan};
use crate::control::http::Scraper;
use crate::control::native::Client;
use crate::control::{ControlError, Server};
use crate::sys::janitor::{self, Janitor};
use crate::sys::user;
use crate::worker::Worker;
use crate::worker::answer::Identity;

/// Behind the ID.
const SUFFIX: &str = "sock";

/// Where the sockets of networks lie, below those of instances.
pub const NETWORKS: &str = "networks";

/// Names that are tried for one process id.
const NAMES: u32 = 16;

/// What tells others of an instance, bound before it is confined.
pub struct Observed {
    presence: Option<Presence>,
    metrics: Option<Server<Scraper>>,
    identity: Identity,
}

impl Observed {
    /// Takes its places, as the plan has it.
    pub fn begin(plan: &Plan, identity: Identity) -> Result<Observed, RunError> {
        let metrics = plan.metrics.map(|address| Server::listen("--metrics", address)).transpose()?;
        Ok(Observed { presence: Presence::begin(plan, identity.clone())?, metrics, identity })
    }

    /// Has the driver take requests there. What is answered beside it has to be kept for as long as the driver runs.
    pub fn serve(self, worker: Worker) -> io::Result<(Worker, Option<Janitor>)> {
        let id = self.identity.pid.to_string();
        let mut worker = worker.with_identity(Identity { id, ..self.identity });
        let mut janitor = None;
        if let Some(presence) = self.presence {
            let (served, its_janitor) = presence.serve(worker)?;
            (worker, janitor) = (served, Some(its_janitor));
        }
        if let Some(metrics) = self.metrics {
            worker = worker.with_metrics(metrics)?;
        }
        Ok((worker, janitor))
    }
}

/// An instance's place among the others, for as long as it lives.
struct Presence {
    server: Server<Client>,
    janitor: Janitor,
    identity: Identity,
}

impl Presence {
    /// Takes a place, as the plan has it. Only a path that was asked for is worth an error.
    fn begin(plan: &Plan, identity: Identity) -> Result<Option<Presence>, RunError> {
        let filtered = plan.confinement.has_filter();
        match &plan.control {
            ControlPlace::None => Ok(None),
            ControlPlace::Default => match Presence::among_others(identity, filtered) {
                Ok(presence) => Ok(Some(presence)),
                Err(error) => {
                    debug!(%error, "there is no control socket");
                    Ok(None)
                }
            },
            ControlPlace::Path(path) => {
                let bind = |source| {
                    let path = path.clone();
                    RunError::Control(ControlError::Bind { option: "--control", path, source })
                };
                let path = std::path::absolute(path).map_err(bind)?;
                if is_alive(&path) {
                    return Err(bind(io::ErrorKind::AddrInUse.into()));
                }
                let server = Server::bind("--control", &path)?;
                Ok(Some(Presence::at(&path, server, identity, filtered).map_err(bind)?))
            }
        }
    }

    fn among_others(mut identity: Identity, filtered: bool) -> io::Result<Presence> {
        let directory = own_directory()?;
        let pid = identity.pid;
        let mut names = (1..=NAMES).map(|n| if n == 1 { pid.to_string() } else { format!("{pid}-{n}") });
        let free = names.find(|name| !is_alive(&socket_path(&directory, name)));
        identity.id = free.ok_or(io::ErrorKind::AddrInUse)?;
        let path = socket_path(&directory, &identity.id);
        let server = Server::bind("--control", &path).map_err(io::Error::other)?;
        Presence::at(&path, server, identity, filtered)
    }

    fn at(
        path: &Path,
        server: Server<Client>,
        mut identity: Identity,
        filtered: bool,
    ) -> io::Result<Presence> {
        if identity.id.is_empty() {
            identity.id = identity.pid.to_string();
        }
        // If it cannot be started, the server removes its socket itself, here and now.
        let janitor = janitor::start(path, filtered)?;
        let mut server = server.for_user(user::own());
        server.leave_path();
        Ok(Presence { server, janitor, identity })
    }

    /// Has the driver take requests there. The janitor has to be kept for as long as the driver runs.
    fn serve(self, worker: Worker) -> io::Result<(Worker, Janitor)> {
        Ok((worker.with_identity(self.identity).with_control(self.server)?, self.janitor))
    }
}

/// A socket that somebody may answer at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the instance is called.
    pub id: String,
    /// Where it answers.
    pub path: PathBuf,
}

/// Every socket of this user's instances, by their IDs.
#[must_use]
pub fn all() -> Vec<Found> {
    sockets_in(directories())
}

/// Every socket of this user's networks, by their names.
#[must_use]
pub fn networks() -> Vec<Found> {
    sockets_in(directories().iter().map(|directory| directory.join(NETWORKS)))
}

fn sockets_in(directories: impl IntoIterator<Item = PathBuf>) -> Vec<Found> {
    let mut found = Vec::new();
    for directory in directories.into_iter().filter(|directory| is_ours(directory)) {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_socket = fs::symlink_metadata(&path).is_ok_and(|data| data.file_type().is_socket());
            if let (true, Some("sock"), Some(id)) = (
                is_socket,
                path.extension().and_then(|extension| extension.to_str()),
                path.file_stem().and_then(|stem| stem.to_str()),
            ) {
                found.push(Found { id: id.to_owned(), path: path.clone() });
            }
        }
    }
    // Numbers by their size.
    found.sort_by_key(|found| {
        (found.id.split('-').next().and_then(|id| id.parse::<u64>().ok()), found.id.clone())
    });
    found.dedup_by(|a, b| a.path == b.path);
    found
}

/// Connects to a socket, as root in the name of its owner; one that nobody answers at any more is removed.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let owner = fs::symlink_metadata(path).map_or_else(|_| user::own(), |data| data.uid());
    let outcome = user::acting_as(owner, || UnixStream::connect(path));
    if let Err(error) = &outcome
        && error.kind() == io::ErrorKind::ConnectionRefused
        && directories().iter().any(|directory| path.parent() == Some(directory))
    {
        // Somebody else may have done so.
        let _ = fs::remove_file(path);
    }
    outcome
}

fn is_alive(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

fn socket_path(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}.{SUFFIX}"))
}

/// Where sockets may lie, the best place first.
fn directories() -> Vec<PathBuf> {
    let user = user::own();
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = given.into_iter().chain([PathBuf::from(format!("/run/user/{user}"))]);
    let mut all: Vec<PathBuf> = own.map(|directory| directory.join("netferry")).collect();
    all.push(std::env::temp_dir().join(format!("netferry-{user}")));
    all.dedup();
    all
}

/// The first of them that is ours or can be made.
pub fn own_directory() -> io::Result<PathBuf> {
    let mut refusal = io::Error::from(io::ErrorKind::NotFound);
    for directory in directories() {
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                refusal = error;
                continue;
            }
        }
        if is_ours(&directory) {
            return Ok(directory);
        }
        refusal = io::Error::other(format!("{} is not for us alone", directory.display()));
    }
    Err(refusal)
}

/// Whether nobody else can have put anything there.
pub fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory)
        .is_ok_and(|data| data.is_dir() && data.uid() == user::own() && data.mode() & 0o077 == 0)
}
