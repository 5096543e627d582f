//! Names, resolved as the container would: by asking the resolvers that netferry's DNS asks, in their order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::ClientError;
use crate::sys::host;
use crate::wire::dns_answer::{self as dns, Data};

/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer over UDP that is read.
const MAX_ANSWER_BYTES: usize = 4_096;

/// The addresses of a name, those of IPv4 first.
pub fn resolve(name: &str, resolvers: &[SocketAddr]) -> Result<Vec<IpAddr>, ClientError> {
    let unresolved = |why: String| ClientError::Unresolved { name: name.to_owned(), why };
    if resolvers.is_empty() {
        return Err(unresolved("the host has no resolver to ask".to_owned()));
    }
    let mut addresses = Vec::new();
    let mut silence = None;
    for kind in [dns::A, dns::AAAA] {
        let found = resolvers.iter().find_map(|server| match ask(name, kind, *server) {
            Ok(found) => Some(found),
            Err(error) => {
                silence = Some(format!("the resolver {server} does not answer: {error}"));
                None
            }
        });
        addresses.extend(found.unwrap_or_default());
    }
    match (addresses.is_empty(), silence) {
        (false, _) => Ok(addresses),
        (true, Some(silence)) => Err(unresolved(silence)),
        (true, None) => Err(unresolved("it has no address".to_owned())),
    }
}

/// Asks one resolver for the records of one kind.
fn ask(name: &str, kind: u16, server: SocketAddr) -> std::io::Result<Vec<IpAddr>> {
    let [random, ..] = host::random_secret()?;
    let query = dns::query(random as u16, name, kind)
        .ok_or_else(|| std::io::Error::other("this is no name of the DNS"))?;
    let own: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(&query)?;
    let mut buffer = [0; MAX_ANSWER_BYTES];
    loop {
        let len = socket.recv(&mut buffer)?;
        let message = &buffer[..len];
        if message.get(..2) == query.get(..2)
            && let Some((_, records)) = dns::answer(message)
        {
            let addresses = records.into_iter().filter_map(|record| match record.data {
                Data::Address(address) => Some(address),
                Data::Alias(_) => None,
            });
            return Ok(addresses.collect());
        }
    }
}
