//! What is asked of all workers of an interface at once: the leader, who has the counter, asks each, and makes one answer of all.
//!
//! - `flows` goes through the workers one after the other: whose turn it is stands in the upper bits of where a page begins, and a flow of
//!   another than the leader has that worker's number behind its name, `f17.3@1`.
//! - `kill` asks those whose flows are named, and adds up how many there were.
//! - `failures` asks all, and shows the latest of them.
//!
//! Nobody waits: the answers come in letters. That a worker ends is the end of all, so each question is answered or nobody is left to
//! hear it; there are no more of them than there are clients.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tracing::debug;

use super::LEADER;
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, RefusalCode, Request};
use crate::worker::answer::flows::PAGE_FLOWS;
use crate::worker::mailbox::Letter;
use crate::worker::{Worker, answer};

/// What each worker answers for its own flows.
pub const OF_EACH: [&str; 3] = ["flows", "kill", "failures"];

/// Between the name of a flow and the number of its worker.
const PART: char = '@';

/// Where the number of a worker begins in the number of a place among the flows.
const WORKER_SHIFT: u32 = 48;

/// Questions whose answers are on their way.
#[derive(Debug, Default)]
pub struct Questions {
    next_ticket: u64,
    open: BTreeMap<u64, Question>,
}

#[derive(Debug)]
struct Question {
    client: ClientName,
    /// Answers that are missing.
    left: usize,
    so_far: Answered,
}

/// What is known of the answer.
#[derive(Debug)]
enum Answered {
    /// This page of this worker's flows.
    Page(usize, Value),
    /// So many were ended.
    Ended(u64),
    /// These, in no order, of which so many are to be shown.
    Failures(Vec<Value>, usize),
    /// One of them would not.
    Refused(Refusal),
}

impl Worker {
    /// Answers one of [`OF_EACH`] for all workers, now or later.
    pub(in crate::worker) fn ask_each(
        &mut self,
        client: ClientName,
        request: &mut Request,
    ) -> Result<Answer, Refusal> {
        match &*request.name {
            "flows" => self.ask_for_page(client, request),
            "kill" => self.ask_to_end(client, request),
            _ => self.ask_for_failures(client, request),
        }
    }

