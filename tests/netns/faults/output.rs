//! Nobody reads what we say, or there is no room to write it down.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};

use super::{Agent, FACES, Face, eventually, serve_world};
use crate::ground::{Ground, PYTHON, SUBJECT, sealed};
use crate::process::{Stream, start, start_with_errors_to};

/// What makes a relay talk: `ping` is forbidden on this ground, which is told, and in the more talkative faces each flow.
fn talk(ground: &Ground, face: Face, errors: PipeWriter) {
    let options: &[&str] = match face {
        Face::Run | Face::Attach => &["-v"],
        Face::Slirp4netns => &[],
        Face::Pasta => &["--debug"],
    };
    let served = face.serve_by(ground, options, |command| start_with_errors_to(command, errors));
    let mut agent = served.agent(ground);
    agent.expect("connect('old')", "connected");
    let ping =
        "__import__('subprocess').call(['ping', '-c', '1', '-W', '1', '198.51.100.7'], stdout=-3, stderr=-3)";
    agent.expect(&format!("{ping} > 0"), "True");
    for _ in 0..20 {
        agent.expect("connect('new')", "connected");
    }
    agent.expect("echo('old', 100000)", "echoed");
    drop(agent);
    served.end();
}

/// A pipe that takes nothing any more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(4_096)).unwrap();
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(b"x").is_ok() {}
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

#[test]
fn a_reader_who_does_not_read_standard_error_stops_nothing() {
    sealed(|ground| {
        serve_world(ground);
        for face in FACES {
            let (_reader, writer) = full_pipe();
            talk(ground, face, writer);
        }
    });
}

#[test]
fn standard_error_that_is_closed_stops_nothing() {
    sealed(|ground| {
        serve_world(ground);
        for face in FACES {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            talk(ground, face, writer);
        }
    });
}

#[test]
fn a_reader_who_reads_again_is_told_how_much_was_lost() {
    sealed(|ground| {
        serve_world(ground);
        let (mut reader, writer) = full_pipe();
        let served = Face::Attach.serve_by(ground, &["-v"], |command| start_with_errors_to(command, writer));
        let mut agent = served.agent(ground);
        agent.expect("connect('one')", "connected");
        // All that the pipe holds, the filling included.
        let mut emptied = [0; 4_096];
        reader.read_exact(&mut emptied).unwrap();
        agent.expect("connect('other')", "connected");
        drop(agent);
        served.end();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.contains("netferry: lines lost here for want of room: "), "{text}");
        assert!(text.contains("ended by a signal"), "{text}");
    });
}

/// A disk of 64 KiB that everybody may write to.
fn small_disk() -> &'static Path {
    let disk = Path::new("/mnt/small");
    fs::create_dir(disk).unwrap();
    mount(Some("none"), disk, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=1777")).unwrap();
    disk
}

/// Leaves no room on it.
fn fill(disk: &Path) {
    let mut file = File::create(disk.join("filling")).unwrap();
    while file.write(&[0; 4_096]).is_ok_and(|count| count > 0) {}
}

#[test]
fn a_full_disk_costs_the_log_and_the_capture_and_nothing_else() {
    sealed(|ground| {
        serve_world(ground);
        let disk = small_disk();
        let options =
            ["--debug", "--log-file", "/mnt/small/log", "--log-size", "1000000", "--pcap", "/mnt/small/pcap"];
        let served = Face::Pasta.serve(ground, &options);
        let mut agent = served.agent(ground);
        agent.expect("connect('old')", "connected");
        fill(disk);
        agent.expect("echo('old', 300000)", "echoed");
        for _ in 0..50 {
            agent.expect("connect('new')", "connected");
        }
        // Room again: the log goes on, and says so; a capture with a gap would be a false witness.
        fs::remove_file(disk.join("filling")).unwrap();
        let log = || fs::read_to_string(disk.join("log")).unwrap_or_default();
        agent.expect("connect('last')", "connected");
        eventually("the log goes on", || log().contains("netferry: lines lost here for want of room: "));
        agent.expect("echo('old', 1000)", "echoed");
        drop(agent);
        served.end();
        let log = log();
        assert!(log.lines().all(|line| line.starts_with("netferry: ")), "a line was cut\n{log}");
        assert!(whole_records(&fs::read(disk.join("pcap")).unwrap(), 24, |record| word(record, 8) + 16) > 0);
    });
}

