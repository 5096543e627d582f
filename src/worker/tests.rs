//! The driver with a guest's socket for its link and a socket for requests, in a network where only loopback is.

use crate::control::Server;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::mailbox::{Answer, Postbox, Replied};
use super::*;
use crate::config::limits::MAILBOX;
use crate::config::{Limits, LinkConfig, PortProtocol, PublishRule};
use crate::stack::boundary::{Reply, Request};
use crate::sys::bess::BessSocket;
use crate::sys::confined::{Sandboxed, Waiver};
use crate::sys::socket::tests::in_private_network;
use crate::wire::MacAddr;

type StdDuration = std::time::Duration;

/// A driver at work, the guest's end of its link, and where it takes requests.
struct Ground {
    worker: JoinHandle<io::Result<ExitReason>>,
    postbox: Postbox<Letter>,
    guest: OwnedFd,
    path: PathBuf,
}

/// A link with a guest on it, and little else.
pub(super) fn config(published_ports: usize) -> Config {
    Config {
        closed_ports: crate::config::ClosedPorts::Accept,
        limits: Limits { published_ports, ..Limits::default() },
        ..Config::on(LinkConfig { container_mac: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..LinkConfig::default() })
    }
}

impl Ground {
    fn new(name: &str, published_ports: usize) -> Ground {
        Ground::with(name, published_ports, |worker| worker)
    }

    fn with(name: &str, published_ports: usize, equip: impl FnOnce(Worker) -> Worker) -> Ground {
        let path = std::env::temp_dir().join(format!("netferry-worker-{}-{name}", std::process::id()));
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, guest) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair of sockets");
        setsockopt(&guest, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
        let device = BessSocket::from_fd(ours).unwrap();
        let worker =
            Worker::new(Arc::new(config(published_ports)), device, Vec::new(), Vec::new(), [1, 2, 3, 4])
                .unwrap();
        let mut worker = equip(worker.with_api(Server::bind("--api-socket", &path).unwrap()).unwrap());
        let postbox = worker.postbox().unwrap();
        let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
        let worker = confined.spawn(move |confined| worker.run(Vec::new(), confined)).unwrap();
        Ground { worker, postbox, guest, path }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client.set_read_timeout(Some(StdDuration::from_secs(5))).unwrap();
        client
    }

    fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        reply
    }

    fn add(&self, arguments: &str) -> String {
        self.ask(&format!(
            r#"{{"execute":"add_hostfwd","arguments":{{"host_addr":"127.0.0.1",{arguments}}}}}"#
        ))
    }

    fn entries(&self) -> usize {
        let list: serde_json::Value =
            serde_json::from_str(&self.ask(r#"{"execute":"list_hostfwd"}"#)).unwrap();
        list["return"]["entries"].as_array().unwrap().len()
    }

    /// Reads what the guest is sent until an IPv4 packet of this transport comes to this port.
    fn wait_for(&self, protocol: u8, port: u16) {
        let mut frame = [0; 2_048];
        for _ in 0..100 {
            let len = recv(self.guest.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
            let is_it = len > 38
                && frame[12..14] == [8, 0]
                && frame[23] == protocol
                && frame[36..38] == port.to_be_bytes();
            if is_it {
                return;
            }
        }
        panic!("no packet of protocol {protocol} to port {port}");
    }

    /// Takes the guest away, with which the driver ends.
    fn finish(self) {
        drop(self.guest);
        assert_eq!(self.worker.join().unwrap().unwrap(), ExitReason::LinkGone);
        assert!(!self.path.exists(), "the socket was left behind");
    }
}

#[test]
fn published_port_leads_to_the_link_until_it_is_removed() {
    in_private_network("worker::tests::published_port_leads_to_the_link_until_it_is_removed", || {
        let ground = Ground::new("ports", 8);
        assert_eq!(ground.add(r#""proto":"tcp","host_port":8080,"guest_port":80"#), r#"{"return":{"id":1}}"#);
        assert_eq!(ground.add(r#""proto":"udp","host_port":8080,"guest_port":53"#), r#"{"return":{"id":2}}"#);
        let _client = TcpStream::connect("127.0.0.1:8080").unwrap();
        ground.wait_for(6, 80);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"question", "127.0.0.1:8080").unwrap();
        ground.wait_for(17, 53);
        for id in [1, 2] {
            let request = format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{id}}}}}"#);
            assert_eq!(ground.ask(&request), r#"{"return":{}}"#);
        }
        // Nothing of ours holds the ports any more.
        TcpStream::connect("127.0.0.1:8080").unwrap_err();
        UdpSocket::bind("127.0.0.1:8080").unwrap();
        assert_eq!(ground.entries(), 0);
        ground.finish();
    });
}

#[test]
fn range_is_published_whole_or_not_at_all() {
    in_private_network("worker::tests::range_is_published_whole_or_not_at_all", || {
        let ground = Ground::new("range", 8);
        let taken = TcpListener::bind("127.0.0.1:8083").unwrap();
        let range = r#""proto":"tcp","host_port":8080,"host_port_end":8083,"guest_port":80"#;
        let refused = ground.add(range);
        assert!(refused.contains("127.0.0.1:8083/tcp: the port is in use"), "{refused}");
        assert_eq!(ground.entries(), 0);
        drop(taken);
        let published = ground.add(range);
        assert!(published.starts_with(r#"{"return":{"id":"#), "{published}");
        assert_eq!(ground.entries(), 4);
        ground.finish();
    });
}

#[test]
fn more_ports_than_the_limit_are_refused() {
    in_private_network("worker::tests::more_ports_than_the_limit_are_refused", || {
        let ground = Ground::new("limit", 2);
        for port in [8080, 8081] {
            let reply = ground.add(&format!(r#""proto":"tcp","host_port":{port},"guest_port":80"#));
            assert!(reply.starts_with(r#"{"return""#), "{reply}");
        }
        let refused = ground.add(r#""proto":"udp","host_port":8082,"guest_port":80"#);
        assert!(refused.contains("2 ports are published, and that is the limit"), "{refused}");
        UdpSocket::bind("127.0.0.1:8082").unwrap();
        ground.finish();
    });
}

#[test]
fn clients_that_never_stop_stop_nobody() {
    in_private_network("worker::tests::clients_that_never_stop_stop_nobody", || {
        let ground = Ground::new("endless", 8);
        // They come again whenever they are cut off, and give up when nobody listens any more.
        let endless: Vec<_> = (0..2)
            .map(|_| {
                let path = ground.path.clone();
                std::thread::spawn(move || {
                    while let Ok(mut client) = UnixStream::connect(&path) {
                        while client.write_all(&[b' '; 1 << 16]).is_ok() {}
                    }
                })
            })
            .collect();
        let idle: Vec<UnixStream> = (0..8).map(|_| ground.connect()).collect();
        ground.add(r#""proto":"tcp","host_port":8080,"guest_port":80"#);
        for _ in 0..20 {
            let begun = Clock::read();
            assert_eq!(ground.entries(), 1);
            let _client = TcpStream::connect("127.0.0.1:8080").unwrap();
            ground.wait_for(6, 80);
            assert!(begun.elapsed() < StdDuration::from_secs(1), "it took {:?}", begun.elapsed());
        }
        assert!(endless.iter().all(|client| !client.is_finished()), "they write all the time");
        drop(idle);
        ground.finish();
        for client in endless {
            client.join().unwrap();
        }
    });
}

/// Flows that are told in pages.
const MANY: usize = 100_000;

#[test]
fn a_hundred_thousand_flows_are_told_page_by_page_while_datagrams_pass() {
    in_private_network(
        "worker::tests::a_hundred_thousand_flows_are_told_page_by_page_while_datagrams_pass",
        || {
            let path = std::env::temp_dir().join(format!("netferry-worker-{}-pages", std::process::id()));
            let server = Server::bind("--control", &path).unwrap();
            let ground = Ground::with("many", 8, |worker| worker.with_control(server).unwrap());
            // Clients of published UDP ports share the sockets of these.
            for (host, guest) in [(8_053, 53), (8_054, 54)] {
                ground.add(&format!(r#""proto":"udp","host_port":{host},"guest_port":{guest}"#));
            }
            for (to, port) in [(8_053_u16, 53), (8_054, 54)] {
                let clients: Vec<u16> = (10_000..).take(MANY / 2).collect();
                for some in clients.chunks(64) {
                    for from in some {
                        let socket = UdpSocket::bind(("127.0.0.1", *from)).unwrap();
                        socket.send_to(b"q", ("127.0.0.1", to)).unwrap();
                    }
                    some.iter().for_each(|_| ground.wait_for(17, port));
                }
            }
            let client = UdpSocket::bind(("127.0.0.1", 10_000)).unwrap();
            let mut control = std::io::BufReader::new(UnixStream::connect(&path).unwrap());
            let mut names = std::collections::HashSet::new();
            let (mut from, mut pages) = (serde_json::Value::from(0), 0);
            while !from.is_null() {
                let request =
                    serde_json::json!({ "version": 1, "request": "flows", "from": from, "brief": true });
                control.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
                // While it is answered, a datagram passes.
                client.send_to(b"again", "127.0.0.1:8053").unwrap();
                ground.wait_for(17, 53);
                let mut line = String::new();
                std::io::BufRead::read_line(&mut control, &mut line).unwrap();
                assert!(line.len() < 128 << 10, "a page is of {} bytes", line.len());
                let mut page: serde_json::Value = serde_json::from_str(&line).unwrap();
                for flow in page["answer"]["flows"].as_array().unwrap() {
                    assert!(names.insert(flow["id"].as_str().unwrap().to_owned()), "{flow} twice");
                }
                from = page["answer"]["next"].take();
                pages += 1;
            }
            assert_eq!(names.len(), MANY);
            assert!(pages >= MANY / 128, "{pages}");
            ground.finish();
        },
    );
}

#[test]
fn another_thread_asks_and_ends_it() {
    in_private_network("worker::tests::another_thread_asks_and_ends_it", || {
        let ground = Ground::new("letters", 8);
        let mut poll = Poll::new().unwrap();
        let mut answers = Mailbox::open(poll.registry(), mio::Token(0), MAILBOX).unwrap();
        let rule: PublishRule = PublishRule {
            protocol: PortProtocol::Udp,
            host_address: "127.0.0.1".parse().unwrap(),
            host_port: 8080,
            interface: None,
            container_address: None,
            container_port: 53,
        };
        let mut ask = |ticket, request| {
            ground.postbox.post(Letter::Ask { ticket, request, answers: answers.postbox() }).unwrap();
            let mut events = Events::with_capacity(1);
            poll.poll(&mut events, Some(StdDuration::from_secs(30))).unwrap();
            answers.note_bell();
            let Answer { ticket: answered, reply } = answers.next_letter().expect("an answer");
            assert_eq!(answered, ticket);
            match reply {
                Replied::Request(reply) => reply,
                Replied::Inquiry(said) => panic!("{said:?}"),
            }
        };
        assert_eq!(ask(5, Request::Publish(vec![rule])), Reply::Published(vec![ListenerId(1)]));
        assert_eq!(ask(6, Request::List), Reply::Listed(vec![(ListenerId(1), rule)]));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"question", "127.0.0.1:8080").unwrap();
        ground.wait_for(17, 53);
        ground.postbox.post(Letter::React(Reaction::Finish(3))).unwrap();
        assert_eq!(ground.worker.join().unwrap().unwrap(), ExitReason::Finished(3));
        assert!(ground.postbox.post(Letter::React(Reaction::Continue)).is_err(), "it is gone");
    });
}
