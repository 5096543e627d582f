//! Programs started by a case: what they say while they run, and how they end.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Long enough for anything short on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A program that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// How.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Fails the case unless the program ended with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Outcome {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Fails the case unless the program succeeded.
    #[track_caller]
    pub fn expect_success(self) -> Outcome {
        self.expect_code(0)
    }

    /// Fails the case unless the program died of `signal`.
    #[allow(dead_code, reason = "not every suite that includes this file ends a program so")]
    #[track_caller]
    pub fn expect_signal(self, signal: Signal) -> Outcome {
        assert_eq!(self.status.signal(), Some(signal as i32), "{self}");
        self
    }

    /// Fails the case unless standard output contains `text`.
    #[track_caller]
    pub fn expect_stdout(self, text: &str) -> Outcome {
        assert!(self.stdout.contains(text), "no {text:?} in standard output\n{self}");
        self
    }

    /// Fails the case unless standard error contains `text`.
    #[track_caller]
    pub fn expect_stderr(self, text: &str) -> Outcome {
        assert!(self.stderr.contains(text), "no {text:?} in standard error\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let signal = self.status.signal().map(|number| format!(", signal {number}")).unwrap_or_default();
        write!(
            f,
            "status {:?}{signal} after {:?}\n--- stdout\n{}--- stderr\n{}---",
            self.status.code(),
            self.took,
            self.stdout,
            self.stderr
        )
    }
}

/// One of a program's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

struct Collected {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Collected {
    fn from(mut source: impl Read + Send + 'static) -> Collected {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                shared.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Collected { text, reader }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("no reader panics").clone()
    }
}

/// A program that runs; killed when dropped.
pub struct Running {
    child: Child,
    /// Its end was seen: its number may be somebody else's by now.
    has_ended: AtomicBool,
    started: Instant,
    out: Collected,
    err: Collected,
}

/// Starts `command` with its output collected.
#[track_caller]
pub fn start(mut command: Command) -> Running {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = Collected::from(child.stdout.take().expect("piped"));
    let err = Collected::from(child.stderr.take().expect("piped"));
    Running { child, has_ended: AtomicBool::new(false), started: Instant::now(), out, err }
}

/// The same, but what it writes to standard error goes elsewhere.
#[allow(dead_code, reason = "not every suite that includes this file has an elsewhere")]
#[track_caller]
pub fn start_with_errors_to(mut command: Command, errors: impl Into<Stdio>) -> Running {
    command.stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = Collected::from(child.stdout.take().expect("piped"));
    let err = Collected::from(std::io::empty());
    Running { child, has_ended: AtomicBool::new(false), started: Instant::now(), out, err }
}

/// Runs `command` to its end.
#[track_caller]
pub fn run(command: Command) -> Outcome {
    start(command).finish(SOON)
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a PID is positive")
    }

    /// Whether it has not ended.
    #[allow(dead_code, reason = "not every suite that includes this file asks")]
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("own child");
        self.has_ended.store(status.is_some(), Ordering::Relaxed);
        status
    }

    /// What it has written so far.
    pub fn so_far(&self, stream: Stream) -> String {
        match stream {
            Stream::Out => self.out.so_far(),
            Stream::Err => self.err.so_far(),
        }
    }

    /// Waits until a whole line that contains `text` has been written, and returns it.
    #[track_caller]
    pub fn wait_for(&mut self, stream: Stream, text: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            // Asked first: what it wrote before its end is then surely looked at.
            let ended = self.ended();
            if ended.is_some() {
                thread::sleep(Duration::from_millis(50));
            }
            let so_far = self.so_far(stream);
            let whole = &so_far[..so_far.rfind('\n').map_or(0, |end| end + 1)];
            if let Some(line) = whole.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "waited for {text:?}; ended: {ended:?}\n--- stdout\n{}--- stderr\n{}---",
                self.so_far(Stream::Out),
                self.so_far(Stream::Err)
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes a line to its standard input, which the case has made a pipe.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        std::io::Write::write_all(input, format!("{line}\n").as_bytes()).expect("it listens");
    }

    /// Sends it `signal`, unless it is known to have ended; [`Running::finish`] tells how.
    pub fn signal(&self, signal: Signal) {
        if self.has_ended.load(Ordering::Relaxed) {
            return;
        }
        kill(Pid::from_raw(self.pid()), signal).expect("own child");
    }

    /// Waits for its end and the end of its output; a program that takes longer fails the case.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Outcome {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            if Instant::now() > deadline {
                panic!(
                    "still running after {limit:?}\n--- stdout\n{}--- stderr\n{}---",
                    self.so_far(Stream::Out),
                    self.so_far(Stream::Err)
                );
            }
            thread::sleep(Duration::from_millis(2));
        };
        let took = self.started.elapsed();
        let grace = Instant::now() + Duration::from_secs(3);
        while !(self.out.reader.is_finished() && self.err.reader.is_finished()) {
            assert!(Instant::now() < grace, "output is still held open after the end, with {status}");
            thread::sleep(Duration::from_millis(1));
        }
        Outcome { status, stdout: self.out.so_far(), stderr: self.err.so_far(), took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
