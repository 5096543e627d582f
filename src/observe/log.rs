//! Log lines on standard error.
//!
//! A warning or an error is a sentence to the user, `netferry: ...`, as start-up errors are. What is more
//! verbose than that is for those who look for something, and carries the time since start-up and its level.
//!
//! Nobody is waited for: a line for which there is no room at once, on a pipe that nobody reads or on a full disk, is lost,
//! and the next one that gets through is preceded by how many were.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::log_file::LogFile;
use crate::sys::outlet;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, Uptime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How long a sentence at the start or the end of the program waits for somebody who reads slowly.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the user something without a logger: at the start, and at the end. One line, on standard error.
pub fn say(text: &str) {
    // There is nobody to tell that nobody hears.
    let _ = outlet::write_within(io::stderr().as_fd(), format!("netferry: {text}\n").as_bytes(), PATIENCE);
}

/// Sends everything up to `level` to standard error from now on. Only the first call of a process counts.
pub fn install(level: LevelFilter) {
    install_with(level, Sink::StandardError);
}

/// The same to a file.
pub fn install_to_file(level: LevelFilter, file: LogFile) {
    install_with(level, Sink::File(file));
}

fn install_with(level: LevelFilter, sink: Sink) {
    let lines = Lines { uptime: Uptime::default() };
    let outlet = Outlet::to(sink);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || outlet.clone())
        .event_format(lines)
        .finish();
    // An embedder's own subscriber stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Where lines go.
#[derive(Debug)]
enum Sink {
    StandardError,
    File(LogFile),
}

impl Sink {
    /// How many bytes were taken.
    fn write_now(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Sink::StandardError => outlet::write_now(io::stderr().as_fd(), line),
            Sink::File(file) => file.append(line),
        }
    }
}

/// Lines, or how many of them were lost. Its copies write to the same.
#[derive(Debug, Clone)]
struct Outlet(Arc<Mutex<Told>>);

#[derive(Debug)]
struct Told {
    sink: Sink,
    /// Lines that there was no room for since the last that there was.
    lost: u64,
    /// The last thing written was the beginning of a line.
    is_cut: bool,
}

impl Outlet {
    fn to(sink: Sink) -> Outlet {
        Outlet(Arc::new(Mutex::new(Told { sink, lost: 0, is_cut: false })))
    }
}

impl Told {
    fn tell(&mut self, line: &[u8]) {
        if self.lost > 0 {
            let end = if self.is_cut { "\n" } else { "" };
            let notice = format!("{end}netferry: lines lost here for want of room: {}\n", self.lost);
            if !self.write(notice.as_bytes()) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.write(line) {
            self.lost += 1;
        }
    }

    /// Whether all of it was taken.
    fn write(&mut self, bytes: &[u8]) -> bool {
        let taken = self.sink.write_now(bytes).unwrap_or(0);
        let is_whole = taken == bytes.len();
        if taken > 0 {
            self.is_cut = !is_whole;
        }
        is_whole
    }
}

/// One call a line. Never an error: the logger would tell of it on standard error, and panic where that is closed.
impl io::Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tell(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Lines {
    uptime: Uptime,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("netferry: ")?;
        let level = *event.metadata().level();
        if level > Level::WARN {
            self.uptime.format_time(&mut writer)?;
            write!(writer, " {level} ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_are_sentences_and_details_carry_their_time() {
        let sink = Collected::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Lines { uptime: Uptime::default() })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("no resolver");
            tracing::debug!(slot = 3, "flow opened");
            tracing::trace!("a packet");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0], "netferry: no resolver");
        assert!(
            lines[1].starts_with("netferry: ") && lines[1].ends_with("s DEBUG flow opened slot=3"),
            "{text}"
        );
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted() {
        // A device of the kernel that is always full.
        let full = LogFile::create(std::path::Path::new("/dev/full"), 1 << 20).unwrap();
        let mut outlet = Outlet::to(Sink::File(full));
        for _ in 0..3 {
            outlet.write_all(b"netferry: nothing of this\n").unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let roomy = LogFile::create(&path, 1 << 20).unwrap();
        outlet.0.lock().unwrap().sink = Sink::File(roomy);
        outlet.write_all(b"netferry: room again\n").unwrap();
        outlet.write_all(b"netferry: and more\n").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "netferry: lines lost here for want of room: 3\nnetferry: room again\nnetferry: and more\n"
        );
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next() {
        let mut told = Told { sink: Sink::StandardError, lost: 1, is_cut: true };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        told.sink = Sink::File(LogFile::create(&path, 1 << 20).unwrap());
        told.tell(b"netferry: next\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("\nnetferry: lines lost here for want of room: 1")
                && text.ends_with("\nnetferry: next\n"),
            "{text}"
        );
        assert!(!told.is_cut);
    }
}
