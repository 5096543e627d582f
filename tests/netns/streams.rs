//! TCP at its edges: refusals, half-closes, resets.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::ground::{Ground, PYTHON, UNREACHABLE4, UNREACHABLE6, WORLD4, WORLDS, sealed};
use crate::pattern::{crc_of, crc_of_body};
use crate::process::{Outcome, SOON, Stream, run, start};
use crate::servers::{Upload, echo, read_body, serve_and_report, serve_streams, write_body};

/// Runs a python script in a container, with `socket` and `sys` imported, ADDRESS in `sys.argv[1]`, and `dial()`
/// that connects to its port 7000.
fn python(ground: &Ground, address: IpAddr, script: &str) -> Outcome {
    let script = format!("{PRELUDE}{script}");
    run(ground.netferry(&["run", "--", PYTHON, "-c", &script, &address.to_string()]))
}

const PRELUDE: &str = "\
import errno, socket, struct, sys, time, zlib
def dial(port=7000):
    return socket.create_connection((sys.argv[1], port), timeout=10)
def drain(s):
    crc = size = 0
    while block := s.recv(1 << 18):
        crc = zlib.crc32(block, crc); size += len(block)
    return '%d %08x' % (size, crc)
";

#[test]
fn a_refused_port_is_refused_at_once() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        for url in ["http://203.0.113.2:9/", "http://[2001:db8:1::2]:9/"] {
            let refused = run(ground.netferry(&["run", "--", "curl", "-sS", "--max-time", "10", url]));
            let refused = refused.expect_code(7);
            assert!(refused.took < Duration::from_secs(3), "{refused}");
        }
    });
}

#[test]
fn an_unreachable_address_is_reported_unreachable_at_once() {
    sealed(|ground| {
        for address in [IpAddr::V4(UNREACHABLE4), IpAddr::V6(UNREACHABLE6)] {
            let script = "\
try: dial()
except OSError as error: print(errno.errorcode.get(error.errno, error))";
            let outcome = python(ground, address, script).expect_success();
            assert!(["EHOSTUNREACH\n", "ENETUNREACH\n"].contains(&&*outcome.stdout), "{outcome}");
            assert!(outcome.took < Duration::from_secs(4), "{outcome}");
        }
    });
}

#[test]
fn marks_of_the_containers_own_queue_come_back_to_it() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| {
            let mut left = 8 << 20;
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                left -= stream.read(&mut buffer)?;
            }
            stream.write_all(b"all of it")?;
            stream.read(&mut buffer).map(drop)
        });
        // Its kernel asks for ECN, and marks all large packets on their way out, as a full queue would.
        let script = "\
import subprocess
open('/proc/sys/net/ipv4/tcp_ecn', 'w').write('1')
def tables(words): return subprocess.run(['iptables'] + words.split(), check=True, capture_output=True, text=True).stdout
tables('-t mangle -A POSTROUTING -p tcp -m length --length 1000: -j TOS --set-tos 3/3')
tables('-A INPUT -p tcp -m ecn --ecn-ip-ect 2')
s = dial(); s.sendall(bytes(8 << 20)); print(s.recv(99).decode())
print(subprocess.run(['ss', '-tinH'], capture_output=True, text=True).stdout)
print('capable data:', tables('-L INPUT -nvx').splitlines()[2].split()[0])";
        let outcome = python(ground, WORLD4.into(), script).expect_success().expect_stdout("all of it");
        let after = |name: &str| -> u32 {
            let rest = outcome.stdout.split_once(name).map(|(_, rest)| rest.trim_start());
            let digits = rest.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
            digits
                .flatten()
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {outcome}"))
        };
        assert!(after("delivered_ce:") > 10, "its marks came back to it: {outcome}");
        assert_eq!(
            after("capable data:"),
            1,
            "the answer says that we can be told, and nothing else does: {outcome}"
        );
    });
}

