//! What is asked of a worker while it serves: by clients of the API socket, and by other threads in letters.

use std::sync::Arc;

use tracing::debug;

use super::mailbox::{Answer, Letter, Mailbox, Post, Postbox, Replied};
use super::token::Subject;
use super::{FRAME_BYTES_PER_TURN, LINGER, Listener, Reaction, Worker, answer};
use crate::config::PublishRule;
use crate::config::limits::{LETTERS_PER_TURN, MAILBOX};
use crate::control::{ClientName, native};
use crate::stack::boundary::{HostEvent, ListenerId, Reply, Request};
use crate::stack::service::names::NameTable;

impl Worker {
    /// Where other threads post to this worker, now and while it runs. The box is made with the first call.
    pub fn postbox(&mut self) -> std::io::Result<Postbox<Letter>> {
        if let Some(mailbox) = &self.mailbox {
            return Ok(mailbox.postbox());
        }
        let mailbox = Mailbox::open(self.poll.registry(), Subject::Mailbox.token(), MAILBOX)?;
        let postbox = mailbox.postbox();
        self.mailbox = Some(mailbox);
        Ok(postbox)
    }

    /// The same, knowing who is on the network from its first frame on. Whoever joins later is told of by letter.
    #[must_use]
    pub fn with_names(mut self, names: Arc<NameTable>) -> Worker {
        self.tell_stack(HostEvent::NamesChanged(names));
        self
    }

    pub(super) fn has_letters(&self) -> bool {
        self.mailbox.as_ref().is_some_and(Mailbox::is_ready)
    }

    pub(super) fn note_bell(&mut self) {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.note_bell();
        }
    }

    /// Opens some letters, if there are any.
    pub(super) fn open_letters(&mut self) {
        let mut bytes = 0;
        for _ in 0..LETTERS_PER_TURN {
            if bytes >= FRAME_BYTES_PER_TURN {
                return;
            }
            let Some(letter) = self.mailbox.as_mut().and_then(Mailbox::next_letter) else { return };
            bytes += letter.bytes();
            match letter {
                Letter::Frame(frame) => self.take_handed(&frame),
                Letter::Client(client) => self.take_client(*client),
                Letter::ContainerAt(mac) => self.container_moved(mac),
                Letter::Suspect(server) => self.stack.suspect(server, self.now),
                Letter::Relieved => self.scarcity.relieve(self.now, true),
                Letter::React(reaction) => self.react(reaction),
                Letter::Ask { ticket, request, answers } => {
                    let reply = Replied::Request(self.carry_out(request));
                    if answers.post(Answer { ticket, reply }).is_err() {
                        debug!(ticket, "nobody takes an answer");
                    }
                }
                Letter::Inquire { ticket, mut request, answers: None } => {
                    self.answer_leader(ticket, &mut request);
                }
                Letter::Answered { ticket, said } => self.hear_answer(ticket, *said),
                Letter::Inquire { ticket, mut request, answers: Some(answers) } => {
                    let reply = Replied::Inquiry(self.answer_elsewhere(&mut request));
                    if answers.post(Answer { ticket, reply }).is_err() {
                        debug!(ticket, "nobody takes an answer");
                    }
                }
            }
        }
    }

    /// Answers somebody who stands at another's counter: whoever would go on to hear of something cannot, there.
    fn answer_elsewhere(&mut self, request: &mut native::Request) -> native::Answer {
        match answer::answer(self, ClientName::ELSEWHERE, request).into() {
            said @ (native::Answer::Once(_) | native::Answer::Refused(_)) => said,
            native::Answer::Stream(_) | native::Answer::Later => {
                let message = format!("{} is not answered for a container of a network", request.name);
                native::Refusal::new(native::RefusalCode::Refused, message).into()
            }
        }
    }

    /// Does what a source, or a letter, asks for.
    pub(super) fn react(&mut self, reaction: Reaction) {
        self.pass_on(&reaction);
        match reaction {
            Reaction::Continue => {}
            Reaction::ResolversChanged(resolvers) => {
                debug!(?resolvers, "the host's resolvers changed");
                self.tell_stack(HostEvent::ResolversChanged(resolvers));
            }
            Reaction::NamesChanged(names) => self.tell_stack(HostEvent::NamesChanged(names)),
            Reaction::AddressesLost(addresses) => self.sockets.forsake(addresses.as_deref()),
            Reaction::Finish(status) => self.finish = Some((status, self.now)),
            Reaction::FinishDelivered(status) => {
                self.finish.get_or_insert((status, self.now + LINGER));
            }
        }
    }

    pub(super) fn carry_out(&mut self, request: Request) -> Reply {
        match request {
            Request::List => {
                Reply::Listed(self.stack.published().map(|(listener, rule)| (listener, *rule)).collect())
            }
            Request::Unpublish(listener) => match self.unpublish(listener) {
                Some(rule) => {
                    debug!(%rule, "published no longer");
                    Reply::Unpublished
                }
                None => Reply::NoSuchPort,
            },
            Request::Publish(rules) => {
                let mut published = Vec::new();
                for rule in &rules {
                    match self.publish(rule) {
                        Ok(listener) => published.push(listener),
                        Err(reason) => {
                            for listener in published {
                                self.unpublish(listener);
                            }
                            return Reply::Refused(reason);
                        }
                    }
                    debug!(%rule, "published");
                }
                Reply::Published(published)
            }
        }
    }

    pub(super) fn publish(&mut self, rule: &PublishRule) -> Result<ListenerId, String> {
        let listener = self.stack.publish(*rule).map_err(|refusal| refusal.to_string())?;
        let opened = Listener::bind(rule, self.freebind).map_err(|error| error.to_string());
        let watched = opened.and_then(|socket| {
            self.sockets.add_listener(listener, socket).map_err(|error| format!("cannot watch it: {error}"))
        });
        if let Err(reason) = watched {
            self.stack.unpublish(listener);
            return Err(reason);
        }
        if let Some(loopback) = &mut self.loopback {
            loopback.publish(&self.config, listener, rule, &mut self.sockets);
        }
        Ok(listener)
    }

    pub(super) fn unpublish(&mut self, listener: ListenerId) -> Option<PublishRule> {
        if let Some(loopback) = &mut self.loopback {
            loopback.unpublish(listener);
        }
        self.sockets.remove_listener(listener);
        self.stack.unpublish(listener)
    }
}
