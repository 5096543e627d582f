//! Members with interfaces of the kernel, in namespaces of their own; the network's process is this one.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration as StdDuration;

use mio::{Events, Poll};

use super::*;
use crate::config::PortProtocol;
use crate::config::limits::MAILBOX;
use crate::config::network::wish::{NetworkWish, Surroundings};
use crate::sys::confined::{Sandboxed, Waiver};
use crate::sys::process::watch_process;
use crate::sys::socket::tests::in_private_network;
use crate::wire::MacAddr;
use crate::worker::mailbox::Mailbox;

const BELL: Token = Token(0);
const FIRST: usize = 16;
/// Whatever a machine is busy with.
const PATIENCE: StdDuration = StdDuration::from_secs(30);

fn network(isolated: bool, internal: bool) -> NetworkConfig {
    let subnet6 = Some("fd00:17::/64".parse().unwrap());
    let wish = NetworkWish { subnet6, isolated, internal, ..NetworkWish::default() };
    NetworkConfig::new("lab".parse().unwrap(), &wish, Surroundings::default()).unwrap()
}

/// A namespace that a container might have, and a process in it.
struct Place {
    process: Child,
}

impl Place {
    fn new() -> Place {
        let mut process = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up && echo && exec sleep 300"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut line).unwrap();
        Place { process }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    fn try_run(&self, script: &str) -> bool {
        let pid = self.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "--", "sh", "-ec", script]).stdout(Stdio::null());
        command.stderr(Stdio::null()).status().unwrap().success()
    }

    fn run(&self, script: &str) {
        assert!(self.try_run(script), "{script}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The network's process, as far as it is about members.
struct Lab {
    poll: Poll,
    answers: Mailbox<Answer>,
    members: Members,
    gone: usize,
}

impl Lab {
    fn new(network: NetworkConfig) -> Lab {
        let poll = Poll::new().unwrap();
        let answers = Mailbox::open(poll.registry(), BELL, MAILBOX).unwrap();
        let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
        let terms = Terms {
            network,
            limits: Limits::default(),
            host_addresses: Vec::new(),
            confined,
            pid: std::process::id(),
            rules: Rules::default(),
        };
        let registry = poll.registry().try_clone().unwrap();
        let members = Members::new(terms, Vec::new(), registry, FIRST, answers.postbox());
        Lab { poll, answers, members, gone: 0 }
    }

    /// Lets things happen until `is_done`.
    fn until<T>(&mut self, mut is_done: impl FnMut(&mut Lab) -> Option<T>) -> T {
        let mut events = Events::with_capacity(64);
        for _ in 0..3_000 {
            while let Some(answer) = self.answers.next_letter() {
                self.gone += usize::from(self.members.handle_answer(answer));
            }
            if let Some(done) = is_done(self) {
                return done;
            }
            self.poll.poll(&mut events, Some(PATIENCE / 3_000)).unwrap();
            for event in &events {
                match event.token() {
                    BELL => self.answers.note_bell(),
                    process => self.members.process_ended(process),
                }
            }
        }
        panic!("nothing happened");
    }

    fn ask(&mut self, request: NetworkRequest, descriptors: Vec<OwnedFd>) -> NetworkReply {
        match self.members.handle_request(request, descriptors) {
            Outcome::Now(reply) => reply,
            Outcome::Said(answer) => panic!("{answer:?}"),
            Outcome::Later(ticket) => self.until(|lab| {
                let (told, reply) = lab.members.take_reply()?;
                assert_eq!(told, ticket);
                Some(reply)
            }),
        }
    }

    /// Connects a container that is called by its number, configured as the client of the network would.
    fn connect(&mut self, place: &Place, last: u8, publish: Vec<PublishRule>) -> NetworkReply {
        let name = format!("t{last}");
        let tap = Tap::open(&name, TapFeatures::ALL).unwrap();
        let moved = format!("link set {name} netns {}", place.pid());
        assert!(Command::new("ip").args(moved.split(' ')).status().unwrap().success());
        let member = member(last, publish);
        place.run(&format!(
            "ip link set {name} name eth0 address {}; ip address add {}/16 dev eth0; \
             ip address add {}/64 dev eth0 nodad; ip link set eth0 up; ip route add default via 172.17.0.1; \
             ip -6 route add default via fd00:17::1",
            member.mac,
            member.ipv4.unwrap(),
            member.ipv6.unwrap()
        ));
        let process = watch_process(place.pid()).unwrap();
        self.ask(NetworkRequest::Connect(member), vec![tap.into_fd(), process])
    }
}

fn member(last: u8, publish: Vec<PublishRule>) -> Member {
    Member {
        id: format!("id{last}"),
        name: format!("c{last}"),
        aliases: Vec::new(),
        ipv4: Some(Ipv4Addr::new(172, 17, 0, last)),
        ipv6: Some(format!("fd00:17::{last}").parse().unwrap()),
        mac: MacAddr([2, 0x42, 172, 17, 0, last]),
        interface: "eth0".into(),
        publish,
        pid: None,
        namespace: None,
        rules: Arc::default(),
        audited: false,
    }
}

fn rule(host_port: u16) -> PublishRule {
    PublishRule {
        protocol: PortProtocol::Tcp,
        host_address: Ipv4Addr::LOCALHOST.into(),
        host_port,
        interface: None,
        container_address: None,
        container_port: 80,
    }
}

fn is_bound(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_err()
}

const PING: &str = "ping -c 1 -W 10 -w 10";

#[test]
fn containers_reach_each_other_and_the_gateway_in_both_families() {
    in_private_network(
        "run::network::members::tests::containers_reach_each_other_and_the_gateway_in_both_families",
        || {
            let mut lab = Lab::new(network(false, false));
            let places = [Place::new(), Place::new()];
            for (place, last) in places.iter().zip(2..) {
                assert_eq!(lab.connect(place, last, Vec::new()), NetworkReply::Done);
            }
            for target in ["172.17.0.3", "fd00:17::3", "172.17.0.1", "fd00:17::1"] {
                places[0].run(&format!("{PING} {target}"));
            }
            let status = lab.members.status();
            assert_eq!(status.members.len(), 2);
            assert!(status.members.iter().all(|member| member.frames_sent >= 2), "{status:?}");
        },
    );
}

#[test]
fn a_container_knows_the_names_from_its_first_question_on() {
    in_private_network(
        "run::network::members::tests::a_container_knows_the_names_from_its_first_question_on",
        || {
            let mut lab = Lab::new(network(false, false));
            let place = Place::new();
            let member = member(2, Vec::new());
            let tap = Tap::open("t2", TapFeatures::ALL).unwrap();
            assert!(
                Command::new("ip")
                    .args(["link", "set", "t2", "netns", &place.pid().to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
            place.run(&format!(
                "ip link set t2 name eth0 address {}; ip address add 172.17.0.2/16 dev eth0; ip link set eth0 up; \
                 ip neighbor add 172.17.0.1 lladdr {} dev eth0",
                member.mac,
                crate::config::address::GATEWAY_MAC
            ));
            // Before anybody serves its interface the question stands in the queue of that.
            const ASK: &str = "exec 3<>/dev/udp/172.17.0.1/53; \
                printf '\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\2c2\\0\\0\\1\\0\\1' >&3; echo asked; \
                timeout 30 dd bs=512 count=1 status=none <&3 | tail -c 4 | od -An -tu1";
            let mut question = Command::new("nsenter");
            question.args(["-t", &place.pid().to_string(), "-n", "--", "bash", "-c", ASK]);
            let mut question = question.stdout(Stdio::piped()).spawn().unwrap();
            let mut said = [0; 6];
            std::io::Read::read_exact(question.stdout.as_mut().unwrap(), &mut said).unwrap();
            assert_eq!(lab.ask(NetworkRequest::Connect(member), vec![tap.into_fd()]), NetworkReply::Done);
            let answer = question.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "172  17   0   2");
        },
    );
}

#[test]
fn isolated_containers_reach_the_gateway_alone() {
    in_private_network("run::network::members::tests::isolated_containers_reach_the_gateway_alone", || {
        let mut lab = Lab::new(network(true, false));
        let places = [Place::new(), Place::new()];
        for (place, last) in places.iter().zip(2..) {
            assert_eq!(lab.connect(place, last, Vec::new()), NetworkReply::Done);
        }
        places[0].run(&format!("{PING} 172.17.0.1"));
        // Even with what the other would answer to who has its address.
        places[0].run("ip neighbor replace 172.17.0.3 lladdr 02:42:ac:11:00:03 dev eth0");
        assert!(!places[0].try_run("ping -c 1 -W 1 -w 1 172.17.0.3"));
        let status = lab.members.status();
        let isolated = |member: &MemberStatus| member.dropped.iter().any(|(name, _)| *name == "isolated");
        assert!(isolated(&status.members[0]), "{status:?}");
        assert!(status.members.iter().all(|member| member.frames_sent == 0));
    });
}

#[test]
fn what_a_member_has_is_given_to_no_other_and_is_free_when_it_is_gone() {
    in_private_network(
        "run::network::members::tests::what_a_member_has_is_given_to_no_other_and_is_free_when_it_is_gone",
        || {
            let mut lab = Lab::new(network(false, false));
            let (first, second) = (Place::new(), Place::new());
            assert_eq!(lab.connect(&first, 2, vec![rule(8_081)]), NetworkReply::Done);
            assert!(is_bound(8_081));
            let refused = |reply: NetworkReply| match reply {
                NetworkReply::Refused(reason) => reason,
                other => panic!("{other:?}"),
            };
            let tap = || Tap::open("spare", TapFeatures::ALL).unwrap().into_fd();
            let same_name = Member { id: "other".into(), ..member(2, Vec::new()) };
            let reason = refused(lab.ask(NetworkRequest::Connect(same_name), vec![tap()]));
            assert!(reason.contains("c2 is on network lab"), "{reason}");
            let same_address = Member { ipv4: member(2, Vec::new()).ipv4, ..member(3, Vec::new()) };
            let reason = refused(lab.ask(NetworkRequest::Connect(same_address), vec![tap()]));
            assert!(reason.contains("172.17.0.2 is in use"), "{reason}");
            let reason = refused(lab.ask(NetworkRequest::Connect(member(3, vec![rule(8_081)])), vec![tap()]));
            assert!(reason.contains("8081"), "{reason}");
            let reason = refused(lab.ask(NetworkRequest::Connect(member(3, Vec::new())), Vec::new()));
            assert!(reason.contains("no descriptor"), "{reason}");

            let id = || "id2".to_owned();
            let reply = lab.ask(NetworkRequest::Publish { id: id(), rules: vec![rule(8_082)] }, Vec::new());
            assert_eq!(reply, NetworkReply::Done);
            let reply = lab.ask(NetworkRequest::Publish { id: id(), rules: vec![rule(8_082)] }, Vec::new());
            refused(reply);
            assert!(is_bound(8_082));
            assert_eq!(lab.members.status().members[0].member.publish, [rule(8_081), rule(8_082)]);
            let gone = NetworkRequest::Unpublish { id: id(), rules: vec![rule(8_081), rule(9_999)] };
            assert_eq!(lab.ask(gone, Vec::new()), NetworkReply::Done);
            assert!(!is_bound(8_081) && is_bound(8_082));

            assert_eq!(lab.ask(NetworkRequest::Disconnect { id: id() }, Vec::new()), NetworkReply::Done);
            assert!(!is_bound(8_082));
            first.run("! ip link show eth0");
            refused(lab.ask(NetworkRequest::Disconnect { id: id() }, Vec::new()));
            assert_eq!(lab.connect(&second, 2, vec![rule(8_082)]), NetworkReply::Done);
        },
    );
}

#[test]
fn a_member_leaves_with_its_process_and_with_its_interface() {
    in_private_network(
        "run::network::members::tests::a_member_leaves_with_its_process_and_with_its_interface",
        || {
            let mut lab = Lab::new(network(false, false));
            let (first, second) = (Place::new(), Place::new());
            assert_eq!(lab.connect(&first, 2, vec![rule(8_081)]), NetworkReply::Done);
            assert_eq!(lab.connect(&second, 3, vec![rule(8_082)]), NetworkReply::Done);
            drop(first);
            lab.until(|lab| (lab.gone == 1).then_some(()));
            assert!(!is_bound(8_081) && is_bound(8_082));
            second.run("ip link delete eth0");
            lab.until(|lab| (lab.gone == 2).then_some(()));
            assert!(!is_bound(8_082));
            assert!(lab.members.status().members.is_empty());
        },
    );
}

#[test]
fn a_network_is_removed_when_it_is_empty_or_by_force() {
    in_private_network(
        "run::network::members::tests::a_network_is_removed_when_it_is_empty_or_by_force",
        || {
            let mut lab = Lab::new(network(false, false));
            let place = Place::new();
            assert_eq!(lab.connect(&place, 2, Vec::new()), NetworkReply::Done);
            let refused = lab.ask(NetworkRequest::Remove { force: false }, Vec::new());
            assert!(matches!(refused, NetworkReply::Refused(_)) && !lab.members.is_over());
            assert_eq!(lab.ask(NetworkRequest::Remove { force: true }, Vec::new()), NetworkReply::Done);
            assert!(lab.members.is_over());
            place.run("! ip link show eth0");
            let late = lab.ask(NetworkRequest::Connect(member(3, Vec::new())), Vec::new());
            assert!(matches!(late, NetworkReply::Refused(_)));
        },
    );
}

#[test]
fn ports_of_an_internal_network_are_not_published() {
    in_private_network(
        "run::network::members::tests::ports_of_an_internal_network_are_not_published",
        || {
            let mut lab = Lab::new(network(false, true));
            let place = Place::new();
            let refused = lab.connect(&place, 2, vec![rule(8_081)]);
            assert!(matches!(refused, NetworkReply::Refused(_)) && !is_bound(8_081));
            place.run("! ip link show eth0");
            assert_eq!(lab.connect(&place, 2, Vec::new()), NetworkReply::Done);
            let rules = vec![rule(8_081)];
            let refused = lab.ask(NetworkRequest::Publish { id: "id2".into(), rules }, Vec::new());
            assert!(matches!(refused, NetworkReply::Refused(_)) && !is_bound(8_081));
            assert!(TcpStream::connect("127.0.0.1:8081").is_err());
            // No way out, and it is told so at once.
            place.run("ping -c 1 -W 10 -w 10 203.0.113.1 | grep -q Unreachable");
        },
    );
}
