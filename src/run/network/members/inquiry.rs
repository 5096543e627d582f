//! What is asked of the containers of a network as of instances: `status`, `flows` and the like (`worker::answer`).
//!
//! A request with a `container` in it is that container's: its worker is posted the request as it is, with the descriptors that
//! came with it, and answers it as an instance does. Without one it is about the network, of which there are two: `status` tells
//! who it is and who is on it, and `reload-rules` gives other rules to all, and to those who come later.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Asked, Members, Outcome, Question};
use crate::config::Rules;
use crate::config::network::Member;
use crate::config::network::lease::meant_by;
use crate::control::native::{Answer, Refusal, RefusalCode, Request};
use crate::stack::boundary::Instant;
use crate::worker::answer::Identity;
use crate::worker::mailbox::Letter;

/// Rules on their way to everybody.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// So many have yet to take them.
    left: usize,
    rules: usize,
    kept: u64,
    ended: u64,
}

impl Members {
    /// Answers what an instance is asked, or has it answered; `now` is also how long the network has been there.
    ///
    /// # Errors
    /// Whom it is about is not here, or it is about nobody.
    pub fn inquire(&mut self, request: Request, now: Instant) -> Result<Outcome, Refusal> {
        let whom = request.text("container")?.map(str::to_owned);
        match (whom, &*request.name) {
            (Some(whom), _) => self.pass_on(&whom, request),
            (None, "status") => Ok(Outcome::Said(Answer::Once(self.describe(now)))),
            (None, "reload-rules") => self.reload(&request),
            (None, name) => Err(Refusal::bad_argument(format!(
                r#"{name} is about one container of network {}: name it in "container""#,
                self.terms.network.name
            ))),
        }
    }

    /// The next answer to an inquiry that was promised for later.
    pub fn take_said(&mut self) -> Option<(u64, Answer)> {
        self.said.pop_front()
    }

    /// What is known of a container before it is asked itself.
    pub(super) fn identity_of(&self, member: &Member) -> Identity {
        Identity {
            id: format!("{}/{}", self.terms.network.name, member.name),
            face: "network",
            pid: self.terms.pid,
            container_pid: member.pid,
            container: Some(member.name.clone()),
            namespace: member.namespace,
            interface: member.interface.clone(),
            addresses: addresses(member.ipv4, member.ipv6),
        }
    }

    fn describe(&self, now: Instant) -> Value {
        let network = &self.terms.network;
        let gateways =
            addresses(network.ipv4.map(|ipv4| ipv4.gateway), network.ipv6.map(|ipv6| ipv6.gateway));
        let present = self.running.values().filter(|running| !running.is_leaving);
        let mut names: Vec<&str> = present.map(|running| &*running.member.name).collect();
        names.sort_unstable();
        json!({
            "id": network.name,
            "face": "network",
            "pid": self.terms.pid,
            "program_version": env!("CARGO_PKG_VERSION"),
            "addresses": gateways,
            "uptime_seconds": now.total_micros() as f64 / 1e6,
            "containers": names,
            "lost_by_faults": self.faults,
        })
    }

    fn pass_on(&mut self, whom: &str, request: Request) -> Result<Outcome, Refusal> {
        let present = self.running.values().filter(|running| !running.is_leaving);
        let id = meant_by(present.map(|running| &running.member), whom).map(|member| member.id.clone());
        let network = &self.terms.network.name;
        let missing = || format!("there is no {whom} on network {network}; see `netferry ps`");
        let id = id.ok_or_else(|| Refusal::new(RefusalCode::NotFound, missing()))?;
        let refused = |reason| Refusal::new(RefusalCode::Refused, reason);
        let (ticket, answers) = (self.ticket(), Some(self.answers.clone()));
        let (number, running) = self.find(&id).map_err(refused)?;
        running.post(Letter::Inquire { ticket, request: Box::new(request), answers }).map_err(refused)?;
        self.waiting.insert(ticket, Asked { number, what: Question::Inquiry });
        Ok(Outcome::Later(ticket))
    }

    /// All or nothing, as for one: a text with a mistake changes nothing anywhere. Whoever has rules of its own keeps them
    /// behind the others.
    fn reload(&mut self, request: &Request) -> Result<Outcome, Refusal> {
        let text = request.text("rules")?.ok_or_else(|| Refusal::bad_argument(r#""rules" is missing"#))?;
        request.flag("rejudge")?;
        let rules = Rules::from_toml(text).map_err(|error| Refusal::bad_argument(error.to_string()))?;
        let whole = self.ticket();
        let mut reload = Reload { rules: rules.list.len(), ..Reload::default() };
        let mut told: Vec<(u64, Request)> = Vec::new();
        for (number, running) in self.running.iter().filter(|(_, running)| !running.is_leaving) {
            let asked = request.without_descriptors();
            told.push((
                *number,
                match running.member.rules.is_empty() {
                    true => asked,
                    false => {
                        let all = both(&rules, &running.member.rules).map_err(Refusal::bad_argument)?;
                        asked.with("rules", all.to_toml().into())
                    }
                },
            ));
        }
        // Whoever comes from now on has them.
        self.terms.rules = rules;
        for (number, request) in told {
            let (ticket, answers) = (self.ticket(), Some(self.answers.clone()));
            let Some(running) = self.running.get(&number) else { continue };
            let request = Box::new(request);
            // Whoever cannot be told is at its end.
            if running.post(Letter::Inquire { ticket, request, answers }).is_ok() {
                self.waiting.insert(ticket, Asked { number, what: Question::Reload(whole) });
                reload.left += 1;
            }
        }
        if reload.left == 0 {
            return Ok(Outcome::Said(reload.answer()));
        }
        self.reloads.insert(whole, reload);
        Ok(Outcome::Later(whole))
    }

    /// A worker has answered, or cannot any more.
    pub(super) fn inquiry_answered(&mut self, ticket: u64, what: &Question, said: Answer) {
        let Question::Reload(whole) = what else {
            self.said.push_back((ticket, said));
            return;
        };
        let Some(reload) = self.reloads.get_mut(whole) else { return };
        reload.left -= 1;
        if let Answer::Once(told) = said {
            reload.kept += told["kept"].as_u64().unwrap_or(0);
            reload.ended += told["ended"].as_u64().unwrap_or(0);
        }
        if reload.left == 0 {
            let answer = reload.answer();
            self.reloads.remove(whole);
            self.said.push_back((*whole, answer));
        }
    }
}

impl Reload {
    fn answer(&self) -> Answer {
        Answer::Once(json!({ "rules": self.rules, "kept": self.kept, "ended": self.ended }))
    }
}

/// A network's rules, and behind them those of one container: what the first decide the others do not change.
pub(super) fn both(network: &Rules, own: &Rules) -> Result<Rules, String> {
    let mut rules = network.clone();
    rules.append(own.clone());
    rules.bounded().map_err(|error| format!("of the network's and the container's rules together: {error}"))
}

fn addresses<A: Into<IpAddr>, B: Into<IpAddr>>(ipv4: Option<A>, ipv6: Option<B>) -> Vec<IpAddr> {
    ipv4.map(Into::into).into_iter().chain(ipv6.map(Into::into)).collect()
}
