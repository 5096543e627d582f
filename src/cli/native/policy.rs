//! The options that make a policy. Their order counts, whatever each of them is: the first rule that matches decides.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use crate::cli::RulePart;
use crate::cli::values::{ValueError, malformed};
use crate::config::Rules;
use crate::config::rules::preset::Preset;
use crate::config::rules::{Rule, Verdict};

const HEADING: &str = "Rules";

/// One option, as given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Preset(String),
    Rule(Verdict, String),
    File(PathBuf),
}

/// All of them in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleOptions {
    given: Vec<Given>,
}

impl RuleOptions {
    /// The parts of the policy; files are yet to be read.
    pub fn resolve(&self) -> Result<Vec<RulePart>, ValueError> {
        self.given.iter().cloned().map(resolve).collect()
    }
}

fn resolve(given: Given) -> Result<RulePart, ValueError> {
    let mut rules = Rules::default();
    match given {
        Given::Preset(list) => {
            for name in list.split(',') {
                rules.apply(Preset::of_name(name).map_err(|error| malformed("--preset", &list, error))?);
            }
        }
        Given::Rule(verdict, text) => {
            let option = format!("--{}", verdict.name());
            let rule = Rule::from_spec(verdict, &text);
            rules.list.push(rule.map_err(|error| malformed(&option, &text, error))?);
        }
        Given::File(path) => return Ok(RulePart::File(path)),
    }
    Ok(RulePart::Rules(rules))
}

impl FromArgMatches for RuleOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = RuleOptions::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut given: Vec<(usize, Given)> = Vec::new();
        let texts = |id: &str| {
            let values = matches.get_many::<String>(id).unwrap_or_default().cloned();
            matches.indices_of(id).unwrap_or_default().zip(values).collect::<Vec<_>>()
        };
        given.extend(texts("preset").into_iter().map(|(place, text)| (place, Given::Preset(text))));
        for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Reject] {
            let rules = texts(verdict.name()).into_iter();
            given.extend(rules.map(|(place, text)| (place, Given::Rule(verdict, text))));
        }
        let paths = matches.get_many::<PathBuf>("rules").unwrap_or_default().cloned();
        let files = matches.indices_of("rules").unwrap_or_default().zip(paths);
        given.extend(files.map(|(place, path)| (place, Given::File(path))));
        given.sort_by_key(|(place, _)| *place);
        self.given = given.into_iter().map(|(_, given)| given).collect();
        Ok(())
    }
}

impl Args for RuleOptions {
    fn augment_args(command: clap::Command) -> clap::Command {
        let rule = |name: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name("RULE")
                .action(ArgAction::Append)
                .help_heading(HEADING)
                .help(help)
        };
        command
            .arg(
                rule("allow", "Let through what matches: [in:]PEER[:PORT[-END],...][/tcp|udp|icmp|dns]").long_help(
                    "Let through what matches: [in:]PEER[:PORT[-END],...][/tcp|udp|icmp|dns].\n\nPEER is an address, a \
                     subnet, a name, *.NAME for all names below it, or one of any, host, lan and metadata; an IPv6 address with \
                     ports stands in brackets. A name is an address that the container was given for it by netferry's DNS. \
                     With in: in front it is about clients of published ports. The first of these options that matches \
                     decides; see docs/rules.md.",
                ),
            )
            .arg(rule("deny", "Drop what matches, in silence"))
            .arg(rule("reject", "Drop what matches, and tell its sender"))
            .arg(
                Arg::new("preset")
                    .long("preset")
                    .value_name("NAME[,...]")
                    .action(ArgAction::Append)
                    .help_heading(HEADING)
                    .help("Rules by name: no-lan, no-metadata, no-host, allow-list")
                    .long_help(
                        "Rules by name: no-lan rejects what goes to networks of private use and to those that the host is \
                         on, no-metadata what goes to the metadata services of clouds, no-host what goes to the host itself; \
                         allow-list rejects all that no rule allows.",
                    ),
            )
            .arg(
                Arg::new("rules")
                    .long("rules")
                    .value_name("FILE")
                    .action(ArgAction::Append)
                    .value_parser(clap::value_parser!(PathBuf))
                    .help_heading(HEADING)
                    .help("Rules in a TOML file"),
            )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}
