//! What starts a network is read alike by itself and among all commands.

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

#[test]
fn what_starts_a_network_is_read_by_itself_as_by_the_whole() {
    for line in [
        "netferry run",
        "netferry run -p 8080:80 -v --mtu=1400 -- curl -v --version",
        "netferry run --network lab --name web server --help",
        "netferry run run attach",
        "netferry attach 4711",
        "netferry attach --ready-fd 3 -p 8080:80 -p [::1]:53:53/udp --userns /proc/1/ns/user /proc/1/ns/net eth0",
        "/tmp/nf attach -vv --no-sandbox --limit 10mbit 4711 tap0",
    ] {
        let args = words(line);
        let whole = Cli::try_parse_from(&args).unwrap_or_else(|error| panic!("{line}: {error}")).command;
        let alone = parse_start(&args).unwrap_or_else(|| panic!("{line}: not read by itself"));
        assert_eq!(format!("{alone:?}"), format!("{whole:?}"), "{line}");
    }
}

#[test]
fn help_mistakes_and_other_commands_are_left_to_the_whole() {
    for line in [
        "netferry",
        "netferry --version",
        "netferry help attach",
        "netferry attach",
        "netferry attach --help",
        "netferry run -h",
        "netferry run --version",
        "netferry attach --unheard-of 4711",
        "netferry attach 1 2 3",
        "netferry ps",
    ] {
        assert!(parse_start(&words(line)).is_none(), "{line}");
    }
}
