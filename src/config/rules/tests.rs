//! Rules as they are written.

use rstest::rstest;

use super::*;

fn file(text: &str) -> Rules {
    Rules::from_toml(text).unwrap()
}

#[rstest]
#[case("*.crates.io:443/tcp", "allow out tcp *.crates.io 443")]
#[case("10.0.0.0/8", "allow out 10.0.0.0/8")]
#[case("10.0.0.0/8:22/tcp", "allow out tcp 10.0.0.0/8 22")]
#[case("203.0.113.7:80,8000-8999", "allow out tcp,udp 203.0.113.7 80,8000-8999")]
#[case("[fd00::/8]:80", "allow out tcp,udp fd00::/8 80")]
#[case("fd00::1", "allow out fd00::1")]
#[case("fd00::/8/icmp", "allow out icmp fd00::/8")]
#[case("in:203.0.113.0/24:8080", "allow in tcp,udp 203.0.113.0/24 8080")]
#[case("out:any", "allow out any")]
#[case("*.example.org/dns", "allow out dns *.example.org")]
fn an_argument_is_a_rule(#[case] text: &str, #[case] shown: &str) {
    assert_eq!(Rule::from_spec(Verdict::Allow, text).unwrap().to_string(), shown);
}

#[rstest]
#[case("", RuleError::Peer(String::new()))]
#[case("10.0.0.0/33", RuleError::Peer("10.0.0.0/33".to_owned()))]
#[case("10.0.0.1:0", RuleError::Port("0".to_owned()))]
#[case("10.0.0.1:90-80", RuleError::Port("90-80".to_owned()))]
#[case("10.0.0.1:+80", RuleError::Port("+80".to_owned()))]
#[case("10.0.0.1/sctp", RuleError::Protocol("sctp".to_owned()))]
#[case("10.0.0.1:80/icmp", RuleError::NoPorts)]
#[case("in:example.org", RuleError::NamesIn)]
#[case("10.0.0.1/dns", RuleError::NotAsked)]
#[case("in:any/dns", RuleError::NotAsked)]
#[case("[fd00::1", RuleError::Peer("[fd00::1".to_owned()))]
fn what_is_no_rule_is_refused(#[case] text: &str, #[case] error: RuleError) {
    assert_eq!(Rule::from_spec(Verdict::Deny, text), Err(error));
}

#[test]
fn a_file_has_presets_defaults_and_rules_in_their_order() {
    let rules = file(
        "default = 'reject'\ndns = 'listed'\ndefault-in = 'deny'\npresets = ['no-lan', 'no-metadata']\n\
         [[rule]]\nlabel = 'crates'\nallow = ['*.crates.io', 'static.rust-lang.org']\nports = [443, '8000-8010']\n\
         protocol = 'tcp'\n[[rule]]\nallow = 'any'\nprotocol = ['icmp']\n[[rule]]\ndeny = '192.0.2.0/24'\ndirection = 'in'\n",
    );
    let shown: Vec<_> = rules.list.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "reject out lan",
            "reject out metadata",
            "allow out tcp *.crates.io,static.rust-lang.org 443,8000-8010",
            "allow out icmp any",
            "deny in 192.0.2.0/24",
        ]
    );
    assert_eq!((rules.default_out, rules.default_in), (Verdict::Reject, Verdict::Deny));
    assert_eq!(rules.default_dns, DnsDefault::Listed);
    assert_eq!(rules.list[2].label.as_deref(), Some("crates"));
    assert!(rules.has_names() && !rules.is_empty() && file("").is_empty());
}

#[rstest]
#[case("default = 'maybe'", 1, "'maybe' is no verdict")]
#[case(
    "\n\n[[rule]]\nallow = 'any'\n\n[[rule]]\nports = 80\nallow = ['a.example',\n '10.0.0.0/33']\n",
    9,
    "'10.0.0.0/33' is no peer"
)]
#[case("[[rule]]\nallow = 'any'\nports = 70000\n", 3, "'70000' is no port")]
#[case("[[rule]]\nallow = 'any'\ndeny = 'any'\n", 1, "'more than one' is no verdict")]
#[case("[[rule]]\nports = 1\n", 1, "'' is no verdict")]
#[case("presets = ['no-lan',\n'none']\n", 2, "'none' is no preset")]
#[case("\ndefautl = 'deny'\n", 2, "unknown field `defautl`")]
#[case("[[rule]]\nallow = 'any'\nport = 1\n", 3, "unknown field `port`")]
#[case("[[rule]]\nallow = \n", 2, "")]
#[case("[[rule]]\nallow = 1\n", 2, "")]
#[case("dns = 'sometimes'", 1, "'sometimes' cannot become of queries")]
fn a_mistake_is_told_with_its_line(#[case] text: &str, #[case] line: usize, #[case] why: &str) {
    let error = Rules::from_toml(text).unwrap_err();
    assert_eq!(error.line, line, "{error}");
    assert!(error.why.contains(why) && !error.why.contains('\n'), "{error}");
}

#[test]
fn rules_and_their_peers_are_bounded() {
    let rule = "[[rule]]\nallow='any'\n";
    assert!(Rules::from_toml(&rule.repeat(crate::config::limits::RULES)).is_ok());
    let over = Rules::from_toml(&rule.repeat(crate::config::limits::RULES + 1)).unwrap_err();
    assert_eq!(over.why, RuleError::TooManyRules(crate::config::limits::RULES).to_string());
    let peers = "'10.0.0.1',".repeat(RULE_PEERS + 1);
    let over = Rules::from_toml(&format!("[[rule]]\nallow=[{peers}]\n")).unwrap_err();
    assert_eq!(over.why, RuleError::TooManyPeers(RULE_PEERS).to_string());
    let long = Rules::from_toml(&" ".repeat(crate::config::limits::RULES_FILE_BYTES + 1)).unwrap_err();
    assert_eq!(long.line, 1);
}

#[test]
fn a_rule_may_have_rates() {
    let rules = Rules::from_toml("[[rule]]\nallow = 'any'\nlimit = 'up=1mbit,down=8mbit'").unwrap();
    assert_eq!(rules.list[0].to_string(), "allow out any limit up=1mbit,down=8mbit");
    for (text, why) in [
        ("[[rule]]\nallow = 'any'\nlimit = 'fast'", "limit \"fast\" is not a rate"),
        ("[[rule]]\ndeny = 'any'\nlimit = '1mbit'", "what is not allowed has no rate"),
    ] {
        let error = Rules::from_toml(text).unwrap_err();
        assert!(error.why.starts_with(why) && error.line == 3, "{error}");
    }
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let mut rules = file(
        "presets = [\"no-lan\", \"no-metadata\", \"allow-list\"]\ndefault-in = \"deny\"\ndns = \"listed\"\n\
         [[rule]]\nlabel = \"a \\\"b\\\" \\\\ \\n\"\nallow = [\"*.crates.io\", \"www.test\"]\nprotocol = \"tcp\"\n\
         ports = [443, \"8000-8999\"]\nlimit = \"down=8mbit\"\n\
         [[rule]]\nreject = [\"10.0.0.0/8\", \"fd00::/8\", \"host\"]\n\
         [[rule]]\ndeny = \"any\"\ndirection = \"in\"\nports = 80\n\
         [[rule]]\nallow = \"secret.test\"\nprotocol = [\"dns\", \"udp\"]\n",
    );
    rules.append(file("[[rule]]\nallow = \"any\"\nprotocol = \"icmp\"\n"));
    assert_eq!(Rules::from_toml(&rules.to_toml()), Ok(rules));
    assert_eq!(Rules::default().to_toml(), "");
}