/// The little-endian number at a place.
fn word(bytes: &[u8], place: usize) -> usize {
    u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap()) as usize
}

/// How many records follow the front of a capture, each as long as it says; the last one, too, is all there.
#[track_caller]
fn whole_records(bytes: &[u8], front: usize, len: impl Fn(&[u8]) -> usize) -> usize {
    let (mut at, mut count) = (front, 0);
    while at < bytes.len() {
        at += len(&bytes[at..]);
        count += 1;
    }
    assert_eq!(at, bytes.len(), "the last of {count} records is cut");
    count
}

#[test]
fn a_full_disk_ends_captures_with_a_whole_packet_and_nothing_else() {
    sealed(|ground| {
        serve_world(ground);
        let disk = small_disk();
        let mut served = Face::Run.serve(ground, &["--pcap", "/mnt/small/own"]);
        let mut agent = served.agent(ground);
        agent.expect("connect('old')", "connected");
        // Its own, and one that somebody asks for.
        let relay = served.relay.pid().to_string();
        let asked =
            |name: &str| start(ground.netferry(&["capture", &relay, "-w", &format!("/mnt/small/{name}")]));
        let capture = asked("asked");
        // Room was looked for by zeros; a capture begins with its magic number, and some packets are longer than its front.
        eventually("it has begun", || {
            agent.expect("echo('old')", "echoed");
            let bytes = fs::read(disk.join("asked")).unwrap_or_default();
            bytes.starts_with(&0x0a0d_0d0a_u32.to_le_bytes()) && bytes.len() > 2_000
        });
        // Else what the one gives back at its end is room for the other.
        fill(disk);
        agent.expect("echo('old', 300000)", "echoed");
        let outcome = capture.finish(crate::process::SOON).expect_code(1);
        assert_eq!(outcome.stderr, "netferry: cannot write: No space left on device (os error 28)\n");
        let told = "netferry: packets are captured no longer: No space left on device (os error 28)";
        served.relay.wait_for(Stream::Err, told);
        agent.expect("echo('old', 300000)", "echoed");
        agent.expect("connect('new')", "connected");
        let outcome = asked("late").finish(crate::process::SOON).expect_code(1);
        let refused =
            "netferry: cannot write a capture to /mnt/small/late: No space left on device (os error 28); ";
        assert!(outcome.stderr.starts_with(refused), "{outcome}");
        assert!(!disk.join("late").exists());
        drop(agent);
        assert_eq!(served.end().stderr.matches("captured no longer").count(), 1);
        for name in ["own", "asked"] {
            let bytes = fs::read(disk.join(name)).unwrap();
            assert!(whole_records(&bytes, 0, |block| word(block, 4)) > 3, "{name}");
        }
    });
}

