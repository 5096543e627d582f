//! Which packets and flows are meant, in words that tcpdump has taught everybody: `tcp and dst port 443`.
//!
//! ```text
//! expression = term { "or" term }          term = factor { "and" factor }
//! factor = "not" factor | "(" expression ")" | primitive
//! primitive = "tcp" | "udp" | "icmp" | "ip" | "ip6"
//!           | [ "src" | "dst" ] ( "host" ADDRESS | "net" CIDR | "port" PORT | "portrange" FIRST-LAST )
//! ```
//!
//! `&&`, `||` and `!` are `and`, `or` and `not`; a protocol before `port` needs no `and` (`tcp port 80`), nor does an address
//! need `host` after `src` or `dst`. A translated flow has two pairs of endpoints, as the container sees it and as the host does:
//! a primitive holds if it holds of either. Bounded: [`MAX_BYTES`], [`MAX_DEPTH`]. References: pcap-filter(7).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Of the text of a filter.
pub const MAX_BYTES: usize = 4_096;
/// Of parentheses and `not`s within each other.
pub const MAX_DEPTH: usize = 32;

/// A filter that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    expression: Expression,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Any,
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Is(Primitive),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Primitive {
    Transport(Transport),
    Family { is_ipv6: bool },
    Net(Side, IpNet),
    Ports(Side, u16, u16),
}

/// What filters tell apart above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
    /// Anything else: ARP, other protocols of IP.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
}

/// What is asked about: a packet, or a flow with both of its pairs of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its transport.
    pub transport: Transport,
    /// Source and destination, or initiator and target, of each view of it. Ports of what has none are zero.
    pub pairs: &'a [(SocketAddr, SocketAddr)],
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word that cannot stand where it stands.
    #[error(
        "filter: {found} cannot stand there; as in `tcp and dst port 443` or `not (udp or host 192.0.2.1)`"
    )]
    Unexpected {
        /// The word, or the end.
        found: String,
    },
    /// A word that should be something.
    #[error("filter: {found} is no {wanted}")]
    NotA {
        /// The word, or the end.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Too long, or too deep.
    #[error("filter: longer than {MAX_BYTES} bytes, or deeper than {MAX_DEPTH} parentheses")]
    TooLarge,
}

impl Filter {
    /// Lets everything through.
    pub const ALL: Filter = Filter { expression: Expression::Any };

    /// Reads a filter. One without words lets everything through.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        if text.len() > MAX_BYTES {
            return Err(FilterError::TooLarge);
        }
        let words = words(text);
        if words.is_empty() {
            return Ok(Filter::ALL);
        }
        let mut parser = Parser { words: &words, at: 0 };
        let expression = parser.expression(0)?;
        match parser.peek() {
            None => Ok(Filter { expression }),
            Some(word) => Err(FilterError::Unexpected { found: quoted(Some(word)) }),
        }
    }

    /// Whether `candidate` is meant.
    #[must_use]
    pub fn matches(&self, candidate: &Candidate<'_>) -> bool {
        self.expression.holds(candidate)
    }
}

impl Expression {
    fn holds(&self, candidate: &Candidate<'_>) -> bool {
        match self {
            Expression::Any => true,
            Expression::And(a, b) => a.holds(candidate) && b.holds(candidate),
            Expression::Or(a, b) => a.holds(candidate) || b.holds(candidate),
            Expression::Not(inner) => !inner.holds(candidate),
            Expression::Is(primitive) => primitive.holds(candidate),
        }
    }
}

impl Primitive {
    fn holds(self, candidate: &Candidate<'_>) -> bool {
        let any = |side: Side, test: &dyn Fn(&SocketAddr) -> bool| {
            candidate.pairs.iter().any(|(source, destination)| match side {
                Side::Source => test(source),
                Side::Destination => test(destination),
                Side::Either => test(source) || test(destination),
            })
        };
        match self {
            Primitive::Transport(transport) => candidate.transport == transport,
            Primitive::Family { is_ipv6 } => any(Side::Either, &|end| end.is_ipv6() == is_ipv6),
            Primitive::Net(side, net) => any(side, &|end| net.contains(&end.ip())),
            Primitive::Ports(side, first, last) => {
                matches!(candidate.transport, Transport::Tcp | Transport::Udp)
                    && any(side, &|end| (first..=last).contains(&end.port()))
            }
        }
    }
}

/// What [`Filter::parse`] reads as the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Any => Ok(()),
            Expression::And(a, b) => write!(f, "({a} and {b})"),
            Expression::Or(a, b) => write!(f, "({a} or {b})"),
            Expression::Not(inner) => write!(f, "not {inner}"),
            Expression::Is(primitive) => primitive.fmt(f),
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Primitive::Transport(Transport::Tcp) => write!(f, "tcp"),
            Primitive::Transport(Transport::Udp) => write!(f, "udp"),
            Primitive::Transport(Transport::Icmp | Transport::Other) => write!(f, "icmp"),
            Primitive::Family { is_ipv6 } => write!(f, "{}", if *is_ipv6 { "ip6" } else { "ip" }),
            Primitive::Net(side, net) => write!(f, "{side}net {net}"),
            Primitive::Ports(side, first, last) if first == last => write!(f, "{side}port {first}"),
            Primitive::Ports(side, first, last) => write!(f, "{side}portrange {first}-{last}"),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Side::Source => write!(f, "src "),
            Side::Destination => write!(f, "dst "),
            Side::Either => Ok(()),
        }
    }
}

