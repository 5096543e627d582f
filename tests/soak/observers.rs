//! What watches and rules an instance while it carries traffic: rules that are put in force beside a transfer, captures that
//! come and go. What must not happen panics, which the shift reports.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{Ground, SCRATCH};
use crate::instances::{Face, Instance};
use crate::pcapng;
use crate::process::start;
use crate::shift::{End, PATIENCE, Tally};

/// What goes on while rules come and go, and must not notice.
const TRANSFER: &str =
    "curl -sS --max-time 200 --limit-rate 2M http://203.0.113.2:8080/bytes/6000000 | sha256sum";
/// What some of the rules refuse.
const REFUSED: &str = "http://198.51.100.7:8080/bytes/1000";
/// What curl says of a port that nobody listens on.
const CONNECTION_REFUSED: i32 = 7;

/// Files of rules, and whether they let [`REFUSED`] through.
fn files() -> [(&'static str, String, bool); 4] {
    let refused = "[[rule]]\nlabel = \"far\"\nreject = [\"198.51.100.0/24\"]\n";
    let many = (0..400).map(|number| {
        format!(
            "[[rule]]\ndeny = [\"192.0.2.{}\"]\nprotocol = \"tcp\"\nports = [{}]\n",
            number % 250,
            1000 + number
        )
    });
    [
        ("open", "default = \"allow\"\n".to_owned(), true),
        ("refused", refused.to_owned(), false),
        ("many", many.collect(), true),
        ("both", format!("presets = [\"no-metadata\"]\n{refused}"), false),
    ]
}

/// Beside all that the instance of `run` carries: one set of rules after the other, each seen to hold; a file with a mistake
/// changes nothing; and a transfer that began before goes on to its end.
pub fn rules(ground: &Ground, instances: &[Instance], end: End) -> Tally {
    let run = Instance::of(instances, Face::Run);
    let control = run.control().expect("it has a control socket").display().to_string();
    let files = files().map(|(name, text, reaches)| (write_rules(name, &text), reaches));
    let wrong = write_rules("wrong", "[[rule]]\nreject = [\"198.51.100.0/240\"]\n");
    let mut without = ground.user("sh");
    without.args(["-c", TRANSFER]);
    let expected = start(without).finish(PATIENCE).expect_success().stdout;
    let mut tally = Tally::default();
    while !end.has_come() {
        let mut transfer = run.enter(ground, "sh");
        transfer.args(["-c", TRANSFER]);
        let transfer = start(transfer);
        for (place, (file, reaches)) in files.iter().enumerate() {
            let mut words = vec!["rules", "reload", "--control", &control];
            words.extend((place % 2 == 1).then_some("--rejudge"));
            words.push(file);
            start(ground.netferry(&words)).finish(PATIENCE).expect_success();
            let mut fetch = run.enter(ground, "curl");
            fetch.args(["-sS", "-o", "/dev/null", "--max-time", "60", REFUSED]);
            let fetched = start(fetch).finish(2 * PATIENCE);
            let code = if *reaches { 0 } else { CONNECTION_REFUSED };
            assert_eq!(fetched.status.code(), Some(code), "under the rules of {file}: {fetched}");
            tally.rounds += 1;
        }
        let reload = ["rules", "reload", "--control", &control, &wrong];
        start(ground.netferry(&reload)).finish(PATIENCE).expect_code(1);
        let outcome = transfer.finish(4 * PATIENCE).expect_success();
        assert_eq!(outcome.stdout, expected, "another body: {outcome}");
        tally.bytes += 6_000_000;
        end.pause(Duration::from_millis(300));
    }
    // As it was at first, or nearly: nothing is refused.
    let reload = ["rules", "reload", "--control", &control, &files[0].0];
    start(ground.netferry(&reload)).finish(PATIENCE).expect_success();
    for (file, _) in files.iter().chain([&(wrong, false)]) {
        fs::remove_file(file).expect("it was made here");
    }
    tally
}

fn write_rules(name: &str, text: &str) -> String {
    let path = format!("{SCRATCH}/rules-{name}.toml");
    fs::write(&path, text).expect("the scratch directory is ours");
    path
}

/// A reader of one instance after the other, for a while each, of all packets or their beginnings, whole or cut. Two of three
/// are asked to end and must get all there is, to the last block; the third is killed, which nobody else may notice.
pub fn captures(ground: &Ground, instances: &[Instance], end: End) -> Tally {
    let mut tally = Tally::default();
    while !end.has_come() {
        let round = usize::try_from(tally.rounds).expect("small");
        let face = [Face::Run, Face::Slirp4netns, Face::Pasta][round % 3];
        let control = Instance::of(instances, face).control().expect("it has a control socket");
        let options: &[&str] =
            [&[][..], &["--segment"], &["-s", "96"], &["-s", "2000", "tcp", "and", "port", "7"]][round % 4];
        let is_killed = round % 5 == 4;
        let (contents, said) = capture(ground, control, options, is_killed, end);
        let contents =
            contents.unwrap_or_else(|mistake| panic!("capture {options:?} of {}: {mistake}", face.name()));
        if !is_killed {
            let told = said.contains("packets captured");
            let is_all = contents.is_whole && contents.statistics > 0 && told;
            assert!(is_all, "capture {options:?} of {}: {contents:?}, and {said:?}", face.name());
        }
        tally.bytes += contents.bytes;
        tally.rounds += 1;
        end.pause(Duration::from_millis(500));
    }
    tally
}

/// One, for two seconds; and what its program has said.
fn capture(
    ground: &Ground,
    control: PathBuf,
    options: &[&str],
    is_killed: bool,
    end: End,
) -> (Result<pcapng::Contents, String>, String) {
    let control = control.display().to_string();
    let (settings, filter) =
        options.split_at(options.iter().position(|word| *word == "tcp").unwrap_or(options.len()));
    let words = [&["capture", "--control", &control], settings, &["-w", "-"], filter].concat();
    let mut program = Program::start(ground.netferry(&words));
    let (out, mut errors) =
        (program.0.stdout.take().expect("piped"), program.0.stderr.take().expect("piped"));
    let (heard, begins) = channel();
    let out = Noticed { from: BufReader::with_capacity(1 << 20, out), heard: Some(heard) };
    let reader = thread::spawn(move || pcapng::read(out));
    // Until then a signal would end it before it has begun.
    let _ = begins.recv_timeout(PATIENCE);
    end.pause(Duration::from_secs(2));
    program.signal(if is_killed { Signal::SIGKILL } else { Signal::SIGINT });
    let deadline = Instant::now() + PATIENCE;
    while program.0.try_wait().expect("own child").is_none() {
        assert!(Instant::now() < deadline, "a capture does not end");
        thread::sleep(Duration::from_millis(20));
    }
    let mut said = String::new();
    errors.read_to_string(&mut said).expect("text");
    (reader.join().expect("it does not panic"), said)
}

/// Tells when there is something to be read, or the end.
struct Noticed<R> {
    from: R,
    heard: Option<Sender<()>>,
}

impl<R: Read> Read for Noticed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer);
        if let Some(heard) = self.heard.take() {
            // Who asked may have lost patience.
            let _ = heard.send(());
        }
        read
    }
}

/// Killed when dropped.
struct Program(Child);

impl Program {
    fn start(mut command: Command) -> Program {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Program(command.spawn().expect("the program under test starts"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("own child");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail when it has ended, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
