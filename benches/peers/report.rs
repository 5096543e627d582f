//! The figures as a table, as JSON, and as a plot.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use plotters::prelude::*;
use serde_json::json;

use crate::figures::{Against, Figures, Verdict, is_noisy};
use crate::goals::GOALS;
use crate::subject::{ALL, Subject};

/// What the figures were measured on.
#[derive(Debug)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    pub versions: Vec<(Subject, String)>,
    pub rounds: u32,
    pub seconds: u32,
    /// How much the time for the same work differed between rounds, as a share of the median.
    pub unsteadiness: f64,
}

/// Above this the machine itself was too busy with other things.
const UNSTEADY: f64 = 0.2;

impl Machine {
    pub fn is_too_noisy(&self) -> bool {
        self.unsteadiness > UNSTEADY
    }
}

/// The whole report in Markdown.
pub fn markdown(machine: &Machine, figures: &Figures) -> String {
    let mut text = format!(
        "{} × {}, Linux {}; {} rounds of runs of {} s, medians; congestion control reno.\n",
        machine.processors, machine.processor, machine.kernel, machine.rounds, machine.seconds
    );
    for (subject, version) in &machine.versions {
        let _ = writeln!(text, "- {}: {version}", subject.name());
    }
    let _ = writeln!(
        text,
        "\nThe same work took from round to round times that differ by {:.0} %{}.\n",
        100.0 * machine.unsteadiness,
        if machine.is_too_noisy() {
            ": **the machine was too noisy for these figures to count**"
        } else {
            ""
        }
    );
    text += "| goal | wanted | ratio | in rounds | ours | other | |\n|---|---|---|---|---|---|---|\n";
    for verdict in verdicts(figures) {
        let goal = verdict.goal;
        let sign = if goal.more_is_better { "≥" } else { "≤" };
        let against = match goal.against {
            Against::BestPeer => format!("× {}", verdict.other),
            Against::Kernel => "× kernel".to_owned(),
            Against::Own(_) => format!("× {}", verdict.other),
            Against::Number(number) => format!("× {number}"),
        };
        let _ = writeln!(
            text,
            "| {}, {} | {sign} {} {against} | {:.2} | {:.2} to {:.2} | {} | {} | {} |",
            goal.measure,
            goal.unit,
            goal.ratio,
            verdict.ratio,
            verdict.range.0,
            verdict.range.1,
            short(verdict.ours),
            short(verdict.theirs),
            verdict.word()
        );
    }
    text += "\n| measure | unit |";
    for subject in ALL {
        let _ = write!(text, " {} |", subject.name());
    }
    text += "\n|---|---|---|---|---|---|\n";
    for row in figures.rows() {
        let _ = write!(text, "| {} | {} |", row.measure, row.unit);
        for subject in ALL {
            let cell = row.median(subject).map_or_else(String::new, |median| {
                let spread = row.spread(subject).unwrap_or(0.0);
                let mark =
                    if is_noisy(spread) { format!(" (±{:.0} %)", 50.0 * spread) } else { String::new() };
                short(median) + &mark
            });
            let _ = write!(text, " {cell} |");
        }
        text += "\n";
    }
    text + "\n±: half of the range of the rounds, where it is wide.\n"
}

/// The same for programs.
pub fn json(machine: &Machine, figures: &Figures) -> serde_json::Value {
    let rows: Vec<_> = figures
        .rows()
        .iter()
        .map(|row| {
            let of = |subject: Subject| json!({"median": row.median(subject), "rounds": row.of(subject)});
            let each: serde_json::Map<_, _> = ALL
                .into_iter()
                .filter(|subject| !row.of(*subject).is_empty())
                .map(|subject| (subject.name().to_owned(), of(subject)))
                .collect();
            json!({"measure": row.measure, "unit": row.unit, "of": each})
        })
        .collect();
    let goals: Vec<_> = verdicts(figures)
        .iter()
        .map(|verdict| {
            json!({
                "measure": verdict.goal.measure,
                "unit": verdict.goal.unit,
                "against": verdict.other,
                "wanted": verdict.goal.ratio,
                "ratio": verdict.ratio,
                "rounds": [verdict.range.0, verdict.range.1],
                "met": verdict.met,
            })
        })
        .collect();
    let versions: serde_json::Map<_, _> = machine
        .versions
        .iter()
        .map(|(subject, version)| (subject.name().to_owned(), json!(version)))
        .collect();
    json!({
        "machine": {
            "processor": machine.processor,
            "processors": machine.processors,
            "kernel": machine.kernel,
            "unsteadiness": machine.unsteadiness,
            "too_noisy": machine.is_too_noisy(),
        },
        "rounds": machine.rounds,
        "seconds": machine.seconds,
        "versions": versions,
        "figures": rows,
        "goals": goals,
    })
}

