//! Servers of the world and of the host: plain threads on sockets that were opened where they belong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::dns;
use crate::ground::Ground;
use crate::pattern::{Crc32, fill};

/// Serves each connection to `listener` with `handler` on a thread of its own, until the case ends.
pub fn serve_streams<H>(listener: TcpListener, handler: H)
where
    H: Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    thread::spawn(move || {
        while let Ok((stream, client)) = listener.accept() {
            let handler = Arc::clone(&handler);
            // A client that goes away is its own affair; the case sees it from the other side.
            thread::spawn(move || handler(stream, client));
        }
    });
}

impl Ground {
    /// A stream server in the world.
    #[track_caller]
    pub fn world_listener(&self, address: impl Into<IpAddr>, port: u16) -> TcpListener {
        let address = SocketAddr::new(address.into(), port);
        self.in_world(|| TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// A datagram server in the world.
    #[track_caller]
    pub fn world_datagrams(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.into(), port);
        self.in_world(|| UdpSocket::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// A connection from the world to the host.
    pub fn dial_from_world(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::new(address.into(), port);
        let stream = self.in_world(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    /// A resolver in the world that signs its answers with `label`; counts the queries it has seen.
    pub fn world_resolver(&self, address: impl Into<IpAddr>, label: &str) -> Arc<AtomicUsize> {
        let address = address.into();
        let queries = Arc::new(AtomicUsize::new(0));
        let (socket, seen, name) =
            (self.world_datagrams(address, 53), Arc::clone(&queries), label.to_owned());
        thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((len, client)) = socket.recv_from(&mut query) {
                seen.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = dns::answer(&query[..len], &name, dns::Transport::Datagram) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        let (seen, name) = (Arc::clone(&queries), label.to_owned());
        serve_streams(self.world_listener(address, 53), move |mut stream, _| {
            loop {
                let mut len = [0; 2];
                stream.read_exact(&mut len)?;
                let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut query)?;
                seen.fetch_add(1, Ordering::SeqCst);
                let Some(answer) = dns::answer(&query, &name, dns::Transport::Stream) else { return Ok(()) };
                let len = u16::try_from(answer.len()).expect("answers are small");
                stream.write_all(&[&len.to_be_bytes()[..], &answer].concat())?;
            }
        });
        queries
    }
}

/// Sends back what it gets, and its FIN after the client's.
pub fn echo(stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut io = &stream;
    loop {
        match io.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            count => io.write_all(&buffer[..count])?,
        }
    }
}

/// Sends datagrams back until the case ends, led by the source they came from when `signed`.
pub fn echo_datagrams(socket: UdpSocket, signed: bool) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            // A port unreachable from an earlier client is no reason to stop.
            let Ok((len, client)) = socket.recv_from(&mut buffer) else { continue };
            let answer =
                if signed { format!("from {client}\n").into_bytes() } else { buffer[..len].to_vec() };
            let _ = socket.send_to(&answer, client);
        }
    });
}

/// What the server of an upload has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// Bytes of the body.
    pub len: u64,
    /// Their checksum.
    pub crc: u32,
}

/// HTTP/1.1, one request a connection: `GET /bytes/N` yields that much of the body, `GET /` a greeting with the
/// client's address, `PUT` the length and checksum of what came.
pub fn http(listener: TcpListener) {
    serve_streams(listener, |stream, client| {
        let mut reader = BufReader::with_capacity(1 << 16, &stream);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let (mut len, mut expects) = (0, false);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.parse().unwrap_or(0);
            }
            expects |= line == "expect: 100-continue";
        }
        let mut words = request.split_whitespace();
        match (words.next(), words.next().unwrap_or("/")) {
            (Some("PUT"), _) => {
                if expects {
                    (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let upload = read_body(&mut reader, len)?;
                respond(&stream, format!("{} {:08x}\n", upload.len, upload.crc).as_bytes())
            }
            (_, path) => match path.strip_prefix("/bytes/").and_then(|len| len.parse().ok()) {
                Some(len) => {
                    write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")?;
                    write_body(&stream, len)
                }
                None => respond(&stream, format!("hello {}\n", client.ip().to_canonical()).as_bytes()),
            },
        }
    });
}

fn respond(mut stream: &TcpStream, body: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}

/// Writes the first `len` bytes of the body.
pub fn write_body(mut to: impl Write, len: u64) -> io::Result<()> {
    let mut block = vec![0; 1 << 17];
    let mut offset = 0;
    while offset < len {
        let part = usize::try_from((len - offset).min(block.len() as u64)).expect("a block");
        fill(&mut block[..part], offset);
        to.write_all(&block[..part])?;
        offset += part as u64;
    }
    Ok(())
}

/// Reads `len` bytes, or up to the end of the stream if that comes first.
pub fn read_body(from: impl Read, len: u64) -> io::Result<Upload> {
    let mut from = from.take(len);
    let mut crc = Crc32::new();
    let mut block = vec![0; 1 << 17];
    let mut seen = 0;
    loop {
        match from.read(&mut block)? {
            0 => return Ok(Upload { len: seen, crc: crc.value() }),
            count => {
                crc.update(&block[..count]);
                seen += count as u64;
            }
        }
    }
}

/// Serves with `handler`, whose results come out of the receiver, one for each connection.
pub fn serve_and_report<T: Send + 'static>(
    listener: TcpListener,
    handler: impl Fn(TcpStream) -> T + Send + Sync + 'static,
) -> Receiver<T> {
    let (results, receiver) = channel();
    serve_streams(listener, move |stream, _| {
        // The case may have heard enough.
        let _ = results.send(handler(stream));
        Ok(())
    });
    receiver
}
