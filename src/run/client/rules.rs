//! `netferry rules`: what may go where, how often that was decided, and other rules in place of those.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::reach::{Meant, Reached, has_left, reach_whole};
use super::table::{self, plain, short};
use super::{ClientError, reach_all};
use crate::cli::native::rules::{Reload, Rules, RulesCommand};
use crate::config::limits::RULES_FILE_BYTES;
use crate::run::policy::{self, PolicyError};

/// Carries it out.
pub fn run(rules: &Rules) -> Result<u8, ClientError> {
    match &rules.command {
        None => show(rules),
        Some(RulesCommand::Reload(reload)) => put_in_force(reload),
        Some(RulesCommand::Check(check)) => {
            let (path, text) = text_of(&check.file)?;
            let rules =
                crate::config::Rules::from_toml(&text).map_err(|error| PolicyError::Wrong { path, error })?;
            let mut listed = String::new();
            for (number, rule) in (1..).zip(&rules.list) {
                listed.push_str(&format!("{number}: {rule}\n"));
            }
            let (out, inward, dns) =
                (rules.default_out.name(), rules.default_in.name(), rules.default_dns.name());
            listed.push_str(&format!("default: {out} out, {inward} in, {dns} dns\n"));
            write(&listed)
        }
    }
}

fn write(text: &str) -> Result<u8, ClientError> {
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

/// The text of a file, or of standard input, and what to call it.
fn text_of(file: &Path) -> Result<(PathBuf, String), ClientError> {
    if file != Path::new("-") {
        return Ok((file.to_owned(), policy::read_text(file)?));
    }
    let (path, mut text) = (PathBuf::from("standard input"), String::new());
    let read = io::stdin().lock().take(RULES_FILE_BYTES as u64 + 1).read_to_string(&mut text);
    read.map_err(|source| PolicyError::Unreadable { path: path.clone(), source })?;
    Ok((path, text))
}

fn put_in_force(reload: &Reload) -> Result<u8, ClientError> {
    let (path, text) = text_of(&reload.file)?;
    // A mistake is told with the file's name, and before anybody is asked.
    crate::config::Rules::from_toml(&text).map_err(|error| PolicyError::Wrong { path, error })?;
    let mut connection = reach_whole(&reload.target)?;
    let came = connection.ask("reload-rules", json!({ "rules": text, "rejudge": reload.rejudge }))?;
    let count = |name: &str| came[name].as_u64().unwrap_or(0);
    let (rules, kept, ended) = (count("rules"), count("kept"), count("ended"));
    write(&format!("{rules} rules are in force; {kept} flows go on, {ended} were ended\n"))
}

fn show(rules: &Rules) -> Result<u8, ClientError> {
    let Meant { all: mut reached, is_network } = reach_all(&rules.target)?;
    let mut answers = Vec::new();
    for Reached { id, connection } in &mut reached {
        match connection.ask("rules", json!({})) {
            Err(error) if is_network && has_left(&error) => {}
            Err(error) => return Err(error),
            Ok(mut answer) => {
                if is_network {
                    answer["instance"] = id.as_deref().into();
                }
                answers.push(answer);
            }
        }
    }
    if rules.json {
        let whole = if is_network { Value::Array(answers) } else { answers.pop().unwrap_or_default() };
        return write(&format!("{whole:#}\n"));
    }
    let mut said = String::new();
    for answer in &answers {
        if is_network {
            said.push_str(&format!("{}:\n", text(&answer["instance"])));
        }
        said.push_str(&if rules.verbose { verbose(answer) } else { brief(answer) });
    }
    write(&said)
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}

fn brief(answer: &Value) -> String {
    if list(answer, "standing").is_empty() {
        return "there are no rules: all may pass\n".to_owned();
    }
    let mut lines = String::new();
    if answer["hook"].is_object() {
        lines.push_str(&format!("{}\n", hook(&answer["hook"])));
    }
    for rule in list(answer, "rules") {
        lines.push_str(&format!("{}: {}{}\n", rule["number"], text(&rule["rule"]), label(rule)));
    }
    for default in list(answer, "standing").iter().take(3) {
        lines.push_str(&format!("{}\n", text(&default["rule"])));
    }
    lines
}

/// Who is asked first, and what came of it.
fn hook(told: &Value) -> String {
    let count = |name: &str| format!("{name} {}", short(told[name].as_u64().unwrap_or(0)));
    let counts = ["asked", "remembered", "allow", "deny", "reject", "pass", "failed"].map(count).join(", ");
    let ended = if told["has_ended"] == true { ", has ended" } else { "" };
    format!("hook {}: {counts}{ended}", text(&told["program"]))
}

fn label(rule: &Value) -> String {
    match rule["label"].as_str() {
        Some(label) => format!("  ({})", plain(label)),
        None => String::new(),
    }
}

fn verbose(answer: &Value) -> String {
    let counts = |of: &Value| ["flows", "packets", "bytes"].map(|name| short(of[name].as_u64().unwrap_or(0)));
    let mut rows = vec![["#", "FLOWS", "PACKETS", "BYTES", "RULE"].map(str::to_owned).to_vec()];
    let mut row = |number: String, of: &Value, says: String| {
        let [flows, packets, bytes] = counts(of);
        rows.push(vec![number, flows, packets, bytes, says]);
    };
    if answer["hook"].is_object() {
        row("hook".to_owned(), &answer["hook"], hook(&answer["hook"]));
    }
    for rule in list(answer, "rules") {
        row(rule["number"].to_string(), rule, text(&rule["rule"]) + &label(rule));
    }
    for standing in list(answer, "standing") {
        row("-".to_owned(), standing, text(&standing["rule"]));
    }
    for way in list(answer, "nat") {
        row("nat".to_owned(), way, format!("{}: {}", text(&way["kind"]), text(&way["says"])));
    }
    table::render(&rows, &[0, 1, 2, 3])
}