#[test]
fn a_full_disk_costs_the_audit_lines_and_nothing_else() {
    sealed(|ground| {
        serve_world(ground);
        let disk = small_disk();
        for face in [Face::Run, Face::Attach] {
            let mut served = face.serve(ground, &["--audit", "/mnt/small/audit"]);
            let mut agent = served.agent(ground);
            agent.expect("connect('old')", "connected");
            fill(disk);
            let visit = |agent: &mut Agent, ports: std::ops::Range<u16>| {
                for port in ports {
                    let what =
                        format!("datagrams('one', '198.51.100.7', {port}) + str(held['one'].send(b'x'))");
                    agent.expect(&what, "open1");
                }
            };
            visit(&mut agent, 8_000..8_150);
            let told = "netferry: lines of the audit are lost: No space left on device (os error 28)";
            served.relay.wait_for(Stream::Err, told);
            agent.expect("echo('old', 300000)", "echoed");
            agent.expect("connect('new')", "connected");
            // Room again: who comes now is written down.
            fs::remove_file(disk.join("filling")).unwrap();
            visit(&mut agent, 9_000..9_005);
            drop(agent);
            // With the status that it has without an audit.
            assert_eq!(served.end().stderr.matches("lines of the audit are lost").count(), 1, "{face:?}");
            let text = fs::read_to_string(disk.join("audit")).unwrap();
            let lines: Vec<serde_json::Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
                .collect();
            let is_new = |port: u16| lines.iter().any(|line| line["event"] == "new" && line["port"] == port);
            assert!(is_new(7_000) && is_new(8_000) && !is_new(8_149) && is_new(9_004), "{text}");
            let last = lines.last().unwrap();
            let lost = last["lines"].as_u64().unwrap();
            assert!(last["event"] == "lost" && lost > 50, "{last}");
            let written = lines.iter().filter(|line| line["event"] == "new").count() as u64;
            assert_eq!(written + lost, 1 + 150 + 5, "each is written or lost");
            crate::process::run(ground.netferry(&["audit", "suggest", "/mnt/small/audit"]))
                .expect_success()
                .expect_stdout("198.51.100.7");
        }
    });
}

#[test]
fn a_disk_that_is_full_from_the_beginning_is_an_error_and_leaves_nothing() {
    sealed(|ground| {
        let disk = small_disk();
        fill(disk);
        let before = ground.belongings();
        let options = ["pasta", "--config-net", "--pcap", "/mnt/small/pcap", "--", "true"];
        let outcome = start(ground.netferry(&options)).finish(crate::process::SOON).expect_code(1);
        assert!(
            outcome.stderr.contains("cannot record frames in /mnt/small/pcap: No space left on device"),
            "{outcome}"
        );
        let options = ["pasta", "--config-net", "--pid", "/mnt/small/pid", "--", "true"];
        let outcome = start(ground.netferry(&options)).finish(crate::process::SOON).expect_code(1);
        assert!(
            outcome.stderr.contains("cannot write the process id to /mnt/small/pid: No space left"),
            "{outcome}"
        );
        let rotated = ["--pcap", "/mnt/small/ring", "--capture-files", "3", "--capture-size", "1M"];
        for (options, told) in [
            (
                &["--audit", "/mnt/small/audit"][..],
                "cannot write the audit to /mnt/small/audit: No space left",
            ),
            (&rotated, "cannot write a capture to /mnt/small/ring: No space left on device"),
        ] {
            let options = [&["run"], options, &["--", "true"]].concat();
            let outcome = start(ground.netferry(&options)).finish(crate::process::SOON).expect_code(1);
            assert!(outcome.stderr.contains(told), "{outcome}");
        }
        ground.assert_nothing_left(&before);
        let left: Vec<_> = fs::read_dir(disk).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["filling"]);
    });
}

#[test]
fn whoever_wanted_to_be_told_of_readiness_may_be_gone() {
    sealed(|ground| {
        serve_world(ground);
        // The reader of descriptor 5 has ended before anything is written there.
        let holder = super::holder(ground);
        let script = format!(
            "import os, sys\nr, w = os.pipe(); os.dup2(w, 5); os.close(r); os.close(w); os.set_inheritable(5, True)\n\
             os.execv('{SUBJECT}', ['netferry', 'attach', '--ready-fd', '5', '{}'])",
            holder.pid()
        );
        let mut command = ground.user(PYTHON);
        command.args(["-c", &script]);
        let mut relay = start(command);
        relay.wait_for(Stream::Err, "netferry: --ready-fd: Broken pipe (os error 32)");
        let served =
            super::Served { face: Face::Attach, relay, container: holder.pid(), holder: Some(holder) };
        let mut agent = served.agent(ground);
        agent.expect("connect('one')", "connected");
        agent.expect("echo('one')", "echoed");
        drop(agent);
        served.end();
    });
}
