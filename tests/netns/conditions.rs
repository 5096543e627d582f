//! Links that are slow or bad on purpose. How exact they are is told in docs/shaping.md; bounds here are those of a
//! machine that others use as well.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::ground::{Ground, SCRATCH, WORLD4, sealed};
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::http;

/// An instance whose command does what it is told, line by line, and says when it is done.
struct Instance {
    running: Running,
    go: std::fs::File,
    lines: usize,
}

impl Instance {
    fn new(ground: &Ground, options: &[&str]) -> Instance {
        let go = format!("{SCRATCH}/go");
        assert!(
            std::process::Command::new("mkfifo").args(["-m", "666", &go]).status().expect("mkfifo").success()
        );
        let script = format!(
            "echo up; n=0; while read line; do n=$((n+1)); sh -c \"$line\"; echo done $n.; done < {go}"
        );
        let mut running =
            start(ground.netferry(&[&["run", "-q"], options, &["--", "sh", "-c", &script]].concat()));
        running.wait_for(Stream::Out, "up");
        let go = std::fs::OpenOptions::new().write(true).open(&go).expect("a pipe");
        Instance { running, go, lines: 0 }
    }

    /// What the command says to a line, and how long it takes.
    fn does(&mut self, line: &str) -> (String, Duration) {
        let before = self.running.so_far(Stream::Out).len();
        let began = Instant::now();
        writeln!(self.go, "{line}").expect("told");
        self.lines += 1;
        self.running.wait_for(Stream::Out, &format!("done {}.", self.lines));
        (self.running.so_far(Stream::Out).split_off(before), began.elapsed())
    }

    fn end(self) {
        drop(self.go);
        self.running.finish(SOON).expect_success();
    }
}

/// Seconds, as far as ping tells them: the least, the mean.
fn round_trip(said: &str) -> (f64, f64) {
    let line = said.lines().find(|line| line.contains("min/avg/max")).unwrap_or_else(|| panic!("{said}"));
    let numbers = line.split(" = ").nth(1).unwrap().split('/');
    let numbers: Vec<f64> = numbers.take(2).map(|number| number.parse::<f64>().unwrap() / 1e3).collect();
    (numbers[0], numbers[1])
}

#[test]
fn rates_hold_for_real_programs_and_change_while_they_run() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 80));
        let mut instance = Instance::new(ground, &["--limit", "up=40mbit,down=80mbit"]);
        let told =
            |words: &[&str]| run(ground.netferry(&[&["shape"], words].concat())).expect_success().stdout;
        assert_eq!(told(&[]), "up=40mbit,down=80mbit\n");
        let len = 10_000_000;
        let down = format!("curl -sS --max-time 100 http://{WORLD4}/bytes/{len} | wc -c");
        let up = format!(
            "head -c {len} /dev/zero | curl -sS --max-time 100 -T - -H 'Transfer-Encoding:' -H 'Content-Length: {len}' http://{WORLD4}/"
        );
        // Less what is saved up, 50 ms of it.
        let (said, took) = instance.does(&down);
        assert!(said.contains(&len.to_string()), "{said}");
        println!("figures: 10 MB down at 80mbit: {took:?}");
        assert!(took > Duration::from_millis(900), "{took:?}");
        let (said, took_up) = instance.does(&up);
        assert!(said.contains(&format!("{len} ")), "{said}");
        println!("figures: 10 MB up at 40mbit: {took_up:?}");
        assert!(took_up > Duration::from_millis(1_850), "{took_up:?}");
        assert_eq!(told(&["8mbit"]), "up=8mbit,down=8mbit\n");
        let little = format!("curl -sS --max-time 100 http://{WORLD4}/bytes/1000000 | wc -c");
        let (_, slow) = instance.does(&little);
        println!("figures: 1 MB down at 8mbit: {slow:?}");
        assert!(slow > Duration::from_millis(900), "{slow:?}");
        assert_eq!(told(&["off"]), "off\n");
        // A machine may be slow, but it is not every time.
        let free = (0..10).map(|_| instance.does(&little).1).find(|took| *took < Duration::from_millis(800));
        assert!(free.is_some(), "as slow as with a limit");
        run(ground.netferry(&["shape", "left=1mbit"])).expect_code(2).expect_stderr("there is no \"left\"");
        instance.end();
    });
}

