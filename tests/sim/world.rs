//! The whole: clock, core, link, guest and host, and the reference model that judges them.
//!
//! Time jumps from one happening to the next. After every run the books must balance: nothing sent that may not
//! be, every socket closed once, every flow freed once. A failure prints what is needed to see it again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use netferry::config::{Config, Ipv4Link, Ipv6Link, Limits, LinkConfig, PublishRule, Timeouts, UdpMapping};
use netferry::stack::Stack;
use netferry::stack::boundary::{Action, FlowId, HostEvent, Io, ListenerId, StackEvent};
use netferry::stack::drop_reason::DropReason;
use netferry::wire::MacAddr;
use netferry::wire::vnet_header::{Offload, VNET_HEADER_LEN};

use crate::app::Script;
use crate::clock::{Duration, Instant, ms, secs};
use crate::guest::{Guest, StreamId};
use crate::host::{Connection, SimHost, Target};
use crate::link::{Faults, Link};
use crate::packet;
use crate::prng::{Prng, scramble};

pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
pub const CONTAINER_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 100];
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub const GATEWAY6_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
pub const CONTAINER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);

/// An address outside, by its text.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub offload: Offload,
    pub config: Config,
    pub resolvers: Vec<SocketAddr>,
    /// Bytes of the guest's TCP buffers.
    pub guest_buffer_bytes: usize,
    pub down: Faults,
    pub up: Faults,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: seed_from_environment().unwrap_or(1),
            offload: Offload::ALL,
            config: config(),
            resolvers: vec![at("203.0.113.53:53"), at("203.0.113.54:53")],
            guest_buffer_bytes: 256 << 10,
            down: Faults::default(),
            up: Faults::default(),
        }
    }
}

impl Settings {
    pub fn offload(self, offload: Offload) -> Settings {
        Settings { offload, ..self }
    }

    /// The same faults both ways.
    pub fn faults(self, faults: Faults) -> Settings {
        Settings { down: faults, up: faults, ..self }
    }

    /// Changes the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Settings {
        change(&mut self.config);
        self
    }

    /// Publishes one more port; its listener is the place of its rule.
    pub fn publishing(self, rule: PublishRule) -> Settings {
        self.with(|config| config.publish.push(rule))
    }
}

/// The seed that a failure has printed, to see it again.
pub fn seed_from_environment() -> Option<u64> {
    std::env::var("NETFERRY_SIM_SEED").ok().map(|text| text.parse().expect("NETFERRY_SIM_SEED is a number"))
}

/// The usual instance.
pub fn config() -> Config {
    Config {
        link: LinkConfig {
            ipv4: Some(Ipv4Link {
                subnet: "10.0.2.0/24".parse().unwrap(),
                gateway: GATEWAY,
                dns: DNS,
                container: CONTAINER,
            }),
            ipv6: Some(Ipv6Link {
                prefix: "fd00::/64".parse().unwrap(),
                gateway: GATEWAY6,
                gateway_link_local: GATEWAY6_LINK_LOCAL,
                dns: DNS6,
                container: CONTAINER6,
            }),
            mtu: 1500,
            gateway_mac: MacAddr(GATEWAY_MAC),
            container_mac: Some(MacAddr(CONTAINER_MAC)),
        },
        host_loopback: false,
        udp_mapping: UdpMapping::Connected,
        publish: Vec::new(),
        host_addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8:7::7".parse().unwrap()],
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    }
}

/// What the core told of one flow.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    opened: u32,
    closed: u32,
}

/// Everything at once.
pub struct World {
    pub settings: Settings,
    pub now: Instant,
    pub stack: Stack,
    pub link: Link,
    pub guest: Guest,
    pub host: SimHost,
    /// What the core told, with when.
    pub events: Vec<(Instant, StackEvent)>,
    /// Clients of published ports that the core would not take.
    pub rejected: Vec<DropReason>,
    violations: Vec<String>,
    lives: HashMap<FlowId, Life>,
    /// The most flows and buffer bytes at any time.
    pub most_flows: usize,
    pub most_buffer_bytes: usize,
    stuck: u32,
}

impl World {
    pub fn new(settings: Settings) -> World {
        let seed = settings.seed;
        let config = Arc::new(settings.config.clone());
        let mut prng = Prng::new(seed, "secret");
        let secret = [prng.next(), prng.next(), prng.next(), prng.next()];
        let mut link =
            Link::new(seed, settings.offload, config.link.mtu, (GATEWAY_MAC, CONTAINER_MAC));
        (link.down, link.up) = (settings.down, settings.up);
        let mut guest = Guest::new(&config.link, CONTAINER_MAC, scramble(seed));
        guest.buffer_bytes = settings.guest_buffer_bytes;
        World {
            stack: Stack::new(config, settings.offload, settings.resolvers.clone(), secret, Instant::ZERO),
            now: Instant::ZERO,
            link,
            guest,
            host: SimHost::new(seed),
            events: Vec::new(),
            rejected: Vec::new(),
            violations: Vec::new(),
            lives: HashMap::new(),
            most_flows: 0,
            most_buffer_bytes: 0,
            stuck: 0,
            settings,
        }
    }

