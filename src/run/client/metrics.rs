//! `netferry metrics`: the text as it comes, or a page of everybody's.

use std::io::{self, Write};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use super::reach::{Meant, Reached, everybody, has_left};
use super::{ClientError, reach_all};
use crate::cli::native::metrics::Metrics;
use crate::cli::native::target::Target;
use crate::cli::values;
use crate::control::Server;
use crate::control::http::{Format, Scraper};
use crate::observe::metrics::merged;
use crate::run::say;
use crate::worker::clock::Clock;

/// Carries it out.
pub fn run(metrics: &Metrics) -> Result<u8, ClientError> {
    if let Some(address) = &metrics.listen {
        return serve(address, &metrics.target);
    }
    let format = if metrics.prometheus { "prometheus" } else { "openmetrics" };
    let mut all = Vec::new();
    let Meant { all: mut reached, is_network } = reach_all(&metrics.target)?;
    for Reached { connection, .. } in &mut reached {
        match connection.ask("metrics", json!({ "format": format })) {
            Err(error) if is_network && has_left(&error) => {}
            other => all.push(other?),
        }
    }
    let mut answer = json!({ "content_type": null, "text": text_of(&all) });
    if let Some(first) = all.first() {
        answer["content_type"] = first["content_type"].clone();
    }
    let text = if metrics.json {
        format!("{answer:#}\n")
    } else {
        answer["text"].as_str().unwrap_or_default().to_owned()
    };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

fn text_of(answers: &[Value]) -> String {
    let texts: Vec<&str> = answers.iter().filter_map(|answer| answer["text"].as_str()).collect();
    merged(&texts)
}

/// A page for as long as nobody ends us. Each request asks anew: instances come and go.
fn serve(address: &str, target: &Target) -> Result<u8, ClientError> {
    let address =
        values::listening("--listen", address).map_err(|error| ClientError::Usage(error.to_string()))?;
    let unusable = |error: &dyn std::fmt::Display| ClientError::Unusable(error.to_string());
    let mut server = Server::<Scraper>::listen("--listen", address).map_err(|error| unusable(&error))?;
    let mut poll = Poll::new().map_err(|error| unusable(&error))?;
    let descriptor = server.as_raw_fd();
    let registered = poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE);
    registered.map_err(|error| unusable(&error))?;
    say(&format!("metrics are at http://{address}/metrics"));
    let (clock, mut events) = (Clock::start(), Events::with_capacity(1));
    loop {
        let mut has_more = true;
        while has_more {
            has_more = server.handle_events(clock.now(), |_, format| page(target, format));
        }
        let wait = server.poll_timeout().map(|deadline| deadline.total_micros() - clock.now().total_micros());
        let wait = wait.map(|micros| std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
        match poll.poll(&mut events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(unusable(&error)),
            _ => {}
        }
    }
}

/// Of whoever is there and answers. Who does not is told of on standard error, and left out.
fn page(target: &Target, format: Format) -> String {
    let name = match format {
        Format::OpenMetrics => "openmetrics",
        Format::Prometheus => "prometheus",
    };
    let is_about_all = target.id.is_none() && target.control.is_none();
    let reached = if is_about_all {
        everybody()
    } else {
        reach_all(target).map(|meant| meant.all).unwrap_or_else(|error| {
            say(&error.to_string());
            Vec::new()
        })
    };
    let mut all = Vec::new();
    for Reached { mut connection, .. } in reached {
        match connection.ask("metrics", json!({ "format": name })) {
            Ok(answer) => all.push(answer),
            Err(error) if has_left(&error) => {}
            Err(error) => say(&error.to_string()),
        }
    }
    match format {
        // The end belongs to no one's text in particular.
        Format::OpenMetrics if all.is_empty() => "# EOF\n".to_owned(),
        Format::OpenMetrics | Format::Prometheus => text_of(&all),
    }
}
