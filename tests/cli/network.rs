//! `netferry network` and `netferry run --network`, from their words to what is asked.

use netferry::cli::native::network::{NetworkAction, Wants};
use netferry::cli::{CliError, ClientCommand, Invocation, RulePart, read};
use rstest::rstest;

fn asked(line: &str) -> Result<Invocation, CliError> {
    read(line.split_whitespace().map(Into::into))
}

fn action(line: &str) -> NetworkAction {
    match asked(line) {
        Ok(Invocation::Ask(command)) => match *command {
            ClientCommand::Network(network) => network.action,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_network_is_created_as_it_is_asked_for() {
    let line =
        "netferry network create lab --subnet 10.9.0.0/16 --gateway 10.9.0.9 --no-ipv6 --mtu 9000 --internal";
    let NetworkAction::Create(create) = action(line) else { panic!("another action") };
    assert_eq!((create.name.as_str(), create.mtu), ("lab", Some(9_000)));
    assert_eq!(create.subnet, Some("10.9.0.0/16".parse().unwrap()));
    assert_eq!(create.gateway, Some([10, 9, 0, 9].into()));
    assert!(create.no_ipv6 && create.internal && !create.isolated && !create.host_loopback);
}

#[test]
fn a_container_is_connected_as_it_is_asked_for() {
    let line = "netferry network connect lab 4711 --name Web --alias www --alias shop --ip 10.9.0.7 -p 127.0.0.1:81:80";
    let NetworkAction::Connect(connect) = action(line) else { panic!("another action") };
    assert_eq!(connect.wants.name.unwrap().as_str(), "web");
    assert_eq!(connect.wants.alias.len(), 2);
    assert_eq!(connect.wants.ip, Some([10, 9, 0, 7].into()));
    assert_eq!((connect.interface.as_str(), connect.publish.len()), ("eth0", 1));
}

#[test]
fn a_command_runs_on_a_network_with_eth0_unless_told_otherwise() {
    let line = "netferry run --network lab --name web -p 172.16.0.1:81:80 -- server --name x";
    let Ok(Invocation::Join(join)) = asked(line) else { panic!("not on a network") };
    assert_eq!((join.network.as_str(), join.interface.as_str()), ("lab", "eth0"));
    assert_eq!(join.command, ["server", "--name", "x"]);
    assert_eq!(join.publish, ["172.16.0.1:81:80".parse().unwrap()]);
    assert_ne!(join.wants, Wants { name: None, alias: Vec::new(), ip: None, ip6: None });
    let Ok(Invocation::Join(join)) = asked("netferry run --network lab --ifname up0") else { panic!("no") };
    assert_eq!(join.interface.as_str(), "up0");
}

#[rstest]
#[case::name("netferry network create -- -x", "-x")]
#[case::subnet("netferry network create lab --subnet 10.9.0.0", "--subnet")]
#[case::host_name("netferry network connect lab 1 --name a..b", "a..b")]
#[case::address("netferry network connect lab 1 --ip x", "--ip")]
#[case::ports("netferry network publish lab web 80:http", "http")]
#[case::nothing_to_remove("netferry network rm", "NETWORK")]
#[case::no_action("netferry network", "network")]
#[case::name_without_network("netferry run --name web -- true", "--network")]
#[case::ports_of_run("netferry run --network lab -p 80:http -- true", "http")]
#[case::interface("netferry run --network lab --ifname a/b -- true", "a/b")]
#[case::rule("netferry run --network lab --allow any:x -- true", "any:x")]
#[case::rule_of_network("netferry network create lab --deny any:x", "any:x")]
#[case::rule_of_member("netferry network connect lab 1 --preset nothing", "nothing")]
fn a_mistake_is_told_in_one_line(#[case] line: &str, #[case] expected: &str) {
    let error = asked(line).unwrap_err();
    let text = error.standard_error().unwrap_or_default();
    assert_eq!(error.exit_code(), 2, "{error:?}");
    assert!(text.contains(expected), "{text}");
}

#[rstest]
fn what_is_the_networks_is_not_taken_in_silence(
    #[values(
        "--mtu 9000",
        "--cidr 10.0.9.0/24",
        "--dns 9.9.9.9",
        "--host-loopback",
        "--no-sandbox",
        "--limit 1mbit",
        "--impair loss=1%",
        "--pcap f",
        "--timeout udp=1m",
        "--audit-enforce f"
    )]
    option: &str,
) {
    let error = asked(&format!("netferry run --network lab {option} -- true")).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error:?}");
    let option = option.split(' ').next().unwrap();
    assert!(error.standard_error().unwrap_or_default().contains(option), "{error:?}");
}

#[test]
fn a_container_of_a_network_has_rules_and_an_audit_of_its_own() {
    let line = "netferry run --network lab --deny any:25/tcp --rules f --audit g -- true";
    let Ok(Invocation::Join(joined)) = asked(line) else { panic!("it does not join") };
    assert!(matches!(&*joined.rules, [RulePart::Rules(_), RulePart::File(_)]), "{joined:?}");
    assert_eq!(joined.audit.as_deref(), Some(std::path::Path::new("g")));
}