#[test]
fn a_bad_link_delays_loses_and_becomes_good_again() {
    sealed(|ground| {
        ground.needs(&["curl", "ping"]);
        ground.allow_ping();
        http(ground.world_listener(WORLD4, 80));
        let mut instance = Instance::new(ground, &["--impair", "delay=50ms"]);
        let told =
            |words: &[&str]| run(ground.netferry(&[&["impair"], words].concat())).expect_success().stdout;
        let ping = format!("ping -n -c 5 -i 0.2 -W 10 {WORLD4}");
        let (said, _) = instance.does(&ping);
        let (least, mean) = round_trip(&said);
        println!("figures: 50 ms each way: {:.2} ms least, {:.2} ms mean", least * 1e3, mean * 1e3);
        assert!(said.contains("5 received") && (0.100..1.0).contains(&least), "{said}");
        // Bytes come through loss, delay, duplicates and overtaking, all of them.
        let how = "delay=5ms,jitter=3ms,loss=2%,duplicate=1%,reorder=1%,down.rate=40mbit";
        assert!(told(&[how]).contains("up.delay=5ms,up.jitter=3ms,up.loss=2%"));
        let len = 1_500_000;
        let (said, _) =
            instance.does(&format!("curl -sS --max-time 100 http://{WORLD4}/bytes/{len} | cksum"));
        let expected = run({
            let mut host = ground.root("sh");
            host.args(["-c", &format!("curl -sS --max-time 100 http://{WORLD4}/bytes/{len} | cksum")]);
            host
        });
        let expected = expected.expect_success().stdout;
        assert!(said.contains(expected.trim()), "{said}");
        let counts = told(&[]);
        let to_container = counts.lines().find(|line| line.starts_with("to container")).expect("a line");
        let numbers: Vec<u64> =
            to_container.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(numbers[0] > 1_000, "cut into packets: {counts}");
        // Two in a hundred, give or take five standard deviations.
        let (packets, lost) = (numbers[0] as f64, numbers[1] as f64);
        let deviation = (packets * 0.02 * 0.98).sqrt();
        assert!((lost - packets * 0.02).abs() < 5.0 * deviation, "{counts}");
        assert!(told(&["loss=100%"]).starts_with("loss=100%\n"));
        let (said, _) = instance.does(&format!("ping -n -c 2 -i 0.2 -W 1 {WORLD4}"));
        assert!(said.contains("0 received"), "{said}");
        assert!(told(&["off"]).starts_with("off\n"));
        let (said, _) = instance.does(&ping);
        assert!(said.contains("5 received") && round_trip(&said).0 < 0.09, "{said}");
        instance.end();
    });
}

#[test]
fn the_rate_of_a_wire_carries_what_its_frames_hold() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 80));
        let mut instance = Instance::new(ground, &["--impair", "rate=20mbit"]);
        let len = 5_000_000;
        let down = format!("curl -sS --max-time 100 http://{WORLD4}/bytes/{len} | wc -c");
        let up = format!(
            "head -c {len} /dev/zero | curl -sS --max-time 100 -T - -H 'Transfer-Encoding:' -H 'Content-Length: {len}' http://{WORLD4}/"
        );
        // Of a frame of 1 514 bytes 1 460 are payload.
        let due = Duration::from_secs_f64(len as f64 * 8.0 / 20e6 * 1_514.0 / 1_460.0);
        for (way, line) in [("down", &down), ("up", &up)] {
            let (said, took) = instance.does(line);
            assert!(said.contains(&len.to_string()), "{said}");
            let megabits = len as f64 * 8.0 / 1e6 / took.as_secs_f64();
            println!(
                "figures: 5 MB {way} at 20mbit of a wire: {took:?}, {megabits:.2} Mbit/s; {due:?} is due"
            );
            // What the queue holds of an upload has been sent, and is paid for by whoever waits for the answer.
            assert!(took > due.mul_f64(0.99), "{took:?}");
        }
        instance.end();
    });
}
