//! The host's resolvers, from `/etc/resolv.conf`, and word of its changes.
//!
//! Reading is a pure function of the text ([`parse`]). The watch sits on directories, because the file is
//! usually replaced, not rewritten, and is often a link into a directory where a resolver service replaces the
//! true file. Reference: resolv.conf(5), inotify(7).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Where it is.
pub const PATH: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// More than libc uses (three), and a bound on what a fail-over may try.
pub const MAX_SERVERS: usize = 8;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// Servers in order of preference; never none.
    pub servers: Vec<SocketAddr>,
    /// Domains to try for short names.
    pub search: Vec<String>,
    /// Options for the resolver library (`ndots:2`).
    pub options: Vec<String>,
}

/// Reads the file. One that is not there, or names no server, means the server on this machine.
pub fn read(path: &Path) -> io::Result<ResolvConf> {
    match fs::read(path) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes), interface_number)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(parse("", interface_number)),
        Err(error) => Err(error),
    }
}

/// Reads the file once more. None while it is not there, or is a link to nothing: it is being replaced, its
/// service restarts, or it went where a sandbox does not show it. What was read before holds until then.
pub fn read_again(path: &Path) -> io::Result<Option<ResolvConf>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(parse(&String::from_utf8_lossy(&bytes), interface_number))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asked of an IP socket: libc's own function takes a Unix one, which [`crate::sys::seccomp`] does not allow.
fn interface_number(name: &str) -> Option<u32> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None).ok()?;
    // SAFETY: `struct ifreq` is a plain C structure of integers and a union of such; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFINDEX reads and writes one `struct ifreq`, which `request` is; it outlives the call, and its
    // name is terminated because one of the zeroed bytes is left.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) };
    Errno::result(result).ok()?;
    // SAFETY: every byte of the union was initialised, and the answer is in this member; any value is valid.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).ok()
}

/// Understands the text of the file. `scope` gives the number of an interface, for link-local servers.
/// Lines that make no sense are passed over, as libc does.
pub fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for line in text.lines() {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else { continue };
        let values = || words.clone().map(str::to_string);
        match keyword {
            "nameserver" => {
                let server = words.next().and_then(|address| parse_server(address, &scope));
                // A server given twice would be tried twice.
                conf.servers.extend(server.filter(|server| !conf.servers.contains(server)));
            }
            // The last one counts, of either kind; `domain` is a list of one.
            "search" => conf.search = values().collect(),
            "domain" => conf.search = values().take(1).collect(),
            "options" => conf.options.extend(values()),
            _ => {}
        }
    }
    conf.servers.truncate(MAX_SERVERS);
    if conf.servers.is_empty() {
        conf.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
    }
    conf
}

fn parse_server(address: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, interface)) = address.split_once('%') else {
        return Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, DNS_PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope_id = interface.parse().ok().or_else(|| scope(interface))?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, scope_id).into())
}

/// Word of changes to the file. Its descriptor is readable when there may be some.
#[derive(Debug)]
pub struct ResolvConfWatch {
    inotify: Inotify,
    path: PathBuf,
    /// What the file was a link to when last looked at.
    target: Option<PathBuf>,
}

impl ResolvConfWatch {
    /// Watches the file and what it is a link to, wherever they come or go in their directories.
    pub fn open(path: &Path) -> io::Result<ResolvConfWatch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watch = ResolvConfWatch { inotify, path: path.to_path_buf(), target: None };
        watch.watch_directory_of(path)?;
        watch.follow_link();
        Ok(watch)
    }

    /// Takes all that has been told so far; whether the file may have changed by it.
    pub fn drain(&mut self) -> bool {
        let mut changed = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    // Others live in these directories too. No name: the queue ran over, or a directory went.
                    let ours = |name: &std::ffi::OsString| {
                        Some(name.as_os_str()) == self.path.file_name()
                            || self.target.as_deref().and_then(Path::file_name) == Some(name.as_os_str())
                    };
                    changed |= events.iter().any(|event| event.name.as_ref().is_none_or(ours));
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if changed {
            self.follow_link();
        }
        changed
    }

    /// The link may point elsewhere by now. A directory watched already stays watched once; one that is no
    /// longer of use does no harm.
    fn follow_link(&mut self) {
        let target = fs::canonicalize(&self.path).ok();
        if let Some(target) = &target {
            // The file itself as well: where it is a mount of its own, its directory sees none of its changes.
            let _ = self.inotify.add_watch(target, AddWatchFlags::IN_CLOSE_WRITE);
            // The target's directory may be closed to us: then changes of the link itself must do.
            let _ = self.watch_directory_of(target);
        }
        // While it leads nowhere (a service is restarting) the old target is still the one to wait for.
        self.target = target.or(self.target.take());
    }

    fn watch_directory_of(&self, file: &Path) -> io::Result<()> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        // A link may have to be told by its creation alone: it is never written to.
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(directory, flags)?;
        Ok(())
    }
}

