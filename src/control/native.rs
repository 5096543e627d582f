//! Our own language: a line of JSON in, one or more lines of JSON out.
//!
//! `{"version":1,"request":"NAME", ...}` is a request, its other members are its arguments, and descriptors may come with
//! it. `{"version":1,"answer":{...}}` is what came of it, `{"version":1,"error":{"code":"...","message":"..."}}` why nothing
//! did. A client may ask again when it has its answer. Where the answer begins a stream, lines
//! `{"version":1,"event":{...}}` follow until the client leaves; of those that it was too slow to read it is told the number,
//! `{"version":1,"lost":12}`.
//!
//! What can be asked is known to the driver; here is what all requests have in common. docs/control.md has the whole.

pub mod client;

use std::os::fd::OwnedFd;

use serde_json::{Map, Value, json};

pub use self::client::Client;

/// Of the language. A request of a later one is refused; members that a version does not know are ignored.
pub const VERSION: u64 = 1;

/// What a client asks.
#[derive(Debug)]
pub struct Request {
    /// The request's name.
    pub name: String,
    arguments: Map<String, Value>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This, and that is all.
    Once(Value),
    /// This, and whatever [`Client::push`] is given from now on.
    Stream(Value),
    /// Nothing yet: [`Client::answer`] will.
    Later,
    /// Nothing came of it.
    Refused(Refusal),
}

/// Why nothing came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what was asked, what was found, and what to do.
    pub message: String,
}

/// The kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// No request of this language.
    Malformed,
    /// Of a version that is not spoken here.
    Version,
    /// There is no such request.
    UnknownRequest,
    /// An argument is missing or makes no sense.
    BadArgument,
    /// What it is about is not there.
    NotFound,
    /// It cannot be done.
    Refused,
    /// The request was too large.
    TooLarge,
    /// The client took too long.
    TooSlow,
    /// Another client came.
    TooMany,
}

impl RefusalCode {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RefusalCode::Malformed => "malformed",
            RefusalCode::Version => "version",
            RefusalCode::UnknownRequest => "unknown-request",
            RefusalCode::BadArgument => "bad-argument",
            RefusalCode::NotFound => "not-found",
            RefusalCode::Refused => "refused",
            RefusalCode::TooLarge => "too-large",
            RefusalCode::TooSlow => "too-slow",
            RefusalCode::TooMany => "too-many",
        }
    }
}

impl Refusal {
    /// Of this kind, for this reason.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// An argument makes no sense.
    pub fn bad_argument(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalCode::BadArgument, message)
    }
}

impl Request {
    /// Reads one line.
    pub fn decode(line: &[u8], descriptors: Vec<OwnedFd>) -> Result<Request, Refusal> {
        let malformed = |message: String| Refusal::new(RefusalCode::Malformed, message);
        let value: Value =
            serde_json::from_slice(line).map_err(|error| malformed(format!("this is no JSON: {error}")))?;
        let Value::Object(mut arguments) = value else {
            return Err(malformed("a request is a JSON object".to_owned()));
        };
        match arguments.remove("version").as_ref().and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(version) => {
                let message = format!("version {version} is not spoken here, but version {VERSION}");
                return Err(Refusal::new(RefusalCode::Version, message));
            }
            None => return Err(malformed(format!(r#"a request has a "version", which is {VERSION}"#))),
        }
        match arguments.remove("request") {
            Some(Value::String(name)) => Ok(Request { name, arguments, descriptors }),
            Some(_) | None => Err(malformed(r#"a request has its name in "request""#.to_owned())),
        }
    }

    /// The same, for one more who is asked.
    #[must_use]
    pub fn without_descriptors(&self) -> Request {
        Request { name: self.name.clone(), arguments: self.arguments.clone(), descriptors: Vec::new() }
    }

    /// The same, with an argument in the place of what there is of that name.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Request {
        self.arguments.insert(name.to_owned(), value);
        self
    }

    /// An argument as it is; none where it is missing or null.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&Value> {
        self.arguments.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        self.typed(name, "a text", Value::as_str)
    }

    /// A whole number of at least zero.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.typed(name, "a whole number", Value::as_u64)
    }

    /// Yes or no; no where it is missing.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.argument(name) else { return Ok(None) };
        let found = read(value);
        found.map(Some).ok_or_else(|| Refusal::bad_argument(format!(r#""{name}" is not {kind}"#)))
    }
}

impl Answer {
    /// Its line, without the end; nothing while there is no answer.
    fn encode(&self) -> Option<String> {
        match self {
            Answer::Once(value) | Answer::Stream(value) => {
                Some(json!({ "version": VERSION, "answer": value }).to_string())
            }
            Answer::Refused(refusal) => Some(encode_refusal(refusal)),
            Answer::Later => None,
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        Answer::Refused(refusal)
    }
}

impl From<Result<Answer, Refusal>> for Answer {
    fn from(outcome: Result<Answer, Refusal>) -> Answer {
        outcome.unwrap_or_else(Answer::Refused)
    }
}

fn encode_refusal(refusal: &Refusal) -> String {
    let error = json!({ "code": refusal.code.name(), "message": refusal.message });
    json!({ "version": VERSION, "error": error }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> &'static str {
        Request::decode(line.as_bytes(), Vec::new()).unwrap_err().code.name()
    }

    #[test]
    fn request_has_a_version_a_name_and_arguments() {
        let line =
            br#"{"version":1,"request":"flows","filter":"tcp","limit":3,"all":true,"gone":null,"new":[]}"#;
        let request = Request::decode(line, Vec::new()).unwrap();
        assert_eq!(request.name, "flows");
        assert_eq!(request.text("filter"), Ok(Some("tcp")));
        assert_eq!(request.number("limit"), Ok(Some(3)));
        assert_eq!((request.flag("all"), request.flag("none")), (Ok(true), Ok(false)));
        assert_eq!(request.text("gone"), Ok(None));
        assert_eq!(request.text("limit").unwrap_err().code, RefusalCode::BadArgument);
        assert_eq!(request.number("filter").unwrap_err().code, RefusalCode::BadArgument);
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        assert_eq!(code("nonsense"), "malformed");
        assert_eq!(code("[]"), "malformed");
        assert_eq!(code(r#"{"request":"flows"}"#), "malformed");
        assert_eq!(code(r#"{"version":"1","request":"flows"}"#), "malformed");
        assert_eq!(code(r#"{"version":1}"#), "malformed");
        assert_eq!(code(r#"{"version":2,"request":"flows"}"#), "version");
    }
}
