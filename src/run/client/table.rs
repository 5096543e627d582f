//! Columns of text, each as wide as it has to be, and numbers for people.

/// Lines of equally many cells, the first its heading. Cells of columns in `right` stand at the right.
#[must_use]
pub fn render(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell =
                if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What comes from elsewhere, without anything that a terminal would obey.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// 1234567 as 1.2M: bytes or packets, in powers of ten.
#[must_use]
pub fn short(number: u64) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    match unit {
        0 => number.to_string(),
        _ if value < 9.95 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// A time in its two largest units.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1}s"),
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole % 3_600 / 60),
        86_400.. => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ID", "BYTES"], ["4711", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(render(&rows, &[1]), "ID    BYTES\n4711      1\n");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1.0k"), (9_960, "10k"), (999_600, "1.0M"), (12_300_000, "12M")]
        {
            assert_eq!(short(number), text);
        }
        assert_eq!(short(u64::MAX), "18E");
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, text) in
            [(0.04, "0.0s"), (12.3, "12s"), (61.0, "1m01s"), (7_260.0, "2h01m"), (90_000.0, "1d01h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