    fn ask_for_page(&mut self, client: ClientName, request: &Request) -> Result<Answer, Refusal> {
        let from = request.number("from")?.unwrap_or(0);
        let whose = usize::try_from(from >> WORKER_SHIFT).unwrap_or(usize::MAX);
        if whose >= self.crew_size() {
            return Err(Refusal::bad_argument(r#""from" is no place that a page has told"#));
        }
        let within = from & ((1 << WORKER_SHIFT) - 1);
        let asked = request.without_descriptors().with("from", within.into());
        self.ask_some(client, [(whose, asked)], Answered::Page(whose, Value::Null))
    }

    fn ask_to_end(&mut self, client: ClientName, request: &Request) -> Result<Answer, Refusal> {
        let names =
            request.argument("flows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if names.is_empty() || names.len() > PAGE_FLOWS {
            // What is wrong with that its own handler tells.
            let asked = request.without_descriptors();
            return self.ask_some(client, [(LEADER, asked)], Answered::Ended(0));
        }
        let mut by_worker: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
        for name in names {
            let (name, whose) = match name.as_str().and_then(|name| name.split_once(PART)) {
                Some((name, whose)) => (name.into(), whose.parse().unwrap_or(usize::MAX)),
                None => (name.clone(), LEADER),
            };
            by_worker.entry(whose).or_default().push(name);
        }
        // Of a worker that there is not, there are no flows.
        by_worker.retain(|whose, _| *whose < self.crew_size());
        let ask = |(whose, names): (usize, Vec<Value>)| {
            (whose, request.without_descriptors().with("flows", names.into()))
        };
        self.ask_some(client, by_worker.into_iter().map(ask), Answered::Ended(0))
    }

    fn ask_for_failures(&mut self, client: ClientName, request: &Request) -> Result<Answer, Refusal> {
        let limit =
            request.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let all: Vec<_> = (0..self.crew_size()).map(|whose| (whose, request.without_descriptors())).collect();
        self.ask_some(client, all, Answered::Failures(Vec::new(), limit))
    }

    fn ask_some(
        &mut self,
        client: ClientName,
        asked: impl IntoIterator<Item = (usize, Request)>,
        so_far: Answered,
    ) -> Result<Answer, Refusal> {
        let mut question = Question { client, left: 0, so_far };
        let mut own = None;
        let Some(member) = &mut self.member else {
            return Err(Refusal::new(RefusalCode::Refused, "it is alone"));
        };
        let ticket = member.questions.next_ticket;
        member.questions.next_ticket += 1;
        for (whose, request) in asked {
            if whose == LEADER {
                own = Some(request);
                continue;
            }
            let letter = Letter::Inquire { ticket, request: Box::new(request), answers: None };
            if !member.crew.post(whose, letter) {
                return Err(Refusal::new(RefusalCode::Refused, "a worker has too much to do; try again"));
            }
            question.left += 1;
        }
        if let Some(mut request) = own {
            let said = answer::answer_alone(self, client, &mut request);
            question.so_far.take(said.into());
        }
        if question.left == 0 {
            return question.so_far.finish(self.crew_size());
        }
        if let Some(member) = &mut self.member {
            member.questions.open.insert(ticket, question);
        }
        Ok(Answer::Later)
    }

    /// The leader has asked.
    pub(in crate::worker) fn answer_leader(&mut self, ticket: u64, request: &mut Request) {
        let said: Answer = answer::answer_alone(self, ClientName::ELSEWHERE, request).into();
        let Some(member) = &self.member else { return };
        if !member.crew.post(LEADER, Letter::Answered { ticket, said: Box::new(said) }) {
            debug!(ticket, "the leader does not take an answer");
        }
    }

    /// Another worker has answered.
    pub(in crate::worker) fn hear_answer(&mut self, ticket: u64, said: Answer) {
        let size = self.crew_size();
        let Some(member) = &mut self.member else { return };
        let Some(question) = member.questions.open.get_mut(&ticket) else { return };
        question.so_far.take(said);
        question.left -= 1;
        if question.left > 0 {
            return;
        }
        if let Some(Question { client, so_far, .. }) = member.questions.open.remove(&ticket) {
            self.tell_answer(client, &so_far.finish(size).into());
        }
    }
}

impl Answered {
    /// One more has answered.
    fn take(&mut self, said: Answer) {
        let mut told = match said {
            Answer::Once(told) => told,
            Answer::Refused(refusal) => {
                *self = Answered::Refused(refusal);
                return;
            }
            Answer::Stream(_) | Answer::Later => return,
        };
        match self {
            Answered::Page(_, page) => *page = told,
            Answered::Ended(sum) => *sum += told["ended"].as_u64().unwrap_or(0),
            Answered::Failures(all, _) => {
                all.extend(told["failures"].as_array_mut().map(std::mem::take).unwrap_or_default());
            }
            Answered::Refused(_) => {}
        }
    }

    /// All have, so many as there are workers.
    fn finish(self, workers: usize) -> Result<Answer, Refusal> {
        match self {
            Answered::Page(whose, page) => Ok(Answer::Once(page_of(whose, page, workers))),
            Answered::Ended(ended) => Ok(Answer::Once(json!({ "ended": ended }))),
            Answered::Failures(mut all, limit) => {
                let ago = |one: &Value| one["seconds_ago"].as_f64().unwrap_or(f64::MAX);
                all.sort_by(|one, other| ago(one).total_cmp(&ago(other)));
                all.truncate(limit);
                Ok(Answer::Once(json!({ "failures": all })))
            }
            Answered::Refused(refusal) => Err(refusal),
        }
    }
}

/// A page of one worker's flows as one of all: behind the last of it begins the next worker's first.
fn page_of(whose: usize, mut page: Value, workers: usize) -> Value {
    if whose != LEADER {
        for flow in page["flows"].as_array_mut().into_iter().flatten() {
            let name = format!("{}{PART}{whose}", flow["id"].as_str().unwrap_or_default());
            flow["id"] = name.into();
        }
    }
    let place = |whose: usize, within: u64| (whose as u64) << WORKER_SHIFT | within;
    page["next"] = match page["next"].as_u64() {
        Some(within) => place(whose, within).into(),
        None if whose + 1 < workers => place(whose + 1, 0).into(),
        None => Value::Null,
    };
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_from_one_worker_to_the_next_and_names_tell_whose_a_flow_is() {
        let page = |next: Value| json!({ "flows": [{ "id": "f17.3" }], "next": next });
        let first = page_of(0, page(json!(5)), 2);
        assert_eq!((&first["flows"][0]["id"], &first["next"]), (&json!("f17.3"), &json!(5)));
        let second: u64 = 1 << WORKER_SHIFT;
        assert_eq!(page_of(0, page(Value::Null), 2)["next"], second);
        let third = page_of(1, page(json!(5)), 2);
        assert_eq!((&third["flows"][0]["id"], &third["next"]), (&json!("f17.3@1"), &json!(second + 5)));
        assert_eq!(page_of(1, page(Value::Null), 2)["next"], Value::Null);
    }

    #[test]
    fn what_several_answer_is_one_answer_and_a_refusal_is_one() {
        let mut ended = Answered::Ended(0);
        ended.take(Answer::Once(json!({ "ended": 2 })));
        ended.take(Answer::Once(json!({ "ended": 3 })));
        assert_eq!(ended.finish(2), Ok(Answer::Once(json!({ "ended": 5 }))));
        let mut failures = Answered::Failures(Vec::new(), 2);
        for ago in [[5.0, 9.0], [1.0, 7.0]] {
            failures.take(Answer::Once(json!({ "failures": ago.map(|ago| json!({ "seconds_ago": ago })) })));
        }
        let Ok(Answer::Once(told)) = failures.finish(2) else { panic!("it is answered") };
        assert_eq!(told["failures"], json!([{ "seconds_ago": 1.0 }, { "seconds_ago": 5.0 }]));
        let mut refused = Answered::Ended(0);
        refused.take(Answer::Refused(Refusal::bad_argument("no")));
        refused.take(Answer::Once(json!({ "ended": 3 })));
        assert_eq!(refused.finish(2), Err(Refusal::bad_argument("no")));
    }
}
