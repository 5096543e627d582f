//! Port specifications of pasta.

use std::ffi::OsString;

use netferry::cli::{self, CliError};
use netferry::config::{Forwarding, PortForwarding};
use rstest::rstest;

fn parse(words: &[&str]) -> Result<PortForwarding, CliError> {
    let rest = ["-4", "-u", "none", "-T", "none", "-U", "none"];
    let words = ["pasta"].iter().chain(&rest).chain(words).chain(&["1"]).map(OsString::from);
    cli::parse(words).map(|plan| plan.forwarding)
}

#[track_caller]
fn inward(words: &[&str]) -> Forwarding {
    parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}")).inward
}

fn rules(forwarding: &Forwarding) -> Vec<String> {
    forwarding.required.iter().map(|rule| rule.to_string().replace("/tcp", "")).collect()
}

#[rstest]
#[case(&["-t", "22"], &["0.0.0.0:22->22"])]
#[case(&["-t", "22:23"], &["0.0.0.0:22->23"])]
#[case(&["-t", "22,25"], &["0.0.0.0:22->22", "0.0.0.0:25->25"])]
#[case(&["-t", "22-24:32-34"], &["0.0.0.0:22->32", "0.0.0.0:23->33", "0.0.0.0:24->34"])]
#[case(&["-t", "192.0.2.1/22"], &["192.0.2.1:22->22"])]
#[case(&["-t", "192.0.2.1/22-23,~22"], &["192.0.2.1:23->23"])]
#[case(&["-t", "20-24,~21-23"], &["0.0.0.0:20->20", "0.0.0.0:24->24"])]
#[case(&["-t", "22", "-t", "25:26"], &["0.0.0.0:22->22", "0.0.0.0:25->26"])]
#[case(&["-t", "none"], &[])]
fn lists_are_what_they_say(#[case] words: &[&str], #[case] expected: &[&str]) {
    let forwarding = inward(words);
    assert_eq!(rules(&forwarding), expected);
    assert!(forwarding.hopeful.is_empty() && forwarding.followed.is_empty());
}

#[test]
fn an_interface_may_be_named_with_an_address_or_alone() {
    for spec in ["%eth0/22", "192.0.2.1%eth0/22"] {
        let forwarding = inward(&["-t", spec]);
        assert_eq!(forwarding.required[0].interface.unwrap().as_str(), "eth0");
    }
}

#[test]
fn an_ipv6_address_needs_no_brackets_and_may_have_them() {
    for spec in ["::1/22", "[::1]/22", "[::1]/22:22"] {
        let words = ["pasta", "-u", "none", "-T", "none", "-U", "none", "-t", spec, "1"];
        let plan = cli::parse(words.iter().map(OsString::from)).unwrap();
        assert_eq!(rules(&plan.forwarding.inward), ["[::1]:22->22"], "{spec}");
    }
}

#[test]
fn auto_follows_and_leaves_out_what_is_excluded() {
    let forwarding = inward(&["-t", "auto,~22"]);
    let [followed] = forwarding.followed.as_slice() else { panic!("{forwarding:?}") };
    assert!(followed.ports.contains(23) && !followed.ports.contains(22) && !followed.ports.contains(0));
    assert!(forwarding.required.is_empty() && forwarding.hopeful.is_empty());
}

#[rstest]
#[case("all", 22)]
#[case("~1000-2000", 22)]
fn all_and_exclusions_alone_take_what_they_can_get(#[case] spec: &str, #[case] port: u16) {
    let forwarding = inward(&["-t", spec]);
    let [hopeful] = forwarding.hopeful.as_slice() else { panic!("{forwarding:?}") };
    assert!(hopeful.ports.contains(port) && hopeful.ports.contains(1_500) == (spec == "all"));
}

#[test]
fn outward_ports_are_those_of_loopback() {
    let outward = parse(&["-t", "none", "-T", "8080:80"]);
    // The first -T says none.
    assert!(outward.unwrap_err().to_string().contains("stands alone"));
    let words = ["pasta", "-t", "none", "-u", "none", "-U", "none", "-T", "8080:80", "1"];
    let plan = cli::parse(words.iter().map(OsString::from)).unwrap();
    assert_eq!(rules(&plan.forwarding.outward), ["127.0.0.1:8080->80", "[::1]:8080->80"]);
}

#[rstest]
#[case("0", "`0` is not a port")]
#[case("65536", "`65536` is not a port")]
#[case("+22", "`+22` is not a port")]
#[case("", "a port is missing")]
#[case("22,", "a port is missing")]
#[case("25-22", "the range 25-22 is reversed")]
#[case("22-25:32-33", "4 ports lead to 2")]
#[case("22,22:23", "port 22 leads to 22 already")]
#[case("22,none", "`none` stands alone")]
#[case("host/22", "what stands before `/` is no address")]
#[case("%a:b/22", "no interface has the name")]
#[case("224.0.0.1/22", "nobody can listen there")]
#[case("::1/22", "the family of its address is off")]
#[case("1-65535", "more than")]
fn what_is_no_port_is_told(#[case] spec: &str, #[case] expected: &str) {
    let text = parse(&["-t", spec]).expect_err(spec).to_string();
    let begins = text.starts_with("pasta: --tcp-ports ");
    assert!(begins && text.contains(expected) && text.lines().count() == 1, "{text}");
}
