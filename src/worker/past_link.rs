//! The worker's part in what goes past the link: events of its sockets, what is joined and held, ports that come and go.

use std::net::SocketAddr;

use mio::event::Event;
use tracing::debug;

use super::Worker;
use super::loopback::follow::Change;
use super::token::Subject;
use crate::stack::boundary::ListenerId;
use crate::stack::flow::FlowProtocol;
use crate::stack::forward::splice::{Path, local_client};
use crate::stack::policy::judge::Spliced;
use crate::sys::socket::StreamSocket;

impl Worker {
    /// Takes an event of a socket past the link.
    pub(super) fn handle_past_link(&mut self, subject: Subject, event: &Event) {
        if let Some(loopback) = &mut self.loopback {
            let (stack, now) = (&mut self.stack, self.now);
            loopback.handle_event(subject, event, now, &mut |what| stack.judge_spliced(what, now));
        }
    }

    /// Lets what goes past the link go on, and follows the ports that come and go.
    pub(super) fn serve_loopback(&mut self) {
        let Some(mut loopback) = self.loopback.take() else { return };
        let (stack, now) = (&mut self.stack, self.now);
        loopback.advance(now, &mut self.scarcity, &mut |what| stack.judge_spliced(what, now));
        if !loopback.is_follow_due(self.now) {
            self.loopback = Some(loopback);
            return;
        }
        let published: Vec<_> = self.stack.published().map(|(listener, rule)| (listener, *rule)).collect();
        let changes = loopback.follow(self.now, &published);
        self.loopback = Some(loopback);
        for change in changes {
            match change {
                Change::Listen(rule) => match self.publish(&rule) {
                    Ok(listener) => {
                        debug!(%rule, "published, since it is bound in the container");
                        if let Some(loopback) = &mut self.loopback {
                            loopback.inward_follows(listener);
                        }
                    }
                    Err(reason) => debug!(%rule, reason, "not followed"),
                },
                Change::Close(listener) => {
                    self.unpublish(listener);
                }
            }
        }
    }

    /// Splices a connection if it is to be; gives it back otherwise.
    pub(super) fn past_the_link(
        &mut self,
        listener: ListenerId,
        socket: StreamSocket,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Option<StreamSocket> {
        let Some(loopback) = &mut self.loopback else { return Some(socket) };
        let Some(rule) = self.stack.rule(listener) else { return Some(socket) };
        match local_client(&self.config, rule, client, local) {
            Path::Link => Some(socket),
            Path::Splice(target) => {
                let spliced = Spliced::inward(FlowProtocol::Tcp, client, target);
                let judged = self.stack.judge_spliced(&spliced, self.now);
                loopback.splice(socket, target, judged, self.now, &mut self.scarcity);
                None
            }
        }
    }
}
