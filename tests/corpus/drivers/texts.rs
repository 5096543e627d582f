//! Texts: requests to the API socket, command lines, files of the host.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use netferry::cli;
use netferry::config::publish::PublishSpec;
use netferry::config::rules::{Rule, Rules, Verdict, recording};
use netferry::control::slirp4netns;
use netferry::stack::boundary::{ListenerId, Reply, Request};
use netferry::sys::{proc_net, resolv_conf};

use crate::settings;

/// An answer is one object of JSON, whatever the question.
pub fn control(input: &[u8]) {
    let config = settings::config();
    let mut asked = None;
    let answer = slirp4netns::answer(input, &config.link, |request| {
        asked = Some(request.clone());
        match request {
            Request::Publish(rules) => {
                assert!((1..=2_048).contains(&rules.len()), "{}", rules.len());
                Reply::Published((0..).map(ListenerId).take(rules.len()).collect())
            }
            Request::Unpublish(_) => Reply::NoSuchPort,
            Request::List => Reply::Listed(Vec::new()),
        }
    });
    let value: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let object = value.as_object().expect("an object");
    assert!(asked.is_some() || object.contains_key("error"), "{answer}");
    assert!(answer.len() < 256 << 10, "{}", answer.len());
}

/// A command line, its words ended by zeroes.
fn command_line(face: &str, input: &[u8]) {
    let words = input.split(|byte| *byte == 0).take(64).map(|word| OsString::from_vec(word.to_vec()));
    let result = cli::parse(std::iter::once(OsString::from(face)).chain(words));
    if let Err(error) = result {
        let said = error.standard_output().map(str::to_owned).or_else(|| error.standard_error());
        assert!(said.is_some_and(|said| !said.is_empty()));
        assert!(error.exit_code() <= 2);
    }
}

pub fn cli_native(input: &[u8]) {
    command_line("netferry", input);
}

pub fn cli_slirp4netns(input: &[u8]) {
    command_line("slirp4netns", input);
}

pub fn cli_pasta(input: &[u8]) {
    command_line("pasta", input);
}

/// A specification of ports means what it says when it is written out again.
pub fn ports(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(spec) = text.parse::<PublishSpec>() {
        let written = spec.to_string();
        assert_eq!(written.parse::<PublishSpec>().as_ref(), Ok(&spec), "{text} became {written}");
    }
    for option in ["-t", "-u", "-T", "-U"] {
        let words = ["pasta", option, text, "--", "true"].map(OsString::from);
        let _ = cli::parse(words);
    }
}

pub fn resolv_conf(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let conf = resolv_conf::parse(&text, |name| (name == "eth0").then_some(3));
    assert!((1..=resolv_conf::MAX_SERVERS).contains(&conf.servers.len()), "{conf:?}");
}

pub fn proc_net(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for is_tcp in [true, false] {
        assert!(proc_net::ports_in(&text, is_tcp).all(|port| port != 0));
    }
}

/// A file of rules, a recording and an argument: what is understood is shown, and what is suggested is understood.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Rules::from_toml(text) {
        Ok(rules) => assert!(rules.list.iter().all(|rule| !rule.to_string().is_empty())),
        Err(error) => assert!(error.line >= 1 && !error.why.contains('\n'), "{error}"),
    }
    if let Ok(suggested) = recording::suggest(text) {
        let understood = Rules::from_toml(&suggested);
        assert!(
            understood.is_ok() || text.contains("\"name\"") || text.contains("\"address\""),
            "{suggested}"
        );
    }
    if let Ok(rule) = Rule::from_spec(Verdict::Allow, text) {
        assert!(rule.to_string().starts_with("allow "));
    }
}
