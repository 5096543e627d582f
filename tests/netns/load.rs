//! Many connections at once, and readers that do not keep up.
//!
//! `NETFERRY_SLOW_SECONDS` sets how long the slow readers read; 60 for the figures by hand.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, PYTHON, WORLD4, processes, sealed};
use crate::pattern::fill;
use crate::process::{Running, Stream, start};
use crate::servers::{echo, serve_and_report, serve_streams};

/// More than this is not "flat".
const GROWTH_BYTES: u64 = 8 << 20;
/// A fast writer that got rid of so much more than was read has filled somebody's memory.
const IN_FLIGHT_BYTES: u64 = 64 << 20;

fn slow_for() -> Duration {
    let seconds = env::var("NETFERRY_SLOW_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Resident bytes of all processes of the program under test.
fn resident_bytes() -> u64 {
    let ours = processes().into_iter().filter(|process| process.contains("(netferry)"));
    let pages = ours.map(|process| {
        let pid = process.split(' ').next().expect("pid").to_owned();
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0)
    });
    pages.sum::<u64>() * 4_096
}

/// Watches memory while a slow reader reads, and fails when it grows after the buffers have filled.
#[track_caller]
fn assert_flat_memory(running: &mut Running) {
    let until = Instant::now() + slow_for();
    thread::sleep(Duration::from_secs(2));
    let settled = resident_bytes();
    assert!(settled > 0, "no process named netferry is seen");
    let mut highest = settled;
    while Instant::now() < until {
        highest = highest.max(resident_bytes());
        thread::sleep(Duration::from_millis(100));
    }
    println!("resident: {} KiB after 2 s, {} KiB at most after that", settled >> 10, highest >> 10);
    assert!(highest - settled < GROWTH_BYTES, "memory grew from {settled} to {highest} bytes");
    let so_far = running.so_far(Stream::Err);
    assert!(!so_far.contains("panicked"), "{so_far}");
}

#[test]
fn a_thousand_connections_at_once_each_echo_64_kib() {
    sealed(|ground| {
        let open = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (counted, peak) = (Arc::clone(&open), Arc::clone(&most));
        serve_streams(ground.world_listener(WORLD4, 7000), move |stream, client| {
            peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let result = echo(stream, client);
            counted.fetch_sub(1, Ordering::SeqCst);
            result
        });
        let outcome = start(ground.netferry(&["run", "--", PYTHON, "-c", THOUSAND]))
            .finish(Duration::from_secs(60))
            .expect_success();
        assert_eq!(outcome.stdout, "1000 of 1000\n", "{outcome}");
        // The container sends when all are open; the server may take the last of them when it has done with the first.
        let most = most.load(Ordering::SeqCst);
        assert!(most > 900, "only {most} were open at once");
    });
}

/// Opens all first, then sends on all, each its own 64 KiB, then reads all to the end.
const THOUSAND: &str = "\
import asyncio, random, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
async def main():
    gate = asyncio.Semaphore(100)
    async def dial():
        async with gate: return await asyncio.open_connection('203.0.113.2', 7000)
    streams = await asyncio.gather(*(dial() for _ in range(1000)))
    async def talk(number, reader, writer):
        data = random.Random(number).randbytes(65536)
        writer.write(data); await writer.drain(); writer.write_eof()
        back = await reader.read(-1); writer.close()
        return back == data
    good = await asyncio.gather(*(talk(n, r, w) for n, (r, w) in enumerate(streams)))
    print(sum(good), 'of', len(good))
asyncio.run(main())";

#[test]
fn a_slow_reader_in_the_container_holds_the_server_back() {
    sealed(|ground| {
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        serve_streams(ground.world_listener(WORLD4, 7000), move |mut stream, _| {
            let mut block = vec![0; 1 << 16];
            loop {
                fill(&mut block, count.load(Ordering::SeqCst));
                stream.write_all(&block)?;
                count.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
        });
        // 640 KiB/s, each block checked to differ from the one before and reported.
        let script = "\
import socket, time, zlib
s = socket.create_connection(('203.0.113.2', 7000)); crc = size = 0
while True:
    block = s.recv(1 << 16, socket.MSG_WAITALL); assert len(block) == 1 << 16
    crc = zlib.crc32(block, crc); size += len(block); print(size, '%08x' % crc, flush=True); time.sleep(0.1)";
        let mut reader = start(ground.netferry(&["run", "--", PYTHON, "-c", script]));
        reader.wait_for(Stream::Out, "65536");
        assert_flat_memory(&mut reader);
        let log = reader.so_far(Stream::Out);
        let whole = &log[..log.rfind('\n').unwrap()];
        let (size, crc) = whole.lines().last().unwrap().split_once(' ').unwrap();
        let size: u64 = size.parse().unwrap();
        assert_eq!(
            crc,
            format!("{:08x}", crate::pattern::crc_of_body(size)),
            "what was read is not what was sent"
        );
        assert!(size > 1 << 20, "the reader starved: {size} bytes");
        let sent = written.load(Ordering::SeqCst);
        assert!(sent - size < IN_FLIGHT_BYTES, "{sent} bytes written, {size} read");
    });
}

#[test]
fn a_slow_reader_in_the_world_holds_the_container_back() {
    sealed(|ground| {
        let readings = serve_and_report(ground.world_listener(WORLD4, 7000), read_slowly);
        let script = "\
import socket
s = socket.create_connection(('203.0.113.2', 7000)); sent = 0; block = bytes(range(256)) * 256
while True:
    s.sendall(block); sent += len(block); print(sent, flush=True)";
        let mut writer = start(ground.netferry(&["run", "--", PYTHON, "-c", script]));
        writer.wait_for(Stream::Out, "65536");
        assert_flat_memory(&mut writer);
        let log = writer.so_far(Stream::Out);
        let sent: u64 = log[..log.rfind('\n').unwrap()].lines().last().unwrap().parse().unwrap();
        let read =
            readings.recv_timeout(Duration::from_secs(10)).unwrap().expect("what is read is what was sent");
        assert!(read > 1 << 20, "the reader starved: {read} bytes");
        assert!(sent.saturating_sub(read) < IN_FLIGHT_BYTES, "{sent} bytes written, {read} read");
    });
}

/// Reads 64 KiB ten times a second, checks them, and says how many bytes it was in all.
fn read_slowly(mut stream: TcpStream) -> Result<u64, String> {
    let until = Instant::now() + slow_for();
    let mut block = vec![0; 1 << 16];
    let mut read = 0_u64;
    while Instant::now() < until {
        stream.read_exact(&mut block).map_err(|error| error.to_string())?;
        if !block.iter().enumerate().all(|(index, &byte)| byte == index as u8) {
            return Err(format!("a wrong byte in the block at {read}"));
        }
        read += block.len() as u64;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(read)
}

#[test]
fn an_idle_reader_does_not_hold_other_connections_back() {
    sealed(|ground: &Ground| {
        ground.needs(&["curl"]);
        let unread = ground.world_listener(WORLD4, 7000);
        crate::servers::http(ground.world_listener(WORLD4, 8080));
        serve_streams(unread, |stream, _| {
            // Accepts and never reads.
            thread::sleep(Duration::from_secs(60));
            drop(stream);
            Ok(())
        });
        let script = format!(
            "{PYTHON} -c \"import socket; s = socket.create_connection(('203.0.113.2', 7000)); \
             s.sendall(bytes(1 << 28))\" & writer=$!; sleep 1; \
             curl -sS --max-time 10 -o /dev/null -w '%{{size_download}}\\n' http://203.0.113.2:8080/bytes/8388608; \
             status=$?; kill $writer; exit $status"
        );
        let outcome =
            start(ground.netferry(&["run", "--", "sh", "-c", &script])).finish(Duration::from_secs(30));
        assert_eq!(outcome.expect_success().stdout, "8388608\n");
    });
}
