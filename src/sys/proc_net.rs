//! Which ports are bound in a network namespace: its tables of sockets, by proc_net(5).
//!
//! A table stays that of the namespace it was opened in, wherever its descriptor goes, so that the tables of a
//! container are read from outside again and again.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;

/// Files of the tables: TCP and UDP, of each family one. A kernel without IPv6 has only the first of each.
const TABLES: [(&str, bool); 4] = [("tcp", true), ("udp", false), ("tcp6", true), ("udp6", false)];

/// `TCP_LISTEN`, as the tables write it.
const LISTENING: &str = "0A";

/// `TCP_CLOSE`, which stands for a UDP socket that is bound and not connected.
const UNCONNECTED: &str = "07";

/// Most bytes of a table that are read: some hundred thousand sockets. More are not looked at.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// The tables of one network namespace.
#[derive(Debug)]
pub struct PortTables {
    tables: Vec<(File, bool)>,
}

impl PortTables {
    /// How many tables there can be.
    pub const COUNT: usize = TABLES.len();

    /// Those of the calling process's namespace.
    pub fn own() -> io::Result<PortTables> {
        let mut tables = Vec::new();
        for (number, (_, is_tcp)) in TABLES.iter().enumerate() {
            if let Some(table) = open_own(number)? {
                tables.push((File::from(table), *is_tcp));
            }
        }
        Ok(PortTables { tables })
    }

    /// Those of another namespace, from descriptors in the order of their numbers; `None` where there is none.
    pub fn from_descriptors(descriptors: Vec<Option<OwnedFd>>) -> PortTables {
        let numbered = descriptors.into_iter().zip(TABLES);
        let tables = numbered.filter_map(|(table, (_, is_tcp))| Some((File::from(table?), is_tcp)));
        PortTables { tables: tables.collect() }
    }

    /// Calls `found` with each port that somebody listens on, of TCP or of UDP; perhaps more than once.
    pub fn for_each(&mut self, tcp: bool, mut found: impl FnMut(u16)) -> io::Result<()> {
        let mut text = String::new();
        for (table, _) in self.tables.iter_mut().filter(|(_, is_tcp)| *is_tcp == tcp) {
            text.clear();
            table.rewind()?;
            table.take(MAX_TABLE_BYTES).read_to_string(&mut text)?;
            ports_in(&text, tcp).for_each(&mut found);
        }
        Ok(())
    }
}

/// The ports that somebody listens on by the text of a table, of TCP or of UDP.
pub fn ports_in(table: &str, tcp: bool) -> impl Iterator<Item = u16> {
    let state = if tcp { LISTENING } else { UNCONNECTED };
    table.lines().filter_map(move |line| port_in_state(line, state))
}

/// One's own table of this number; `None` where the kernel has none.
pub fn open_own(number: usize) -> io::Result<Option<OwnedFd>> {
    let Some((name, _)) = TABLES.get(number) else { return Ok(None) };
    match File::open(format!("/proc/self/net/{name}")) {
        Ok(table) => Ok(Some(table.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The local port of a line whose socket is in this state. The fields are number, local address and port in
/// hexadecimal, remote ones, and state.
fn port_in_state(line: &str, state: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    if fields.nth(1)? != state {
        return None;
    }
    let (_, port) = local.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0 0 0 0
   3: garbage 0A
   4: 00000000:FFFFF 00000000:0000 0A
";

    #[test]
    fn listeners_are_told_from_connections_and_from_what_is_no_line() {
        let ports: Vec<u16> = TEXT.lines().filter_map(|line| port_in_state(line, LISTENING)).collect();
        assert_eq!(ports, [8080, 22]);
    }

    #[test]
    fn what_is_bound_is_found_and_found_again() {
        let mut tables = PortTables::own().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (stream, datagram) = (listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port());
        let has = |tables: &mut PortTables, tcp, port| {
            let mut has = false;
            tables.for_each(tcp, |found| has |= found == port).unwrap();
            has
        };
        assert!(has(&mut tables, true, stream) && has(&mut tables, false, datagram));
        drop(listener);
        socket.connect("127.0.0.1:9").unwrap();
        assert!(!has(&mut tables, true, stream) && !has(&mut tables, false, datagram));
    }
}