/// Bars of our ratio to the better peer, on a logarithmic scale: what is right of the line is ahead of it.
pub fn plot(machine: &Machine, figures: &Figures, path: &Path) -> Result<(), Box<dyn Error>> {
    const BAR: i32 = 22;
    const LEFT: i32 = 420;
    const RIGHT: i32 = 120;
    const HEAD: i32 = 64;
    const WIDTH: i32 = 1000;
    const LARGEST: f64 = 100.0;
    const SMALLEST: f64 = 0.2;
    let verdicts: Vec<_> = verdicts(figures)
        .into_iter()
        .filter(|verdict| matches!(verdict.goal.against, Against::BestPeer | Against::Kernel))
        .collect();
    let height = HEAD + BAR * i32::try_from(verdicts.len())? + 16;
    let root = SVGBackend::new(path, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    root.fill(&WHITE)?;
    let plain = ("sans-serif", 13).into_font();
    let title = format!(
        "netferry over the better rootless peer, or over the kernel: {} × {}, Linux {}",
        machine.processors, machine.processor, machine.kernel
    );
    root.draw(&Text::new(title, (8, 10), ("sans-serif", 15)))?;
    let x = |ratio: f64| {
        let share = (ratio.clamp(SMALLEST, LARGEST) / SMALLEST).ln() / (LARGEST / SMALLEST).ln();
        LEFT + (share * f64::from(WIDTH - LEFT - RIGHT)) as i32
    };
    for tick in [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        let style = if tick == 1.0 { BLACK.stroke_width(2) } else { RGBColor(210, 210, 210).stroke_width(1) };
        root.draw(&PathElement::new(vec![(x(tick), HEAD - 6), (x(tick), height - 12)], style))?;
        root.draw(&Text::new(format!("{tick}×"), (x(tick) - 8, HEAD - 24), plain.clone()))?;
    }
    for (index, verdict) in verdicts.iter().enumerate() {
        // Where less is better, the ratio the other way round is what we are ahead by.
        let goal = verdict.goal;
        let ahead = |ratio: f64| if goal.more_is_better { ratio } else { 1.0 / ratio };
        let top = HEAD + BAR * i32::try_from(index)?;
        let colour = if verdict.met { RGBColor(46, 125, 80) } else { RGBColor(190, 80, 60) };
        let (from, to) = (x(1.0).min(x(ahead(verdict.ratio))), x(1.0).max(x(ahead(verdict.ratio))));
        root.draw(&Rectangle::new([(from, top + 3), (to, top + BAR - 5)], colour.filled()))?;
        let mark = x(ahead(goal.ratio));
        let wanted = PathElement::new(vec![(mark, top), (mark, top + BAR - 2)], BLUE.stroke_width(2));
        root.draw(&wanted)?;
        let label = format!("{} ({}) / {}", goal.measure, goal.unit, verdict.other);
        root.draw(&Text::new(label, (8, top + 4), plain.clone()))?;
        let said = format!("{:.2}×", ahead(verdict.ratio));
        root.draw(&Text::new(said, (WIDTH - RIGHT + 40, top + 4), plain.clone()))?;
    }
    root.present()?;
    Ok(())
}

/// Writes everything below `directory`.
pub fn write(machine: &Machine, figures: &Figures, directory: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("peers.md"), markdown(machine, figures))?;
    fs::write(directory.join("peers.json"), serde_json::to_string_pretty(&json(machine, figures))? + "\n")?;
    plot(machine, figures, &directory.join("peers.svg"))
}

fn verdicts(figures: &Figures) -> Vec<Verdict> {
    GOALS.iter().filter_map(|goal| figures.judge(*goal)).collect()
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
