//! The commands that ask running instances: one file each.
//!
//! What they have in common is here: finding the instance that is meant, and talking to it (docs/control.md).

mod audit;
mod capture;
mod connection;
mod explain;
pub mod flows;
mod impair;
mod metrics;
pub mod network;
mod ps;
mod reach;
mod resolve;
mod rules;
mod shape;
mod table;
#[cfg(feature = "top")]
mod top;
mod words;

use std::io;
use std::path::PathBuf;

use super::RunError;
use super::policy::PolicyError;
use crate::cli::ClientCommand;

pub use self::connection::Connection;
pub use self::reach::{reach, reach_all};

/// Why a command failed. The text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No instance at all.
    #[error("there is no instance to ask; `netferry run` or `netferry attach` starts one")]
    NoInstance,
    /// More than one, and none was named.
    #[error("there are several instances: {}; name one of them", ids.join(", "))]
    Several {
        /// Which.
        ids: Vec<String>,
    },
    /// None of this name.
    #[error("there is no instance {id}; see `netferry ps`")]
    NoSuchInstance {
        /// As given.
        id: String,
    },
    /// A network with nobody on it.
    #[error(
        "there is no container on network {network}; `netferry run --network {network}` brings one there"
    )]
    Deserted {
        /// As given.
        network: String,
    },
    /// A socket that cannot be connected to.
    #[error("cannot ask at {}: {source}", path.display())]
    Connect {
        /// Which.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The instance has refused.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// The conversation ended before its end, or was none.
    #[error("the instance cannot be understood: {0}")]
    Broken(String),
    /// A file of rules.
    #[error(transparent)]
    Rules(#[from] PolicyError),
    /// What is to be explained makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// A name that cannot be resolved.
    #[error("{name}: {why}")]
    Unresolved {
        /// As given.
        name: String,
        /// What the resolvers said.
        why: String,
    },
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// No network of this name.
    #[error(
        "there is no network {name}; `netferry network create {name}` makes it, `netferry network ls` lists those there are"
    )]
    NoNetwork {
        /// As given.
        name: String,
    },
    /// A network of this name is there already.
    #[error(
        "there is a network {name} already; choose another name, or end it with `netferry network rm {name}`"
    )]
    NetworkExists {
        /// As given.
        name: String,
    },
    /// Nobody of this name on the network.
    #[error("there is no {container} on network {network}; see `netferry network inspect {network}`")]
    NoMember {
        /// As given.
        network: String,
        /// As given.
        container: String,
    },
    /// What is asked for cannot be.
    #[error("{0}")]
    Unusable(String),
    /// What networks are known by cannot be kept.
    #[error("cannot keep the sockets of networks: {source}; set XDG_RUNTIME_DIR to a directory of yours")]
    Place {
        /// The kernel's word.
        source: io::Error,
    },
    /// Something of a set-up failed.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
    /// Nowhere to write to.
    #[error("cannot write: {0}")]
    Output(io::Error),
}

impl ClientError {
    /// What to exit with: 2 for a mistake on the command line.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if matches!(self, ClientError::Usage(_)) { 2 } else { 1 }
    }
}

impl From<RunError> for ClientError {
    fn from(error: RunError) -> ClientError {
        ClientError::Run(Box::new(error))
    }
}

/// Carries a command out; the status to exit with.
pub fn run(command: &ClientCommand) -> Result<u8, ClientError> {
    let outcome = match command {
        ClientCommand::Capture(capture) => capture::run(capture),
        ClientCommand::Impair(impair) => impair::run(impair),
        ClientCommand::Ps(ps) => ps::run(ps),
        ClientCommand::Rules(rules) => rules::run(rules),
        ClientCommand::Explain(explain) => explain::run(explain),
        ClientCommand::Shape(shape) => shape::run(shape),
        ClientCommand::Flows(flows) => flows::run(flows),
        ClientCommand::Metrics(metrics) => metrics::run(metrics),
        ClientCommand::Audit(audit) => audit::run(audit),
        #[cfg(feature = "top")]
        ClientCommand::Top(top) => top::run(top),
        ClientCommand::Network(asked) => network::command(asked),
    };
    match outcome {
        // Whoever reads only the beginning has seen enough.
        Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other,
    }
}
