//! Many containers with ten published ports each, of which some come and go while two of them talk: the program itself, as an
//! ordinary user has it, with a process for each command.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ground::{Ground, SCRATCH};
use crate::{Server, arrived, median, setting};

const PORTS: usize = 10;
/// How many commands are given at a time.
const HANDS: usize = 4;
/// How many leave and come back in a second.
const COMINGS: usize = 20;

/// A namespace of the user's, and the process that keeps it.
struct Guest<'g> {
    ground: &'g Ground,
    number: usize,
    process: Child,
}

impl Guest<'_> {
    fn new(ground: &Ground, number: usize) -> Guest<'_> {
        let mut command = ground.user("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo && exec sleep 7200"]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Guest { ground, number, process }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.ground.user("nsenter");
        let pid = self.process.id().to_string();
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", program]);
        command
    }

    fn connect(&self) {
        let (pid, first) = (self.process.id(), 20_000 + self.number * PORTS);
        let ports = format!("{first}-{}:80-{}", first + PORTS - 1, 80 + PORTS - 1);
        let (number, high, low) = (self.number, self.number / 250 + 1, self.number % 250 + 1);
        network(
            self.ground,
            &format!("connect lab {pid} --name n{number} --ip 172.17.{high}.{low} -p {ports}"),
        );
    }

    fn disconnect(&self) {
        network(self.ground, &format!("disconnect lab n{}", self.number));
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn network(ground: &Ground, words: &str) {
    let words: Vec<&str> = ["network"].into_iter().chain(words.split(' ')).collect();
    assert!(ground.netferry(&words).env("TMPDIR", SCRATCH).status().unwrap().success(), "{words:?}");
}

/// The process of the network: who removes its socket at the end is smaller.
fn served_by() -> u32 {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == "netferry"
    };
    pids.filter(is_ours).max_by_key(|pid| resident_bytes(*pid)).unwrap()
}

fn resident_bytes(pid: u32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

pub fn crowd(ground: &Ground) {
    let count = setting("NETWORK_MEMBERS", 100);
    network(ground, "create lab --subnet 172.17.0.0/16");
    let served_by = served_by();
    let before = resident_bytes(served_by);
    let guests: Vec<Guest> = (0..count).map(|number| Guest::new(ground, number)).collect();
    let began = Instant::now();
    guests.iter().for_each(Guest::connect);
    let took = began.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let each = (resident_bytes(served_by) - before) / count / 1024;
    println!(
        "{count} containers with {} published ports: {:.1} ms and {each} KiB each",
        count * PORTS,
        took.as_secs_f64() * 1e3 / count as f64,
    );
    let began = crate::processor_seconds_of(served_by);
    std::thread::sleep(Duration::from_secs(2));
    println!(
        "at rest: {:.1} % of a processor",
        (crate::processor_seconds_of(served_by) - began) / 2.0 * 100.0
    );

    let _server = Server::start(guests[1].command("iperf3"));
    let seconds = setting("NETWORK_SECONDS", 2).max(3);
    let words = ["-c", "172.17.1.2", "-t", &seconds.to_string(), "--json"].map(str::to_owned);
    let client = || guests[0].command("iperf3").args(&words).stdout(Stdio::piped()).spawn().unwrap();
    let output = |client: Child| client.wait_with_output().unwrap().stdout;
    let (mut quiet, mut busy, mut rates, mut each) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting("NETWORK_ROUNDS", 3) {
        quiet.push(arrived(&output(client())));
        let client = client();
        let began = Instant::now();
        let (turns, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (guests, turns, done) = (&guests, &turns, &done);
        // Several at a time: one that leaves waits for the kernel most of the time.
        let took: Vec<f64> = std::thread::scope(|scope| {
            let hands: Vec<_> = (0..HANDS)
                .map(|_| {
                    scope.spawn(move || {
                        let mut took = Vec::new();
                        loop {
                            let turn = turns.fetch_add(1, Ordering::Relaxed);
                            let due = Duration::from_secs_f64(turn as f64 / COMINGS as f64);
                            if due >= Duration::from_secs(seconds as u64) {
                                return took;
                            }
                            std::thread::sleep(due.saturating_sub(began.elapsed()));
                            let began = Instant::now();
                            let guest = &guests[2 + turn % (count - 2)];
                            guest.disconnect();
                            guest.connect();
                            took.push(began.elapsed().as_secs_f64() * 1e3);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
        });
        rates.push(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64());
        each.push(median(&took));
        busy.push(arrived(&output(client)));
    }
    let (quiet, busy) = (median(&quiet), median(&busy));
    println!(
        "two of them, 1 stream: {quiet:.1} Gbit/s; while {:.1} a second leave and come back, {:.0} ms each: {busy:.1}, {:.2} of it",
        median(&rates),
        median(&each),
        busy / quiet
    );
    network(ground, "rm --force lab");
}