    /// A world with the usual settings.
    pub fn usual() -> World {
        World::new(Settings::default())
    }

    /// How often the core dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.stack.stats().dropped(reason)
    }

    /// Puts an IP packet of the container before the core, without the guest's doing.
    pub fn inject(&mut self, packet: &[u8]) {
        let frame = packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, packet);
        self.inject_frame(frame);
    }

    /// Puts a frame before the core as it is.
    pub fn inject_frame(&mut self, frame: Vec<u8>) {
        self.link.inject_up([0; VNET_HEADER_LEN], frame, self.now);
    }

    /// A client connects to a published port of the host.
    pub fn client_connects(&mut self, listener: u32, client: SocketAddr, script: Script) -> Option<FlowId> {
        let rule = self.settings.config.publish[listener as usize];
        let local = SocketAddr::new(rule.host_address, rule.host_port);
        match self.stack.accept_stream(ListenerId(listener), client, local, self.now) {
            Ok(flow) => {
                self.host.bind_accepted(flow, client, Target::running(script));
                Some(flow)
            }
            Err(reason) => {
                self.rejected.push(reason);
                None
            }
        }
    }

    /// The container connects to `target`, where `host` answers.
    pub fn connect(&mut self, target: SocketAddr, container: Script, host: Target) -> StreamId {
        self.host.targets.insert(target, host);
        self.guest.connect(target, container)
    }

    /// The program at the host's end of the only connection to `target`.
    pub fn peer(&self, target: SocketAddr) -> &Connection {
        self.host.connection(target)
    }

    /// Everything that can happen at this instant happens.
    fn settle(&mut self) {
        let (now, mut rounds) = (self.now, 0);
        loop {
            self.link.now = now;
            let mut moved = false;
            while let Some((header, frame)) = self.link.arrived_at_core(now) {
                let mut io = Io { host: &mut self.host, frames: &mut self.link };
                self.stack.handle_frame(&header, &frame, now, &mut io);
                moved = true;
            }
            self.host.step(now);
            while let Some(event) = self.host.poll_event() {
                self.handle_host(event);
                moved = true;
            }
            if self.stack.poll_timeout().is_some_and(|due| due <= now) {
                let mut io = Io { host: &mut self.host, frames: &mut self.link };
                self.stack.handle_timeout(now, &mut io);
                moved = true;
            }
            self.stack.flush(now, &mut Io { host: &mut self.host, frames: &mut self.link });
            while let Some(action) = self.stack.poll_action() {
                self.host.execute(action);
                moved = true;
            }
            self.collect_events();
            while let Some(frame) = self.link.arrived_at_guest(now) {
                self.guest.receive(frame);
                moved = true;
            }
            let sent = self.guest.step(now);
            moved |= !sent.is_empty();
            self.link.send_up(sent, now);
            self.watch();
            rounds += 1;
            if !moved || rounds == 20_000 {
                break;
            }
        }
        assert!(rounds < 20_000, "something spins at {now}: the core's timeout is {:?}", self.stack.poll_timeout());
    }

    fn handle_host(&mut self, event: HostEvent) {
        let mut io = Io { host: &mut self.host, frames: &mut self.link };
        self.stack.handle_host(event, self.now, &mut io);
    }

    fn collect_events(&mut self) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                StackEvent::FlowOpened { flow, .. } => self.lives.entry(flow).or_default().opened += 1,
                StackEvent::FlowClosed { flow } => self.lives.entry(flow).or_default().closed += 1,
                StackEvent::EchoForbidden | StackEvent::NoResolver => {}
            }
            self.events.push((self.now, event));
        }
    }

    /// Checks what must hold at every moment.
    fn watch(&mut self) {
        let limits = &self.settings.config.limits;
        self.most_flows = self.most_flows.max(self.stack.flow_count());
        self.most_buffer_bytes = self.most_buffer_bytes.max(self.stack.tcp_buffer_bytes());
        if self.most_flows > limits.flows {
            self.violations.push(format!("{} flows, {} allowed", self.most_flows, limits.flows));
        }
        if self.most_buffer_bytes > limits.tcp_buffer_total_bytes {
            self.violations.push(format!("{} bytes of buffers", self.most_buffer_bytes));
        }
        self.violations.append(&mut self.link.violations);
        self.violations.append(&mut self.host.violations);
        assert!(self.violations.is_empty(), "at {}: {:#?}", self.now, self.violations);
    }

    /// When something happens next.
    fn next_at(&mut self) -> Option<Instant> {
        let guest = self.guest.next_at(self.now);
        [self.link.next_at(), self.host.next_at(), self.stack.poll_timeout(), guest].into_iter().flatten().min()
    }

    /// Lets time pass until `done`; panics when that takes longer than `limit`.
    pub fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&World) -> bool) {
        let deadline = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return;
            }
            let next = self.next_at().unwrap_or(deadline);
            assert!(
                self.now < deadline && next <= deadline,
                "not within {limit}: {what}; next at {next}, {} flows, {} sockets, streams {:?}",
                self.stack.flow_count(),
                self.host.open_sockets(),
                self.stream_summary(),
            );
            self.advance(next);
        }
    }

    fn advance(&mut self, next: Instant) {
        // Something due now that did not move anything: time goes on by the least step.
        self.stuck = if next <= self.now { self.stuck + 1 } else { 0 };
        assert!(self.stuck < 10_000, "the core asks to be called at {next}, again and again");
        self.now = next.max(self.now + Duration::from_micros(1));
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        let deadline = self.now + time;
        loop {
            self.settle();
            match self.next_at() {
                Some(next) if next <= deadline && self.now < deadline => self.advance(next),
                Some(_) | None => break,
            }
        }
        self.now = deadline;
        self.settle();
    }

    fn stream_summary(&self) -> Vec<String> {
        let guest = (0..self.guest.streams.len()).map(|place| {
            let app = self.guest.app(StreamId(place));
            let state = self.guest.state(StreamId(place));
            format!("container {state:?} sent {} got {} end {:?}", app.sent, app.received, app.peer_ended)
        });
        let host = self.host.connections.iter().map(|peer| {
            let app = &peer.app;
            format!("host sent {} got {} end {:?} closed {:?}", app.sent, app.received, app.peer_ended, peer.closed)
        });
        guest.chain(host).take(12).collect()
    }

    /// Waits until the core has no flow left, TIME-WAIT included, and checks the books.
    pub fn finish(self) {
        self.finish_within(secs(30));
    }

    /// The same with more patience.
    pub fn finish_within(mut self, patience: Duration) {
        self.run_until(patience, "all flows freed", |world| world.stack.flow_count() == 0);
        self.run_for(ms(100));
        assert_eq!(self.host.open_sockets(), 0, "sockets leaked");
        assert_eq!(self.host.opened, self.host.closed);
        assert_eq!(self.stack.tcp_buffer_bytes(), 0, "buffers leaked");
        for (flow, life) in &self.lives {
            assert!(life.opened == 1 && life.closed == 1, "{flow:?}: {life:?}");
        }
        for stream in &self.guest.streams {
            assert_eq!(stream.app.wrong_at, None, "the container got a wrong byte");
        }
        for connection in &self.host.connections {
            assert_eq!(connection.app.wrong_at, None, "the host got a wrong byte");
            assert!(!connection.shut || connection.app.peer_reset || connection.app.ended.is_some() || connection.app.peer_ended.is_some());
        }
    }

    /// Both ends of one connection got what the other sent, then its end.
    pub fn assert_exchanged(&self, stream: StreamId, peer: &Connection) {
        let app = self.guest.app(stream);
        assert!(app.got_all(peer.app.sent), "the container: {app:?} of {}", peer.app.sent);
        assert!(peer.app.got_all(app.sent), "the host: {:?} of {}", peer.app, app.sent);
    }

    /// Actions of one kind so far.
    pub fn count_actions(&self, which: impl Fn(&Action) -> bool) -> usize {
        self.host.actions.iter().filter(|action| which(action)).count()
    }

    /// IP packets the core sent so far.
    pub fn sent_packets(&self) -> impl Iterator<Item = packet::SeenIp> + '_ {
        self.link.seen().filter_map(|seen| seen.ip)
    }

    /// TCP segments the core sent so far to the container's `port`.
    pub fn segments_to(&self, port: u16) -> Vec<packet::SeenIp> {
        let fits = |ip: &packet::SeenIp| ip.protocol == packet::TCP && ip.ports().1 == port;
        self.sent_packets().filter(fits).collect()
    }

    /// ICMP errors the core sent so far: type, code, who says so, and the packet they quote.
    pub fn icmp_errors(&self) -> Vec<(u8, u8, IpAddr, packet::SeenIp)> {
        let is_error = |ip: &packet::SeenIp| match ip.icmp() {
            Some((kind, _)) if ip.protocol == packet::ICMP => matches!(kind, 3 | 11 | 12),
            Some((kind, _)) => kind < 128,
            None => false,
        };
        self.sent_packets()
            .filter(is_error)
            .map(|ip| {
                let quoted = &ip.transport[8..];
                let quote = if ip.protocol == packet::ICMP { packet::read_ipv4(quoted) } else { packet::read_ipv6(quoted) };
                let (kind, code) = ip.icmp().unwrap();
                (kind, code, ip.source, quote.expect("an error quotes a packet"))
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Settings { seed, offload, down, up, .. } = &self.settings;
            eprintln!("at {} with {offload:?}\n  down {down:?}\n  up {up:?}", self.now);
            eprintln!("again: NETFERRY_SIM_SEED={seed} cargo test --test sim");
        }
    }
}
