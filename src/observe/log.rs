//! Log lines on standard error.
//!
//! A warning or an error is a sentence to the user, `netferry: ...`, as start-up errors are. What is more
//! verbose than that is for those who look for something, and carries the time since start-up and its level.

use std::fmt;

use super::log_file::LogFile;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, Uptime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sends everything up to `level` to standard error from now on. Only the first call of a process counts.
pub fn install(level: LevelFilter) {
    install_with(level, std::io::stderr);
}

/// The same to a file.
pub fn install_to_file(level: LevelFilter, file: LogFile) {
    install_with(level, move || file.clone());
}

fn install_with<W>(level: LevelFilter, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = Lines { uptime: Uptime::default() };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(writer)
        .event_format(lines)
        .finish();
    // An embedder's own subscriber stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
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
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
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
        let sink = Sink::default();
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
}
