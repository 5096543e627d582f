//! Requests from outside: who takes them, and when.
//!
//! Each counter is a server with a language of its own, whose poll is one among those of the driver. A turn lets one client
//! of each get on; what it asks is carried out between two batches of packets, by `requests` in the manner of
//! slirp4netns, by [`answer`](super::answer) in our own.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use serde_json::Value;

use super::answer::Identity;
use super::answer::rate::Meter;
use super::switch::Port;
use super::token::{Counter, Subject};
use super::{Worker, answer};
use crate::control::http::Scraper;
use crate::control::native::{Answer, Client};
use crate::control::server::Conversation;
use crate::control::single::Single;
use crate::control::{ClientName, Server, slirp4netns};
use crate::stack::boundary::Instant;

/// Where requests are taken.
#[derive(Default)]
pub(super) struct Desk {
    api: Option<Server<Single>>,
    native: Option<Server<Client>>,
    metrics: Option<Server<Scraper>>,
    /// Of these, requests may wait that were not taken in their turn.
    is_api_ready: bool,
    is_native_ready: bool,
    are_metrics_ready: bool,
    /// Whom the native counter stands for.
    pub(super) identity: Identity,
    /// How much moves, for those who ask.
    pub(super) meter: Meter,
}

impl Desk {
    /// Something happened at a counter.
    pub(super) fn note(&mut self, counter: Counter) {
        match counter {
            Counter::Api => self.is_api_ready = true,
            Counter::Native => self.is_native_ready = true,
            Counter::Metrics => self.are_metrics_ready = true,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_api_ready || self.is_native_ready || self.are_metrics_ready
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let api = self.api.as_ref().and_then(Server::poll_timeout);
        let native = self.native.as_ref().and_then(Server::poll_timeout);
        let metrics = self.metrics.as_ref().and_then(Server::poll_timeout);
        api.into_iter().chain(native).chain(metrics).min()
    }
}

fn watch<C: Conversation>(registry: &Registry, server: &Server<C>, counter: Counter) -> io::Result<()> {
    let descriptor = server.as_raw_fd();
    registry.register(&mut SourceFd(&descriptor), Subject::Control(counter).token(), Interest::READABLE)
}

impl Worker {
    /// The same, taking requests in the manner of slirp4netns.
    pub fn with_api(mut self, api: Server<Single>) -> io::Result<Worker> {
        watch(self.poll.registry(), &api, Counter::Api)?;
        self.desk.api = Some(api);
        self.desk.is_api_ready = true;
        Ok(self)
    }

    /// The same, knowing who it is when it is asked.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Worker {
        self.desk.identity = identity;
        self
    }

    /// The same, with a page of metrics.
    pub fn with_metrics(mut self, metrics: Server<Scraper>) -> io::Result<Worker> {
        watch(self.poll.registry(), &metrics, Counter::Metrics)?;
        self.desk.metrics = Some(metrics);
        self.desk.are_metrics_ready = true;
        Ok(self)
    }

    /// The same, taking requests in our own language.
    pub fn with_control(mut self, control: Server<Client>) -> io::Result<Worker> {
        watch(self.poll.registry(), &control, Counter::Native)?;
        self.desk.native = Some(control);
        self.desk.is_native_ready = true;
        Ok(self)
    }

    /// One more event for a client who hears a stream; whether it still does. What it is too slow to read it loses.
    pub fn tell_client(&mut self, client: ClientName, event: &Value) -> bool {
        let Some(native) = &mut self.desk.native else { return false };
        self.desk.is_native_ready = true;
        native.with_client(client, |client| client.push(event)).is_some()
    }

    /// The answer that a client of our own language waits for; it may have left.
    pub(super) fn tell_answer(&mut self, client: ClientName, answer: &Answer) {
        let Some(native) = &mut self.desk.native else { return };
        self.desk.is_native_ready = true;
        native.with_client(client, |client| client.answer(answer));
    }

    /// Bytes from the container and to it, with those that it exchanges with others of its network.
    pub(super) fn carried(&self) -> (u64, u64) {
        let stats = self.stats();
        let (sent, received) = self.port.as_ref().map_or((0, 0), Port::exchanged);
        (stats.from_container.bytes + sent, stats.to_container.bytes + received)
    }

    /// Answers some requests, if there are any, and gives up clients that took too long.
    pub(super) fn serve_control(&mut self) {
        let (from_container, to_container) = self.carried();
        self.desk.meter.note(self.now, from_container, to_container);
        let is_late = self.desk.poll_timeout().is_some_and(|deadline| deadline <= self.now);
        if !is_late && !self.desk.is_ready() {
            return;
        }
        let now = self.now;
        if let Some(mut api) = self.desk.api.take() {
            let config = Arc::clone(&self.config);
            self.desk.is_api_ready = api.handle_events(now, |_, request| {
                slirp4netns::answer(&request, &config.link, |request| self.carry_out(request))
            });
            self.desk.api = Some(api);
        }
        if let Some(mut native) = self.desk.native.take() {
            self.desk.is_native_ready = native.handle_events(now, |client, request| match request {
                Ok(mut request) => answer::answer(self, client, &mut request).into(),
                Err(refusal) => Answer::Refused(refusal),
            });
            self.desk.native = Some(native);
        }
        if let Some(mut metrics) = self.desk.metrics.take() {
            self.desk.are_metrics_ready =
                metrics.handle_events(now, |_, format| answer::metrics::text(self, format));
            self.desk.metrics = Some(metrics);
        }
    }
}
