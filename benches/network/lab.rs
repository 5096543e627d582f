//! Containers, and the members of a network in this very process.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mio::{Events, Poll, Token};
use netferry::config::Limits;
use netferry::config::limits::MAILBOX;
use netferry::config::network::wish::{NetworkWish, Surroundings};
use netferry::config::network::{Member, NetworkConfig, NetworkReply, NetworkRequest};
use netferry::run::network::members::{Members, Outcome, Terms};
use netferry::sys::confined::{Confined, Sandboxed, Waiver};
use netferry::sys::host;
use netferry::sys::process::watch_process;
use netferry::sys::tap::{Tap, TapFeatures};
use netferry::wire::MacAddr;
use netferry::worker::mailbox::{Answer, Mailbox};

const BELL: Token = Token(0);
const FIRST: usize = 16;

/// A namespace that a container might have, and a process in it.
pub struct Place {
    process: Child,
}

impl Place {
    pub fn new() -> Place {
        let mut process = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up && echo && exec sleep 7200"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let place = Place { process };
        place.run("echo reno > /proc/sys/net/ipv4/tcp_congestion_control");
        for (name, value) in crate::ground::TCP_BUFFERS {
            place.run(&format!("echo {value} > /proc/sys/{name}"));
        }
        place
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "--", program]);
        command
    }

    pub fn run(&self, script: &str) {
        assert!(self.command("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
    }

    pub fn spawn(&self, program: &str, words: &[&str]) -> Child {
        self.command(program).args(words).stdout(Stdio::piped()).spawn().unwrap()
    }

    pub fn output(&self, program: &str, words: &[&str]) -> Vec<u8> {
        self.spawn(program, words).wait_with_output().unwrap().stdout
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the first thread of a network's process does about members.
pub struct Lab {
    poll: Poll,
    answers: Mailbox<Answer>,
    members: Members,
}

impl Lab {
    pub fn new() -> Lab {
        let descriptors = host::raise_descriptor_limit().unwrap();
        let poll = Poll::new().unwrap();
        let answers = Mailbox::open(poll.registry(), BELL, MAILBOX).unwrap();
        let wish = NetworkWish { subnet6: Some("fd00:17::/64".parse().unwrap()), ..NetworkWish::default() };
        let network = NetworkConfig::new("lab".parse().unwrap(), &wish, Surroundings::default()).unwrap();
        let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
        let limits = Limits::default().within_descriptors(descriptors / 16);
        let terms = Terms {
            network,
            limits,
            host_addresses: Vec::new(),
            confined,
            pid: std::process::id(),
            rules: Default::default(),
        };
        let registry = poll.registry().try_clone().unwrap();
        let members = Members::new(terms, Vec::new(), registry, FIRST, answers.postbox());
        Lab { poll, answers, members }
    }

    fn ask(&mut self, request: NetworkRequest, descriptors: Vec<OwnedFd>) {
        let reply = match self.members.handle_request(request, descriptors) {
            Outcome::Now(reply) => reply,
            Outcome::Said(answer) => panic!("{answer:?}"),
            Outcome::Later(ticket) => self.wait_for(ticket),
        };
        assert_eq!(reply, NetworkReply::Done);
    }

    fn wait_for(&mut self, ticket: u64) -> NetworkReply {
        let mut events = Events::with_capacity(64);
        loop {
            while let Some(answer) = self.answers.next_letter() {
                self.members.handle_answer(answer);
            }
            if let Some((told, reply)) = self.members.take_reply() {
                assert_eq!(told, ticket);
                return reply;
            }
            self.poll.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
            for event in &events {
                match event.token() {
                    BELL => self.answers.note_bell(),
                    process => self.members.process_ended(process),
                }
            }
        }
    }

    /// Connects a container that is called by its number, configured as the client of the network would.
    pub fn connect(&mut self, place: &Place, number: usize) {
        let name = format!("t{number}");
        let tap = Tap::open(&name, TapFeatures::ALL).unwrap();
        let moved = format!("link set {name} netns {}", place.pid());
        assert!(Command::new("ip").args(moved.split(' ')).status().unwrap().success());
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        let member = Member {
            id: format!("id{number}"),
            name: format!("c{number}"),
            aliases: Vec::new(),
            ipv4: Some(Ipv4Addr::new(172, 17, high, low)),
            ipv6: Some(format!("fd00:17::{number:x}").parse().unwrap()),
            mac: MacAddr([2, 0x42, 172, 17, high, low]),
            interface: "eth0".into(),
            publish: Vec::new(),
            pid: None,
            namespace: None,
            rules: Default::default(),
            audited: false,
        };
        place.run(&format!(
            "ip link set {name} name eth0 address {} txqueuelen 8192; ip address add {}/16 dev eth0; \
             ip address add {}/64 dev eth0 nodad; ip link set eth0 up; ip route add default via 172.17.0.1",
            member.mac,
            member.ipv4.unwrap(),
            member.ipv6.unwrap()
        ));
        let process = watch_process(place.pid()).unwrap();
        self.ask(NetworkRequest::Connect(member), vec![tap.into_fd(), process]);
    }
}
