//! `netferry ps`: everyone who answers.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::reach::{containers_of, has_left};
use super::table::{self, duration, plain, short};
use super::{ClientError, Connection};
use crate::cli::native::ps::Ps;
use crate::run::instance::{self, Found};

/// Carries it out.
pub fn run(ps: &Ps) -> Result<u8, ClientError> {
    let mut instances = Vec::new();
    for Found { path, .. } in instance::all() {
        let asked = Connection::open(&path).and_then(|mut connection| connection.ask("status", json!({})));
        if let Ok(mut status) = asked {
            name_container(&mut status);
            instances.push(status);
        }
    }
    for Found { path, .. } in instance::networks() {
        // One that ends meanwhile is not there.
        instances.extend(network(&path).unwrap_or_default());
    }
    let text = if ps.json { format!("{:#}\n", Value::Array(instances)) } else { render(&instances) };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

/// A network, with what its containers have and carry together, and those.
fn network(path: &Path) -> Result<Vec<Value>, ClientError> {
    let mut whole = Connection::open(path)?.ask("status", json!({}))?;
    let mut all = Vec::new();
    for name in containers_of(&whole) {
        match Connection::open(path)?.about(name).ask("status", json!({})) {
            Err(error) if has_left(&error) => {}
            other => all.push(other?),
        }
    }
    let sum = |of: fn(&Value) -> &Value| all.iter().filter_map(|one| of(one).as_u64()).sum::<u64>();
    let (flows, up, down) = (
        sum(|one| &one["flows"]),
        sum(|one| &one["from_container"]["bytes_per_second"]),
        sum(|one| &one["to_container"]["bytes_per_second"]),
    );
    whole["container"] = json!({ "addresses": whole["addresses"].take() });
    whole["flows"] = flows.into();
    whole["from_container"] = json!({ "bytes_per_second": up });
    whole["to_container"] = json!({ "bytes_per_second": down });
    all.insert(0, whole);
    Ok(all)
}

/// A process has a name, which the instance may not see any more.
fn name_container(status: &mut Value) {
    let container = &mut status["container"];
    if let (Some(pid), Value::Null) = (container["pid"].as_i64(), &container["name"])
        && let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm"))
    {
        container["name"] = name.trim_end().into();
    }
}

fn render(instances: &[Value]) -> String {
    let heading =
        ["ID", "FACE", "PID", "NETNS", "CPID", "CONTAINER", "ADDRESSES", "UP", "FLOWS", "UP/S", "DOWN/S"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(instances.iter().map(row));
    table::render(&rows, &[2, 3, 4, 7, 8, 9, 10])
}

fn row(status: &Value) -> Vec<String> {
    let container = &status["container"];
    let addresses = container["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
    let rate = |direction: &str| short(status[direction]["bytes_per_second"].as_u64().unwrap_or(0));
    vec![
        text(&status["id"]),
        text(&status["face"]),
        text(&status["pid"]),
        text(&container["namespace"]),
        text(&container["pid"]),
        text(&container["name"]),
        plain(&addresses.join(",")),
        duration(status["uptime_seconds"].as_f64().unwrap_or(0.0)),
        text(&status["flows"]),
        rate("from_container"),
        rate("to_container"),
    ]
}

/// A text or a number; a dash where there is none.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
