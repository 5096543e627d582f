//! Finding who is meant: an instance by its ID, a container of a network as NETWORK/CONTAINER, or all of a network by its name.
//!
//! Whoever is one, is asked in the same words: a container of a network answers as an instance does, through the network's process.

use serde_json::{Value, json};

use super::{ClientError, Connection};
use crate::cli::native::target::Target;
use crate::config::network::wish::{HostName, NetworkName};
use crate::run::instance::{self, Found};

/// Somebody who answers.
#[derive(Debug)]
pub struct Reached {
    /// What `netferry ps` calls it; nothing where it was reached by a path.
    pub id: Option<String>,
    /// The conversation.
    pub connection: Connection,
}

/// Everybody who is meant.
#[derive(Debug)]
pub struct Meant {
    /// In the order of their names.
    pub all: Vec<Reached>,
    /// They are the containers of a network, however many there are.
    pub is_network: bool,
}

/// Connects to the one that is meant.
pub fn reach(target: &Target) -> Result<Connection, ClientError> {
    let Meant { mut all, .. } = reach_all(target)?;
    match all.pop() {
        Some(one) if all.is_empty() => Ok(one.connection),
        last => {
            all.extend(last);
            Err(ClientError::Several { ids: all.into_iter().filter_map(|one| one.id).collect() })
        }
    }
}

/// Connects to whom is meant: several only by the name of a network.
pub fn reach_all(target: &Target) -> Result<Meant, ClientError> {
    let alone =
        |id: Option<String>, connection| Meant { all: vec![Reached { id, connection }], is_network: false };
    if let Some(path) = &target.control {
        return Ok(alone(None, Connection::open(path)?));
    }
    let Some(id) = &target.id else { return only_one() };
    if let Some((network, container)) = id.split_once('/') {
        return Ok(alone(Some(id.clone()), open_network(network)?.about(container)));
    }
    let mut found = instance::all().into_iter().filter(|found| found.id == *id);
    if let Some(connection) = found.find_map(|Found { path, .. }| Connection::open(&path).ok()) {
        return Ok(alone(Some(id.clone()), connection));
    }
    let is_missing = |found: &Found| found.id != *id;
    if instance::networks().iter().all(is_missing) {
        return Err(ClientError::NoSuchInstance { id: id.clone() });
    }
    let all = containers(id)?;
    if all.is_empty() {
        return Err(ClientError::Deserted { network: id.clone() });
    }
    Ok(Meant { all, is_network: true })
}

/// Connects to what is meant: of a network the whole, as it is and as it will be.
pub fn reach_whole(target: &Target) -> Result<Connection, ClientError> {
    match &target.id {
        Some(id) if !id.contains('/') && instance::all().iter().all(|found| found.id != *id) => {
            match open_network(id) {
                Err(ClientError::NoNetwork { .. }) => reach(target),
                other => other,
            }
        }
        Some(_) | None => reach(target),
    }
}

/// Everybody there is: each instance, and each container of a network.
pub fn everybody() -> Vec<Reached> {
    let mut all = Vec::new();
    for Found { id, path } in instance::all() {
        all.extend(Connection::open(&path).ok().map(|connection| Reached { id: Some(id), connection }));
    }
    for Found { id, .. } in instance::networks() {
        // One that is gone has none.
        all.extend(containers(&id).unwrap_or_default());
    }
    all
}

/// Where nobody is named there is to be no choice.
fn only_one() -> Result<Meant, ClientError> {
    let all = everybody();
    match all.len() {
        0 => Err(ClientError::NoInstance),
        1 => Ok(Meant { all, is_network: false }),
        _ => Err(ClientError::Several { ids: all.into_iter().filter_map(|one| one.id).collect() }),
    }
}

fn open_network(name: &str) -> Result<Connection, ClientError> {
    let missing = || ClientError::NoNetwork { name: super::table::plain(name) };
    let mut found = instance::networks().into_iter().filter(|found| found.id == name);
    found.find_map(|Found { path, .. }| Connection::open(&path).ok()).ok_or_else(missing)
}

/// Everybody on a network.
fn containers(network: &str) -> Result<Vec<Reached>, ClientError> {
    let status = open_network(network)?.ask("status", json!({}))?;
    let names = containers_of(&status).map(str::to_owned).collect::<Vec<_>>();
    let about = |name: String| {
        let connection = open_network(network)?.about(&name);
        Ok(Reached { id: Some(format!("{network}/{name}")), connection })
    };
    names.into_iter().map(about).collect()
}

/// The names that a network tells in its status.
pub fn containers_of(status: &Value) -> impl Iterator<Item = &str> {
    let names = status["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    names.iter().filter_map(Value::as_str)
}

/// Whether a word names somebody: it is a number, NETWORK/CONTAINER, or what an instance or a network is called.
#[must_use]
pub fn is_name(word: &str) -> bool {
    let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_container = word.split_once('/').is_some_and(|(network, container)| {
        network.parse::<NetworkName>().is_ok() && container.parse::<HostName>().is_ok()
    });
    let is_known = |found: Vec<Found>| found.iter().any(|found| found.id == word);
    is_number || is_container || is_known(instance::all()) || is_known(instance::networks())
}

/// Whether somebody has left since he was found: of several, the others are still there.
#[must_use]
pub fn has_left(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { code, .. } if code == "not-found")
}