impl AsFd for ResolvConfWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn servers(text: &str) -> Vec<String> {
        let scope = |name: &str| (name == "eth0").then_some(7);
        parse(text, scope).servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_come_in_order_with_their_scopes() {
        let text = "# comment\n; another\nnameserver 192.0.2.1\nnameserver\t2001:db8::1  # mine\n\
                    nameserver fe80::1%eth0\nnameserver fe80::2%3\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53", "[fe80::2%3]:53"];
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn no_server_means_the_one_on_this_machine() {
        for text in
            ["", "search example.org\n", "nameserver\n", "nameserver nonsense\n", "#nameserver 192.0.2.1"]
        {
            assert_eq!(servers(text), ["127.0.0.1:53"], "{text:?}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let text = "nameserver 1.2.3\nnameserver fe80::1%nowhere\nnameserver 192.0.2.1%eth0\nfoo bar\n\
                    nameserver 192.0.2.9\n";
        assert_eq!(servers(text), ["192.0.2.9:53"]);
    }

    #[test]
    fn no_more_than_eight_servers_are_kept_and_none_twice() {
        let text: String = (0..20).map(|i| format!("nameserver 192.0.2.{}\n", i / 2)).collect();
        let found = servers(&text);
        assert_eq!(found.len(), MAX_SERVERS);
        assert_eq!(found[7], "192.0.2.7:53");
    }

    #[test]
    fn the_last_search_list_counts_and_options_add_up() {
        let text =
            "domain a.example\nsearch b.example c.example\noptions ndots:2\noptions timeout:1 rotate\n";
        let conf = parse(text, |_| None);
        assert_eq!(conf.search, ["b.example", "c.example"]);
        assert_eq!(conf.options, ["ndots:2", "timeout:1", "rotate"]);
        let conf = parse("search b.example c.example\ndomain a.example\n", |_| None);
        assert_eq!(conf.search, ["a.example"]);
    }

    #[test]
    fn loopback_has_a_number_and_what_is_no_interface_has_none() {
        assert_eq!(interface_number("lo"), Some(1));
        assert_eq!(interface_number("no-such"), None);
        assert_eq!(interface_number(&"x".repeat(40)), None);
    }

    #[test]
    fn a_missing_file_means_the_server_on_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        assert_eq!(read(&path).unwrap().servers, ["127.0.0.1:53".parse().unwrap()]);
        // But nothing new to one who knew better.
        assert_eq!(read_again(&path).unwrap(), None);
        fs::write(&path, "nameserver 192.0.2.1").unwrap();
        assert_eq!(read_again(&path).unwrap().unwrap().servers, ["192.0.2.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_file_rewritten_or_replaced_is_noticed_and_its_neighbors_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "").unwrap();
        let mut watch = ResolvConfWatch::open(&path).unwrap();
        assert!(!watch.drain());
        fs::write(directory.path().join("hosts"), "x").unwrap();
        assert!(!watch.drain());
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(watch.drain());
        let new = directory.path().join("new");
        fs::write(&new, "").unwrap();
        fs::rename(&new, &path).unwrap();
        assert!(watch.drain());
        assert!(!watch.drain());
    }

    #[test]
    fn a_link_is_followed_wherever_it_is_turned_to() {
        let directory = tempfile::tempdir().unwrap();
        let in_directory = |name: &str| directory.path().join(name);
        for service in ["one", "two"] {
            fs::create_dir(in_directory(service)).unwrap();
            fs::write(in_directory(service).join("stub.conf"), "").unwrap();
        }
        let path = in_directory("resolv.conf");
        symlink(in_directory("one/stub.conf"), &path).unwrap();
        let mut watch = ResolvConfWatch::open(&path).unwrap();
        fs::write(in_directory("one/stub.conf"), "x").unwrap();
        assert!(watch.drain());
        fs::remove_file(&path).unwrap();
        assert!(watch.drain());
        symlink(in_directory("two/stub.conf"), &path).unwrap();
        assert!(watch.drain());
        fs::write(in_directory("two/stub.conf"), "x").unwrap();
        assert!(watch.drain());
    }
}