/// Words and signs.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '(' | ')' | '!' => 1,
            '&' | '|' if rest[1..].starts_with(first) => 2,
            _ => rest
                .find(|c: char| c.is_whitespace() || "()!&|".contains(c))
                .unwrap_or(rest.len())
                .max(first.len_utf8()),
        };
        words.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    words
}

fn quoted(word: Option<&str>) -> String {
    match word {
        // Told to a terminal, mostly.
        Some(word) => format!("{:?}", word.chars().take(40).collect::<String>()),
        None => "the end".to_owned(),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek();
        self.at += 1;
        word
    }

    fn take(&mut self, words: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(found);
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut all = self.term(depth)?;
        while self.take(&["or", "||"]) {
            all = Expression::Or(Box::new(all), Box::new(self.term(depth)?));
        }
        Ok(all)
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut all = self.factor(depth)?;
        while self.take(&["and", "&&"]) {
            all = Expression::And(Box::new(all), Box::new(self.factor(depth)?));
        }
        Ok(all)
    }

    fn factor(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth > MAX_DEPTH {
            return Err(FilterError::TooLarge);
        }
        if self.take(&["not", "!"]) {
            return Ok(Expression::Not(Box::new(self.factor(depth + 1)?)));
        }
        if self.take(&["("]) {
            let inner = self.expression(depth + 1)?;
            return match self.next() {
                Some(")") => Ok(inner),
                other => Err(FilterError::Unexpected { found: quoted(other) }),
            };
        }
        self.primitive()
    }

    fn primitive(&mut self) -> Result<Expression, FilterError> {
        let transport = match self.peek() {
            Some("tcp") => Some(Transport::Tcp),
            Some("udp") => Some(Transport::Udp),
            Some("icmp" | "icmp6") => Some(Transport::Icmp),
            _ => None,
        };
        if let Some(transport) = transport {
            self.at += 1;
            let transport = Expression::Is(Primitive::Transport(transport));
            if matches!(self.peek(), Some("src" | "dst" | "port" | "portrange" | "host" | "net")) {
                return Ok(Expression::And(
                    Box::new(transport),
                    Box::new(Expression::Is(self.of_endpoint()?)),
                ));
            }
            return Ok(transport);
        }
        let is = match self.peek() {
            Some("ip") => Primitive::Family { is_ipv6: false },
            Some("ip6") => Primitive::Family { is_ipv6: true },
            _ => return Ok(Expression::Is(self.of_endpoint()?)),
        };
        self.at += 1;
        Ok(Expression::Is(is))
    }

    /// What is said of one end, or of either.
    fn of_endpoint(&mut self) -> Result<Primitive, FilterError> {
        let side = match self.peek() {
            Some("src") => Side::Source,
            Some("dst") => Side::Destination,
            _ => Side::Either,
        };
        self.at += usize::from(side != Side::Either);
        match self.next() {
            Some("host") => self.address(side),
            Some("net") => {
                let word = self.next();
                let net = word.and_then(|word| word.parse::<IpNet>().ok());
                net.map(|net| Primitive::Net(side, net.trunc())).ok_or_else(|| FilterError::NotA {
                    found: quoted(word),
                    wanted: "network, as 10.0.0.0/8 is",
                })
            }
            Some("port") => {
                let word = self.next();
                let port = word.and_then(|word| word.parse().ok());
                port.map(|port| Primitive::Ports(side, port, port))
                    .ok_or_else(|| FilterError::NotA { found: quoted(word), wanted: "port" })
            }
            Some("portrange") => {
                let word = self.next();
                let ends = word.and_then(|word| word.split_once('-'));
                let ends = ends.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
                ends.filter(|(first, last): &(u16, u16)| first <= last)
                    .map(|(first, last)| Primitive::Ports(side, first, last))
                    .ok_or_else(|| FilterError::NotA {
                        found: quoted(word),
                        wanted: "range, as 8000-8080 is",
                    })
            }
            Some(_) if side != Side::Either => {
                self.at -= 1;
                self.address(side)
            }
            other => Err(FilterError::Unexpected { found: quoted(other) }),
        }
    }

    fn address(&mut self, side: Side) -> Result<Primitive, FilterError> {
        let word = self.next();
        let address = word.and_then(|word| word.parse::<IpAddr>().ok());
        address
            .map(|address| Primitive::Net(side, address.into()))
            .ok_or_else(|| FilterError::NotA { found: quoted(word), wanted: "address" })
    }
}

#[cfg(test)]
mod tests;