#[test]
fn a_server_still_answers_after_the_container_has_finished_sending() {
    sealed(|ground| {
        for world in WORLDS {
            serve_streams(ground.world_listener(world, 7000), |mut stream, _| {
                let got = read_body(&stream, u64::MAX)?;
                // Later than the FIN, so that the connection really stands half closed for a while.
                thread::sleep(Duration::from_millis(300));
                writeln!(stream, "got {} {:08x}", got.len, got.crc)?;
                write_body(&stream, 1 << 20)?;
                stream.shutdown(Shutdown::Write)
            });
            let script = "\
s = dial(); data = b'abcdefgh' * 100000; s.sendall(data); s.shutdown(socket.SHUT_WR)
f = s.makefile('rb'); line = f.readline().decode()
assert line == 'got %d %08x\\n' % (len(data), zlib.crc32(data)), line
rest = f.read(); print(len(rest), '%08x' % zlib.crc32(rest))";
            let outcome = python(ground, world, script).expect_success();
            assert_eq!(outcome.stdout, format!("{} {:08x}\n", 1 << 20, crc_of_body(1 << 20)));
        }
    });
}

#[test]
fn a_server_still_receives_after_it_has_finished_sending() {
    sealed(|ground| {
        for world in WORLDS {
            let uploads = serve_and_report(ground.world_listener(world, 7000), |mut stream| {
                stream.write_all(b"greeting").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                read_body(&stream, u64::MAX).unwrap()
            });
            let script = "\
s = dial(); print(drain(s)); time.sleep(0.3)
data = b'abcdefgh' * 100000; s.sendall(data); s.close()
print(len(data), '%08x' % zlib.crc32(data))";
            let outcome = python(ground, world, script).expect_success();
            let Upload { len, crc } = uploads.recv_timeout(SOON).unwrap();
            let greeting = format!("8 {:08x}", crc_of(b"greeting"));
            assert_eq!(outcome.stdout, format!("{greeting}\n{len} {crc:08x}\n"));
            assert_eq!(len, 800_000);
        }
    });
}

#[test]
fn a_reset_by_the_server_reaches_the_container() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| {
            stream.read_exact(&mut [0; 4])?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        });
        let script = "\
s = dial(); s.sendall(b'ping')
try: print('end', s.recv(10))
except ConnectionResetError: print('reset')";
        assert_eq!(python(ground, WORLD4.into(), script).expect_success().stdout, "reset\n");
    });
}

#[test]
fn a_reset_by_the_container_reaches_the_server() {
    sealed(|ground| {
        let ends = serve_and_report(ground.world_listener(WORLD4, 7000), |mut stream: TcpStream| {
            stream.write_all(b"go").unwrap();
            stream.read(&mut [0; 16]).map_err(|error| error.kind())
        });
        let script = "\
s = dial(); s.recv(2)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()
time.sleep(0.3)";
        python(ground, WORLD4.into(), script).expect_success();
        assert_eq!(ends.recv_timeout(SOON).unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_server_that_accepts_and_closes_is_seen_to_do_so() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |_, _| Ok(()));
        let outcome = python(ground, WORLD4.into(), "print(dial().recv(1) == b'')");
        assert_eq!(outcome.expect_success().stdout, "True\n");
    });
}

#[test]
fn small_messages_go_back_and_forth_without_delay() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        // 300 round trips; one delayed acknowledgement or Nagle in each would take 12 s and more.
        let script = "\
s = dial(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); start = time.monotonic()
for _ in range(300):
    s.sendall(b'head'); s.sendall(b'tail'); n = 0
    while n < 8: n += len(s.recv(8))
print('ms', int((time.monotonic() - start) * 1000))";
        let outcome = python(ground, WORLD4.into(), script).expect_success();
        let millis: u32 = outcome.stdout.trim().trim_start_matches("ms ").parse().unwrap();
        assert!(millis < 3_000, "{outcome}");
    });
}

#[test]
fn a_connection_dies_with_the_container() {
    sealed(|ground| {
        let ends = serve_and_report(ground.world_listener(WORLD4, 7000), |mut stream: TcpStream| {
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.read(&mut [0; 16]).map_err(|error| error.kind())
        });
        let script = format!("{PRELUDE}s = dial(); print('connected', flush=True); time.sleep(60)");
        let arguments = ["run", "--", PYTHON, "-c", &script, &WORLD4.to_string()];
        let mut client = start(ground.netferry(&arguments));
        client.wait_for(Stream::Out, "connected");
        client.signal(nix::sys::signal::Signal::SIGTERM);
        client.finish(SOON);
        // By FIN or by RST, but not by silence.
        let end = ends.recv_timeout(SOON).unwrap();
        assert!(matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
    });
}
