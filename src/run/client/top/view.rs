//! The picture: who it is, the rates of the last minutes, drops, and as many flows as there is room for.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use super::model::{Busy, Model};
use crate::run::client::table::{duration, plain, short};

/// Lines of the sparklines and the drops, frame included.
const UPPER_LINES: u16 = 7;

/// Draws it, in whatever room there is.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let [title, upper, lower] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(UPPER_LINES), Constraint::Min(0)])
            .areas(frame.area());
    let [up, down, drops] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(30)]).areas(upper);
    frame.render_widget(Paragraph::new(headline(&model.status)).style(Style::new().reversed()), title);
    draw_rate(frame, up, "up", &model.up);
    draw_rate(frame, down, "down", &model.down);
    draw_drops(frame, drops, model);
    draw_flows(frame, lower, model);
}

fn headline(status: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => plain(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let container = &status["container"];
    let address = text(&container["addresses"][0]);
    format!(
        " netferry {} {}  {}  {address}  up {}  {} flows  q ends",
        text(&status["face"]),
        text(&status["id"]),
        text(&container["name"]),
        duration(status["uptime_seconds"].as_f64().unwrap_or(0.0)),
        text(&status["flows"]),
    )
}

fn draw_rate(frame: &mut Frame<'_>, area: Rect, name: &str, rates: &VecDeque<u64>) {
    let (latest, most) = (rates.back().copied().unwrap_or(0), rates.iter().copied().max().unwrap_or(0));
    let title = format!("{name} {}B/s  most {}B/s", short(latest), short(most));
    let block = Block::bordered().title(title);
    // The latest stand at the right edge.
    let room = usize::from(block.inner(area).width);
    let shown = rates.len().min(room);
    let mut bars = vec![0; room - shown];
    bars.extend(rates.iter().skip(rates.len() - shown));
    frame.render_widget(Sparkline::default().block(block).data(bars), area);
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows = model.drops.iter().map(|(reason, count, rate)| {
        Row::new([plain(reason), format!("{:>6}", short(*count)), format!("{:>6}", short(*rate))])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(6), Constraint::Length(6)];
    let title = "drops       in all    a sec";
    frame.render_widget(
        Table::new(rows, widths).column_spacing(1).block(Block::bordered().title(title)),
        area,
    );
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let heading = ["PROTO", "CONTAINER", "", "REMOTE", "STATE", "UP/S", "DOWN/S", "RTT"].map(Cell::from);
    let widths = [
        Constraint::Length(5),
        Constraint::Fill(2),
        Constraint::Length(2),
        Constraint::Fill(2),
        Constraint::Length(11),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(7),
    ];
    let heading = Row::new(heading).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = model.flows.iter().take(usize::from(area.height)).map(row);
    frame.render_widget(Table::new(rows, widths).column_spacing(1).header(heading), area);
}

fn row(busy: &Busy) -> Row<'static> {
    let flow = &busy.flow;
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), plain);
    let round_trip = flow["host_tcp"]["round_trip_seconds"].as_f64();
    Row::new([
        text(&flow["protocol"]),
        text(&flow["container"]["local"]),
        if flow["begun_by"] == "host" { "<-" } else { "->" }.to_owned(),
        text(&flow["container"]["remote"]),
        text(&flow["state"]),
        format!("{:>5}", short(busy.rates.0)),
        format!("{:>6}", short(busy.rates.1)),
        round_trip.map_or_else(|| format!("{:>7}", "-"), |seconds| format!("{:>5.1}ms", seconds * 1e3)),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn picture(width: u16, height: u16) -> String {
        let mut model = Model::default();
        for second in 0..30_u64 {
            let flow = json!({
                "id": "f0.0", "protocol": "tcp", "state": "established", "begun_by": "container",
                "container": { "local": "10.0.2.100:40000", "remote": "192.0.2.1:443" },
                "from_container": { "bytes": second * 1_000 }, "to_container": { "bytes": second * 2_500_000 },
                "host_tcp": { "round_trip_seconds": 0.0123 },
            });
            let status = json!({
                "id": "4711", "face": "run", "uptime_seconds": 61.0, "flows": 1,
                "container": { "name": "curl\u{1b}[2J", "addresses": ["10.0.2.100"] },
                "from_container": { "bytes": second * second * 500 }, "to_container": { "bytes": second * 2_500_000 },
                "drops_by_reason": { "no_flow": 3, "denied": second },
            });
            model.take(status, vec![flow], Duration::from_secs(1));
        }
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &model)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_there_at_80_by_24() {
        let picture = picture(80, 24);
        for text in [
            "netferry run 4711  curl?[2J  10.0.2.100  up 1m01s  1 flows  q ends",
            "up 28kB/s  most 28kB/s",
            "down 2.5MB/s",
            "denied",
            "no_flow",
            "10.0.2.100:40000",
            "192.0.2.1:443",
            "established",
            "1.0k",
            "2.5M",
            "12.3ms",
            "\u{2588}",
        ] {
            assert!(picture.contains(text), "no {text:?} in\n{picture}");
        }
        assert!(picture.lines().all(|line| line.chars().count() <= 82), "{picture}");
    }

    #[test]
    fn there_is_a_picture_in_any_room() {
        for (width, height) in [(1, 1), (10, 3), (40, 8), (200, 60)] {
            picture(width, height);
        }
    }
}
