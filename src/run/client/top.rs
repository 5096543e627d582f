//! `netferry top`: asks every second, and draws what it was told ([`view`]).
//!
//! However it ends, by a key, by a signal or by a panic, the terminal is as it was before.

mod model;
mod view;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::json;

use self::model::Model;
use super::{ClientError, Connection, reach};
use crate::cli::native::top::Top;
use crate::sys::process::{self, Signal, Signals};

/// From one picture to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// A signal is seen within this.
const GLANCE: Duration = Duration::from_millis(100);
/// Pages of flows that are looked at, of 128 flows each: beyond, a picture of the busiest is a picture of some.
const PAGES: usize = 8;
/// What ends it beside the keys.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Carries it out.
pub fn run(top: &Top) -> Result<u8, ClientError> {
    let mut connection = reach(&top.target)?;
    let mut model = Model::default();
    ask(&mut connection, &mut model, Duration::ZERO)?;
    if top.json {
        let text = format!("{:#}\n", model.as_json());
        io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
        return Ok(0);
    }
    process::block_signals(&ENDING).map_err(ClientError::Output)?;
    let signals = Signals::open(&ENDING).map_err(ClientError::Output)?;
    let mut terminal = ratatui::try_init().map_err(ClientError::Output)?;
    let outcome = (|| {
        let mut asked = now();
        loop {
            terminal.draw(|frame| view::draw(frame, &model)).map_err(ClientError::Output)?;
            loop {
                if signals.next().map_err(ClientError::Output)?.is_some() {
                    return Ok(0);
                }
                if event::poll(GLANCE).map_err(ClientError::Output)? {
                    match event::read().map_err(ClientError::Output)? {
                        Event::Key(key) if key.kind == KeyEventKind::Press => {
                            let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
                            match key.code {
                                KeyCode::Char('q') | KeyCode::Esc => return Ok(0),
                                KeyCode::Char('c') if is_control => return Ok(0),
                                _ => {}
                            }
                        }
                        Event::Resize(..) => break,
                        _ => {}
                    }
                }
                let passed = now() - asked;
                if passed >= INTERVAL {
                    ask(&mut connection, &mut model, passed)?;
                    asked = now();
                    break;
                }
            }
        }
    })();
    // The terminal may be gone itself by now.
    let _ = ratatui::try_restore();
    outcome
}

fn ask(connection: &mut Connection, model: &mut Model, passed: Duration) -> Result<(), ClientError> {
    let status = connection.ask("status", json!({}))?;
    let mut flows = Vec::new();
    let mut from = json!(0);
    for _ in 0..PAGES {
        let mut page = connection.ask("flows", json!({ "from": from }))?;
        if let Some(some) = page["flows"].as_array_mut() {
            flows.append(some);
        }
        from = page["next"].take();
        if from.is_null() {
            break;
        }
    }
    model.take(status, flows, passed);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a picture is drawn every second")]
fn now() -> Instant {
    Instant::now()
}
