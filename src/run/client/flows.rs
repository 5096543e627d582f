//! `netferry flows`: page after page, as a table, as JSON, or to be ended.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::reach::{Meant, Reached, has_left};
use super::table::{self, duration, plain, short};
use super::{ClientError, Connection, reach_all};
use crate::cli::native::flows::Flows;

/// Names of one request to end flows.
const KILLED_AT_ONCE: usize = 128;

/// Carries it out.
pub fn run(flows: &Flows) -> Result<u8, ClientError> {
    let mut meant = reach_all(&flows.selection.target())?;
    if flows.kill {
        return kill(flows, &mut meant);
    }
    let interval = flows.interval().ok().flatten();
    loop {
        let shown = all_of(flows, &mut meant)?;
        let text = match (flows.json, interval) {
            (true, None) => format!("{:#}\n", Value::Array(shown)),
            (true, Some(_)) => format!("{}\n", Value::Array(shown)),
            (false, _) => render(&shown, meant.is_network),
        };
        let mut out = io::stdout();
        // A terminal shows the new in the place of the old.
        let clear = if interval.is_some() && !flows.json && out.is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        out.write_all(clear.as_bytes())
            .and_then(|()| out.write_all(text.as_bytes()))
            .and_then(|()| out.flush())
            .map_err(ClientError::Output)?;
        let Some(seconds) = interval else { return Ok(0) };
        wait(Duration::from_secs_f64(seconds));
        if meant.is_network {
            // Others may have come.
            meant = reach_all(&flows.selection.target())?;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "there is nothing to wait for but the time")]
fn wait(interval: Duration) {
    std::thread::sleep(interval);
}

/// Those of everybody, each with whose it is.
fn all_of(flows: &Flows, meant: &mut Meant) -> Result<Vec<Value>, ClientError> {
    let mut all = Vec::new();
    for Reached { id, connection } in &mut meant.all {
        match of_one(flows, connection) {
            Err(error) if meant.is_network && has_left(&error) => {}
            other => all.extend(other?.into_iter().map(|mut flow| {
                if let Some(id) = id {
                    flow["instance"] = id.as_str().into();
                }
                flow
            })),
        }
    }
    Ok(all)
}

fn of_one(flows: &Flows, connection: &mut Connection) -> Result<Vec<Value>, ClientError> {
    let mut all = fetch(connection, &flows.selection.filter())?;
    if !flows.id.is_empty() {
        all.retain(|flow| flow["id"].as_str().is_some_and(|id| flows.id.iter().any(|wanted| wanted == id)));
    }
    Ok(all)
}

/// Every flow that a filter means.
pub fn fetch(connection: &mut Connection, filter: &str) -> Result<Vec<Value>, ClientError> {
    let mut all = Vec::new();
    let mut from = json!(0);
    while !from.is_null() {
        let mut page = connection.ask("flows", json!({ "filter": filter, "from": from }))?;
        if let Some(flows) = page["flows"].as_array_mut() {
            all.append(flows);
        }
        let next = page["next"].take();
        if next == from {
            return Err(ClientError::Broken("the pages of its flows have no end".to_owned()));
        }
        from = next;
    }
    Ok(all)
}

fn kill(flows: &Flows, meant: &mut Meant) -> Result<u8, ClientError> {
    let mut ended = 0;
    for Reached { connection, .. } in &mut meant.all {
        match kill_of_one(flows, connection) {
            Err(error) if meant.is_network && has_left(&error) => {}
            other => ended += other?,
        }
    }
    let text =
        if flows.json { format!("{}\n", json!({ "ended": ended })) } else { format!("{ended} ended\n") };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

fn kill_of_one(flows: &Flows, connection: &mut Connection) -> Result<u64, ClientError> {
    let names: Vec<Value> = of_one(flows, connection)?.iter_mut().map(|flow| flow["id"].take()).collect();
    let mut ended = 0;
    for some in names.chunks(KILLED_AT_ONCE) {
        let outcome = connection.ask("kill", json!({ "flows": some }))?;
        ended += outcome["ended"].as_u64().unwrap_or(0);
    }
    Ok(ended)
}

fn render(flows: &[Value], are_of_several: bool) -> String {
    let heading = [
        "PROTO",
        "STATE",
        "CONTAINER",
        "",
        "REMOTE",
        "HOST",
        "PEER",
        "AGE",
        "IDLE",
        "UP",
        "DOWN",
        "RETX",
        "RTT",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(flows.iter().map(row));
    if !are_of_several {
        return table::render(&rows, &[7, 8, 9, 10, 11, 12]);
    }
    let whose = flows.iter().map(|flow| flow["instance"].as_str().map_or_else(String::new, plain));
    for (row, whose) in rows.iter_mut().zip(std::iter::once("ID".to_owned()).chain(whose)) {
        row.insert(0, whose);
    }
    table::render(&rows, &[8, 9, 10, 11, 12, 13])
}

fn row(flow: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), plain);
    let time = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), duration);
    let bytes = |direction: &str| flow[direction]["bytes"].as_u64().map_or_else(|| "-".to_owned(), short);
    let retransmissions = [&flow["retransmissions"], &flow["host_tcp"]["retransmissions"]]
        .map(|count| count.as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string()))
        .join("/");
    let round_trip = flow["host_tcp"]["round_trip_seconds"].as_f64();
    let path = if flow["path"] == "splice" { "*" } else { "" };
    vec![
        format!("{}{path}", text(&flow["protocol"])),
        text(&flow["state"]),
        text(&flow["container"]["local"]),
        if flow["begun_by"] == "host" { "<-" } else { "->" }.to_owned(),
        text(&flow["container"]["remote"]),
        text(&flow["host"]["local"]),
        text(&flow["host"]["remote"]),
        time(&flow["age_seconds"]),
        time(&flow["idle_seconds"]),
        bytes("from_container"),
        bytes("to_container"),
        if flow["protocol"] == "tcp" { retransmissions } else { "-".to_owned() },
        round_trip.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1}ms", seconds * 1e3)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_a_row() {
        let flow = json!({
            "id": "f1.0", "protocol": "tcp", "path": "nat", "state": "established", "begun_by": "container",
            "container": { "local": "10.0.2.100:40000", "remote": "192.0.2.1:443" },
            "host": { "local": "203.0.113.1:50000", "remote": null },
            "age_seconds": 61.0, "idle_seconds": 0.5,
            "from_container": { "packets": 3, "bytes": 1_234_567 }, "to_container": { "packets": 2, "bytes": 80 },
            "retransmissions": 1, "host_tcp": { "retransmissions": 0, "round_trip_seconds": 0.0123 },
        });
        let text = render(&[flow], false);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let expected = [
            "tcp",
            "established",
            "10.0.2.100:40000",
            "->",
            "192.0.2.1:443",
            "203.0.113.1:50000",
            "-",
            "1m01s",
            "0.5s",
            "1.2M",
            "80",
            "1/0",
            "12.3ms",
        ];
        assert_eq!(cells, expected);
    }
}
