//! The programs that make and measure the load, for what iperf3 does not tell: datagrams with and without
//! segmentation, round trips, short connections, and very many connections.
//!
//! The bench starts itself again as one of them, in the container or in the world. Each prints `ready` where
//! another has to wait for it, and ends with one line of `name value` pairs.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// What a receiver of datagrams takes for the end.
const SILENCE: Duration = Duration::from_millis(400);
/// What anyone waits for the other side.
const PATIENCE: Duration = Duration::from_secs(20);
/// Threads that open connections side by side.
const OPENERS: usize = 8;
/// Largest run of datagrams the kernel cuts, in bytes.
const LARGEST_RUN: usize = 65_000;

/// Runs the load named by `words`, which [`Load::words`] made.
pub fn run(words: &[String]) -> io::Result<()> {
    let number = |at: usize| -> usize {
        words.get(at).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("a number in {words:?}"))
    };
    let address = || -> SocketAddr { words[1].parse().unwrap_or_else(|_| panic!("an address in {words:?}")) };
    match words[0].as_str() {
        "udp-sink" => sink(&UdpSocket::bind(address())?, number(2), true),
        "udp-send" => {
            let socket = UdpSocket::bind(any(address()))?;
            socket.connect(address())?;
            flood(&socket, number(2), number(3), number(4))
        }
        "udp-serve" => serve_flood(address(), number(2), number(3), number(4)),
        "udp-fetch" => fetch_flood(address(), number(2)),
        "echo" => echo(address()),
        "ping-pong" => ping_pong(address(), number(2)),
        "connects" => connects(address(), number(2)),
        "hold" => hold(address(), number(2)),
        "open" => open(address(), number(2), number(3)),
        other => panic!("no such load: {other}"),
    }
}

fn any(like: SocketAddr) -> SocketAddr {
    match like.ip() {
        IpAddr::V4(_) => "0.0.0.0:0".parse().expect("an address"),
        IpAddr::V6(_) => "[::]:0".parse().expect("an address"),
    }
}

fn ready() {
    println!("ready");
    io::stdout().flush().expect("stdout is open");
}

/// Counts datagrams of `size` bytes until they cease.
fn sink(socket: &UdpSocket, size: usize, announce: bool) -> io::Result<()> {
    // Joined where the kernel can: then one call brings a whole run.
    setsockopt(socket, sockopt::UdpGroSegment, &true).ok();
    socket.set_read_timeout(Some(PATIENCE))?;
    if announce {
        ready();
    }
    let mut buffer = vec![0; 1 << 16];
    let (mut received, mut first) = (0, None);
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => received += len.div_ceil(size),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        }
        if first.is_none() {
            first = Some(Instant::now());
            socket.set_read_timeout(Some(SILENCE))?;
        }
    }
    println!("received {received}");
    Ok(())
}

/// Sends datagrams of `size` bytes as fast as it can, `run` in one call.
fn flood(socket: &UdpSocket, size: usize, run: usize, seconds: usize) -> io::Result<()> {
    let bytes = size * run;
    assert!(bytes <= LARGEST_RUN, "a run of {bytes} bytes");
    if run > 1 {
        setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(size).expect("a datagram's size"))?;
    }
    let payload = vec![0x5a; bytes];
    let began = Instant::now();
    let limit = Duration::from_secs(seconds as u64);
    let mut sent = 0;
    while began.elapsed() < limit {
        // The clock is asked once in a while only.
        for _ in 0..16 {
            match socket.send(&payload) {
                Ok(_) => sent += run,
                // Full queues and a receiver that has gone: what counts is what arrives.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => thread::yield_now(),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
    }
    println!("sent {sent} seconds {}", began.elapsed().as_secs_f64());
    Ok(())
}

/// Floods whoever asks first.
fn serve_flood(address: SocketAddr, size: usize, run: usize, seconds: usize) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    ready();
    let (_, asker) = socket.recv_from(&mut [0; 16])?;
    socket.connect(asker)?;
    flood(&socket, size, run, seconds)
}

/// Asks for a flood, and counts it.
fn fetch_flood(address: SocketAddr, size: usize) -> io::Result<()> {
    let socket = UdpSocket::bind(any(address))?;
    socket.connect(address)?;
    socket.send(b"go")?;
    sink(&socket, size, false)
}

/// Gives back what it gets, one connection after the other.
fn echo(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    ready();
    let mut byte = [0; 1];
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
    }
    Ok(())
}

fn ping_pong(address: SocketAddr, seconds: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [1; 1];
    repeat(seconds, || {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)
    })
}

fn connects(address: SocketAddr, seconds: usize) -> io::Result<()> {
    let mut byte = [1; 1];
    repeat(seconds, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)
    })
}

/// Does `exchange` over and over, and tells how often it could and how long each took.
fn repeat(seconds: usize, mut exchange: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let limit = Duration::from_secs(seconds as u64);
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < limit {
        let start = Instant::now();
        exchange()?;
        took.push(start.elapsed());
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort();
    let micros = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("rate {rate} p50 {} p99 {}", micros(0.5), micros(0.99));
    Ok(())
}

/// Accepts on `ports` ports from this one on, and keeps what it has accepted.
fn hold(address: SocketAddr, ports: usize) -> io::Result<()> {
    let mut listeners = Vec::new();
    for offset in 0..ports {
        let port = address.port() + u16::try_from(offset).expect("few ports");
        let address = SocketAddr::new(address.ip(), port);
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        listeners.push(TcpListener::from(socket));
    }
    ready();
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                let mut held = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    held.push(stream);
                }
            });
        }
    });
    Ok(())
}

/// Opens `count` connections to `ports` ports from this one on, and keeps them until it is killed.
fn open(address: SocketAddr, count: usize, ports: usize) -> io::Result<()> {
    let began = Instant::now();
    let share = |opener: usize| {
        let mut held = Vec::new();
        for index in (opener..count).step_by(OPENERS) {
            let port = address.port() + u16::try_from(index % ports).expect("few ports");
            let there = SocketAddr::new(address.ip(), port);
            match TcpStream::connect_timeout(&there, PATIENCE) {
                Ok(stream) => held.push(stream),
                // Whoever has reached its limit: the count tells.
                Err(_) => break,
            }
        }
        held
    };
    let held: Vec<Vec<TcpStream>> = thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|opener| scope.spawn(move || share(opener))).collect();
        openers.into_iter().map(|opener| opener.join().expect("an opener")).collect()
    });
    let open: usize = held.iter().map(Vec::len).sum();
    println!("open {open} seconds {}", began.elapsed().as_secs_f64());
    ready();
    loop {
        thread::sleep(PATIENCE);
    }
}
