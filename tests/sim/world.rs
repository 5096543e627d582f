//! The whole: clock, core, link, guest and host, and the reference model that judges them.
//!
//! Time jumps from one happening to the next. After every run the books must balance: nothing sent that may not
//! be, every socket closed once, every flow freed once. A failure prints what is needed to see it again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netferry::stack::Stack;
use netferry::stack::boundary::{Action, FlowId, HostEvent, Io, ListenerId, StackEvent};
use netferry::stack::drop_reason::DropReason;
use netferry::stack::flow::FlowProtocol;
use netferry::wire::vnet_header::VNET_HEADER_LEN;

use crate::app::Script;
use crate::clock::{Duration, Instant, secs};
use crate::guest::{Guest, StreamId};
use crate::host::{Connection, SimHost, Target};
use crate::link::Link;
use crate::packet;
use crate::prng::{Prng, scramble};
pub use crate::settings::*;

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
    /// Microseconds by which the core's clock is ahead of everybody else's: a clock that has jumped.
    pub ahead_micros: i64,
    pub stack: Stack,
    pub link: Link,
    pub guest: Guest,
    /// The guest neither hears nor speaks: somebody else plays the container.
    pub guest_is_mute: bool,
    pub host: SimHost,
    /// What the core told, with when.
    pub events: Vec<(Instant, StackEvent)>,
    /// Clients of published ports that the core would not take.
    pub rejected: Vec<DropReason>,
    violations: Vec<String>,
    /// The core's own faults: which flow each has ended.
    pub faults: Vec<Option<(SocketAddr, SocketAddr)>>,
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
        let mut link = Link::new(seed, settings.offload, config.link.mtu, (GATEWAY_MAC, CONTAINER_MAC));
        (link.down, link.up) = (settings.down, settings.up);
        let mut guest = Guest::new(&config.link, CONTAINER_MAC, scramble(seed));
        guest.buffer_bytes = settings.guest_buffer_bytes;
        World {
            stack: Stack::new(config, settings.offload, settings.resolvers.clone(), secret, Instant::ZERO),
            now: Instant::ZERO,
            ahead_micros: 0,
            link,
            guest,
            guest_is_mute: false,
            host: SimHost::new(seed),
            events: Vec::new(),
            rejected: Vec::new(),
            violations: Vec::new(),
            faults: Vec::new(),
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
        self.stack.stats().drops(reason)
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

    /// A client connects to a published port of the host; `None` where the host's kernel or the core refuses it.
    pub fn client_connects(&mut self, listener: u32, client: SocketAddr, script: Script) -> Option<FlowId> {
        if self.host.shut.contains(&ListenerId(listener)) {
            return None;
        }
        // One that has just been published no longer may still have somebody in its queue.
        let local = self.stack.published().find(|(id, _)| id.0 == listener);
        let local =
            local.map_or(at("0.0.0.0:1"), |(_, rule)| SocketAddr::new(rule.host_address, rule.host_port));
        match self.stack.accept_stream(ListenerId(listener), client, local, self.core_now()) {
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
        let (now, core_now, mut rounds) = (self.now, self.core_now(), 0);
        loop {
            self.link.now = now;
            let mut moved = false;
            while let Some((header, frame)) = self.link.arrived_at_core(now) {
                let mut io = Io { host: &mut self.host, frames: &mut self.link };
                self.stack.handle_frame(&header, &frame, core_now, &mut io);
                moved = true;
            }
            self.host.step(now);
            while let Some(event) = self.host.poll_event() {
                self.handle_host(event);
                moved = true;
            }
            if self.stack.poll_timeout().is_some_and(|due| due <= core_now) {
                let mut io = Io { host: &mut self.host, frames: &mut self.link };
                self.stack.handle_timeout(core_now, &mut io);
                moved = true;
            }
            self.stack.flush(core_now, &mut Io { host: &mut self.host, frames: &mut self.link });
            while let Some(action) = self.stack.poll_action() {
                self.host.execute(action);
                moved = true;
            }
            self.collect_events();
            while let Some(frame) = self.link.arrived_at_guest(now) {
                if !self.guest_is_mute {
                    self.guest.receive(frame);
                }
                moved = true;
            }
            if !self.guest_is_mute {
                let sent = self.guest.step(now);
                moved |= !sent.is_empty();
                self.link.send_up(sent, now);
            }
            self.watch();
            rounds += 1;
            if !moved || rounds == 20_000 {
                break;
            }
        }
        assert!(
            rounds < 20_000,
            "something spins at {now}: the core's timeout is {:?}",
            self.stack.poll_timeout()
        );
    }

    /// Tells the core of something that happened on the host.
    pub fn handle_host(&mut self, event: HostEvent) {
        let now = self.core_now();
        let mut io = Io { host: &mut self.host, frames: &mut self.link };
        self.stack.handle_host(event, now, &mut io);
    }

    /// What the core is told is the time.
    fn core_now(&self) -> Instant {
        Instant::from_micros(self.now.total_micros() + self.ahead_micros)
    }

    /// When the core wants to be called, by everybody else's clock.
    fn core_timeout(&self) -> Option<Instant> {
        self.stack.poll_timeout().map(|due| Instant::from_micros(due.total_micros() - self.ahead_micros))
    }

    fn collect_events(&mut self) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                StackEvent::FlowOpened { flow, .. } => self.lives.entry(flow).or_default().opened += 1,
                StackEvent::FlowClosed { flow } => self.lives.entry(flow).or_default().closed += 1,
                StackEvent::EchoForbidden | StackEvent::NoResolver => {}
                StackEvent::Faulted { ended } => self.faults.push(ended),
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
        if self.faults.len() > self.host.struck + self.link.struck {
            self.violations.push(format!("faults of the core: {:?}", self.faults));
        }
        if let Err(sums) = self.stack.check() {
            self.violations.push(sums);
        }
        self.violations.append(&mut self.link.violations);
        self.violations.append(&mut self.host.violations);
        assert!(self.violations.is_empty(), "at {}: {:#?}", self.now, self.violations);
    }

    /// When something happens next.
    fn next_at(&mut self) -> Option<Instant> {
        let guest = if self.guest_is_mute { None } else { self.guest.next_at(self.now) };
        [self.link.next_at(), self.host.next_at(), self.core_timeout(), guest].into_iter().flatten().min()
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
            format!(
                "host sent {} got {} end {:?} closed {:?}",
                app.sent, app.received, app.peer_ended, peer.closed
            )
        });
        guest.chain(host).take(12).collect()
    }

    /// Waits until the core has no flow left, TIME-WAIT included, and checks the books.
    pub fn finish(self) {
        self.finish_within(secs(30));
    }

    /// The same with more patience.
    pub fn finish_within(mut self, patience: Duration) {
        loop {
            self.run_until(patience, "all flows freed", |world| world.stack.flow_count() == 0);
            // What is still on its way may open another.
            self.run_for(secs(2));
            if self.stack.flow_count() == 0 {
                break;
            }
        }
        // Alarms of flows that are gone are forgotten when they ring.
        self.guest_is_mute = true;
        let patience = self.now + secs(30 * 86_400);
        while self.stack.alarm_count() > 0 && self.now < patience {
            self.run_for(secs(600));
        }
        assert_eq!(self.stack.alarm_count(), 0, "alarms leaked");
        assert_eq!(self.host.open_sockets(), 0, "sockets leaked");
        assert_eq!(self.host.opened, self.host.closed);
        assert_eq!(self.stack.tcp_buffer_bytes(), 0, "buffers leaked");
        let stats = self.stack.stats();
        for protocol in FlowProtocol::ALL {
            let flows = stats.flows(protocol);
            assert_eq!(flows.opened, flows.closed, "{} flows are not accounted for", protocol.name());
        }
        assert_eq!(stats.to_container.frames, self.link.commits, "frames sent and counted");
        for (flow, life) in &self.lives {
            assert!(life.opened == 1 && life.closed == 1, "{flow:?}: {life:?}");
        }
        for stream in &self.guest.streams {
            assert_eq!(stream.app.wrong_at, None, "the container got a wrong byte");
        }
        for connection in &self.host.connections {
            assert_eq!(connection.app.wrong_at, None, "the host got a wrong byte: {:?}", connection.app);
            assert!(connection.closed.is_some(), "{:?} was never closed", connection.flow);
        }
    }

    /// Every program has ended, and every connection of the container has one on the host.
    pub fn all_ended(&self) -> bool {
        let mut apps = self.guest.streams.iter().map(|stream| &stream.app).collect::<Vec<_>>();
        apps.extend(self.host.connections.iter().map(|peer| &peer.app));
        self.host.connections.len() == self.guest.streams.len()
            && apps.iter().all(|app| app.peer_ended.is_some() && app.ended.is_some())
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

    /// IP packets the core sent so far, its unsolicited router advertisements left out.
    pub fn sent_packets(&self) -> impl Iterator<Item = packet::SeenIp> + '_ {
        self.link.seen().filter_map(|seen| seen.ip).filter(|ip| !ip.is_unsolicited_advertisement())
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
                let quote = if ip.protocol == packet::ICMP {
                    packet::read_ipv4(quoted)
                } else {
                    packet::read_ipv6(quoted)
                };
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
