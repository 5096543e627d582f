//! One page over HTTP/1.1: `GET /metrics`, and the end of the connection.
//!
//! As little as a scraper needs: the request's head is read to its end, its first line and `Accept` count, everything else is
//! ignored. What the page says is the driver's. References: RFC 9112, RFC 9110.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::net::{TcpListener, TcpStream};

use super::server::{Conversation, Dismissal, Progress};
use crate::config::limits::{API_PATIENCE, METRICS_CONNECTIONS, METRICS_REQUEST_BYTES};
use crate::stack::boundary::Instant;

/// Bytes read in one turn, in which one client is served.
const READ_BYTES_PER_TURN: usize = 4_096;

/// The two texts that scrapers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older one of Prometheus, 0.0.4.
    Prometheus,
}

impl Format {
    /// As a header names it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// One scraper.
#[derive(Debug)]
pub struct Scraper {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Option<Vec<u8>>,
    sent: usize,
    deadline: Instant,
}

impl Conversation for Scraper {
    type Door = TcpListener;
    type Request = Format;
    type Answer = String;
    const MOST: usize = METRICS_CONNECTIONS;

    fn begin(stream: TcpStream, now: Instant) -> Scraper {
        Scraper { stream, request: Vec::new(), reply: None, sent: 0, deadline: now + API_PATIENCE.into() }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn advance(&mut self, _now: Instant, answer: &mut dyn FnMut(Format) -> String) -> Progress {
        let mut room = [0; READ_BYTES_PER_TURN];
        let mut may_have_more = false;
        match self.stream.read(&mut room) {
            // It has heard all, or does not want to.
            Ok(0) if self.reply.is_none() || self.is_sent() => return Progress::Done,
            Ok(0) => {}
            Ok(len) => {
                may_have_more = true;
                if self.reply.is_none() {
                    self.request.extend_from_slice(&room[..len]);
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted => may_have_more = true,
                _ => return Progress::Done,
            },
        }
        if self.reply.is_none() {
            let is_whole = self.request.windows(4).any(|bytes| bytes == b"\r\n\r\n");
            if is_whole || self.request.len() > METRICS_REQUEST_BYTES {
                self.reply = Some(reply(&self.request, is_whole, answer));
                self.request = Vec::new();
            }
        }
        match self.write() {
            Err(_) => Progress::Done,
            Ok(()) if may_have_more => Progress::Unread,
            Ok(()) => Progress::Waits,
        }
    }

    fn dismiss(&mut self, _: Dismissal) {}
}

impl Scraper {
    fn is_sent(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| self.sent == reply.len())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(reply) = &self.reply else { return Ok(()) };
        if self.sent == reply.len() {
            return Ok(());
        }
        while self.sent < reply.len() {
            match self.stream.write(&reply[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Its own end ends the connection; until then what it still sends is read, or closing would reset.
        self.stream.shutdown(Shutdown::Write)
    }
}

/// The whole of an answer.
fn reply(request: &[u8], is_whole: bool, answer: &mut dyn FnMut(Format) -> String) -> Vec<u8> {
    let plain = Format::Prometheus;
    let (status, format, body, with_body) = match head(request) {
        _ if !is_whole => ("431 Request Header Fields Too Large", plain, String::new(), true),
        Some((method @ ("GET" | "HEAD"), "/metrics", accepts_open)) => {
            let format = if accepts_open { Format::OpenMetrics } else { plain };
            ("200 OK", format, answer(format), method == "GET")
        }
        Some(("GET" | "HEAD", ..)) => ("404 Not Found", plain, "there is /metrics\n".to_owned(), true),
        Some(_) => ("405 Method Not Allowed", plain, "there is GET\n".to_owned(), true),
        None => ("400 Bad Request", plain, String::new(), true),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        format.content_type(),
        body.len()
    );
    let mut reply = head.into_bytes();
    if with_body {
        reply.extend_from_slice(body.as_bytes());
    }
    reply
}

/// Method, path without its query, and whether OpenMetrics is understood.
fn head(request: &[u8]) -> Option<(&str, &str, bool)> {
    let text = std::str::from_utf8(request).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_http = version.starts_with("HTTP/1.") && words.next().is_none();
    let path = target.split('?').next().unwrap_or_default();
    let accepts_open = lines.any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("accept") && value.contains("application/openmetrics-text")
        })
    });
    is_http.then_some((method, path, accepts_open))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str) -> String {
        let reply = reply(request.as_bytes(), true, &mut |format| format!("{format:?}"));
        let text = String::from_utf8(reply).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        format!("{} {body}", &head[9..12])
    }

    #[test]
    fn one_page_is_there_for_who_asks_for_it() {
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "200 Prometheus");
        let open = "GET /metrics?x HTTP/1.1\r\nACCEPT: application/openmetrics-text;version=1.0.0\r\n\r\n";
        assert_eq!(status(open), "200 OpenMetrics");
        assert_eq!(status("HEAD /metrics HTTP/1.0\r\n\r\n"), "200 ");
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "404 there is /metrics\n");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "405 there is GET\n");
        for request in
            ["", "GET\r\n\r\n", "GET /metrics\r\n\r\n", "GET /metrics FTP/1\r\n\r\n", "\u{0}\r\n\r\n"]
        {
            assert_eq!(status(request), "400 ", "{request:?}");
        }
    }
}
