//! `netferry network`: networks of several containers, asked for and asked about.
//!
//! A network is a process of its own (`crate::run::network`), found by its socket ([`place`]). The commands here do what it
//! cannot, being confined: they choose subnets and addresses, enter namespaces, make interfaces there, and hand them over.

mod create;
mod join;
mod place;

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use serde_json::{Value, json};

pub use self::join::run;

use self::create::ensure;
use self::join::read_status;
use self::place::Place;
use super::table::{self, plain};
use super::{ClientError, Connection};
use crate::cli::native::network::{Disconnect, Inspect, Ls, Network, NetworkAction, Publish, Rm};
use crate::config::network::lease::meant_by;
use crate::config::network::wish::NetworkName;
use crate::config::network::{NetworkConfig, NetworkRequest};
use crate::control::network as language;

/// Carries it out; the status to exit with.
pub fn command(asked: &Network) -> Result<u8, ClientError> {
    let place = Place::own()?;
    match &asked.action {
        NetworkAction::Create(create) => create::create(&place, create),
        NetworkAction::Connect(connect) => join::connect(&place, connect),
        NetworkAction::Disconnect(disconnect) => self::disconnect(&place, disconnect),
        NetworkAction::Ls(ls) => list(&place, ls),
        NetworkAction::Inspect(inspect) => self::inspect(&place, inspect),
        NetworkAction::Rm(rm) => remove(&place, rm),
        NetworkAction::Publish(publish) => {
            change_ports(&place, publish, |id, rules| NetworkRequest::Publish { id, rules })
        }
        NetworkAction::Unpublish(unpublish) => {
            change_ports(&place, &unpublish.ports, |id, rules| NetworkRequest::Unpublish { id, rules })
        }
    }
}

/// Asks the process of a network.
fn ask(
    connection: &mut Connection,
    request: &NetworkRequest,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Value, ClientError> {
    let (name, arguments) = language::encode(request);
    connection.ask_with(name, Value::Object(arguments), descriptors)
}

fn disconnect(place: &Place, asked: &Disconnect) -> Result<u8, ClientError> {
    let (mut connection, _, id) = member(place, &asked.network, &asked.container)?;
    ask(&mut connection, &NetworkRequest::Disconnect { id }, &[])?;
    Ok(0)
}

/// The network, and which of its members is meant.
fn member(
    place: &Place,
    network: &NetworkName,
    container: &str,
) -> Result<(Connection, NetworkConfig, String), ClientError> {
    let mut connection = place.reach(network)?;
    let status = ask(&mut connection, &NetworkRequest::Inspect { brief: true }, &[])?;
    let (config, present) = read_status(&status)?;
    let found = meant_by(present.iter(), container).map(|member| member.id.clone());
    let missing = || ClientError::NoMember { network: network.to_string(), container: plain(container) };
    Ok((connection, config, found.ok_or_else(missing)?))
}

fn change_ports(
    place: &Place,
    asked: &Publish,
    request: impl FnOnce(String, Vec<crate::config::PublishRule>) -> NetworkRequest,
) -> Result<u8, ClientError> {
    let (mut connection, network, id) = member(place, &asked.network, &asked.container)?;
    let rules = join::rules(&network, &asked.specs)?;
    ask(&mut connection, &request(id, rules), &[])?;
    Ok(0)
}

fn inspect(place: &Place, asked: &Inspect) -> Result<u8, ClientError> {
    let status = ask(&mut place.reach(&asked.network)?, &NetworkRequest::Inspect { brief: false }, &[])?;
    print(&format!("{status:#}\n"))
}

fn list(place: &Place, asked: &Ls) -> Result<u8, ClientError> {
    let (mut all, request) = (Vec::new(), NetworkRequest::Inspect { brief: !asked.json });
    for name in place.names()? {
        let Some(mut connection) = place.open(&name)? else { continue };
        all.push(ask(&mut connection, &request, &[])?);
    }
    if asked.json {
        return print(&format!("{:#}\n", Value::Array(all)));
    }
    let heading = ["NETWORK", "SUBNET", "SUBNET6", "MTU", "KIND", "CONTAINERS"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(row));
    print(&table::render(&rows, &[3]))
}

fn row(status: &Value) -> Vec<String> {
    let text = |name: &str| status[name].as_str().map_or_else(|| "-".to_owned(), plain);
    let flag = |name: &str| status[name] == json!(true);
    let kind = match (flag("isolated"), flag("internal")) {
        (false, false) => "open",
        (true, false) => "isolated",
        (false, true) => "internal",
        (true, true) => "isolated,internal",
    };
    let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = members.iter().filter_map(|member| member["name"].as_str()).map(plain).collect();
    let names = if names.is_empty() { "-".to_owned() } else { names.join(",") };
    vec![text("name"), text("subnet"), text("subnet6"), status["mtu"].to_string(), kind.to_owned(), names]
}

fn print(text: &str) -> Result<u8, ClientError> {
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

/// Ends each, and waits until it is gone, so that its name and its subnets are free.
fn remove(place: &Place, asked: &Rm) -> Result<u8, ClientError> {
    for name in &asked.networks {
        let _lock = place.lock_all()?;
        let mut connection = place.reach(name)?;
        ask(&mut connection, &NetworkRequest::Remove { force: asked.force }, &[])?;
        // Its end is heard: the last that it has of this is the connection.
        while connection.hear()?.is_some() {}
        place.clear(name)?;
    }
    Ok(0)
}
