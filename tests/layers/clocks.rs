//! Who reads which clock (docs/faults.md, "Time"): all that waits goes by the monotonic one, which does not count the
//! machine's sleep, and the time of day is asked for what is written down only.

use crate::assert_holds;
use crate::source::SourceFile;

/// A word, or the beginning of a path, and the files that may have it.
const READERS: [(&[&str], &[&str]); 12] = [
    (&["SystemTime"], &["worker/clock.rs"]),
    // Audits and captures, of one kind and the other.
    (&["Clock", ":", ":", "epoch_micros"], &["worker/audit.rs", "worker/mod.rs", "worker/observed.rs"]),
    // The second is the picture of `netferry top`, which waits for nobody.
    (&["Instant", ":", ":", "now"], &["worker/clock.rs", "run/client/top.rs"]),
    (&["UNIX_EPOCH"], &["worker/clock.rs"]),
    (&["CLOCK_REALTIME"], &[]),
    (&["CLOCK_BOOTTIME"], &[]),
    (&["clock_gettime"], &[]),
    (&["ClockId"], &[]),
    (&["timerfd"], &[]),
    (&["TimerFd"], &[]),
    (&["gettimeofday"], &[]),
    (&["setitimer"], &[]),
];

fn check_clocks(file: &SourceFile) -> Vec<String> {
    let mut violations = Vec::new();
    if file.is_test() {
        return violations;
    }
    for index in 0..file.words.len() {
        for (words, files) in READERS {
            let is_there = (index..).zip(words).all(|(place, word)| file.word(place) == *word);
            if is_there && !files.contains(&file.path.as_str()) {
                violations.push(file.violation(index, &format!("`{}` is not for this file", words.concat())));
            }
        }
    }
    violations
}

#[test]
fn all_that_waits_goes_by_the_monotonic_clock() {
    assert_holds(check_clocks);
}

#[test]
fn who_reads_a_clock_elsewhere_is_found_out() {
    for text in [
        "let now = std::time::SystemTime::now();",
        "Instant::now()",
        "Clock::epoch_micros()",
        "TimerFd::new(ClockId::CLOCK_BOOTTIME)",
    ] {
        assert!(!check_clocks(&SourceFile::new("stack/flow.rs", text)).is_empty(), "{text}");
        assert!(check_clocks(&SourceFile::new("stack/flow/tests.rs", text)).is_empty(), "{text}");
    }
    assert!(check_clocks(&SourceFile::new("worker/clock.rs", "SystemTime::now()")).is_empty());
}
