//! The face of pasta: what its words come to.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use netferry::cli::{
    self, Announcement, AttachTarget, CliError, Configuration, Confinement, HostCopy, Lifetime, Mode, Plan,
    Verbosity,
};
use netferry::config::{LocalClients, PortProtocol};
use rstest::rstest;

fn parse(words: &[&str]) -> Result<Plan, CliError> {
    cli::parse(std::iter::once("/usr/bin/pasta").chain(words.iter().copied()).map(OsString::from))
}

#[track_caller]
fn plan(words: &[&str]) -> Plan {
    parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[track_caller]
fn copy(words: &[&str]) -> HostCopy {
    plan(words).host_copy.unwrap()
}

#[track_caller]
fn error(words: &[&str]) -> String {
    let error = parse(words).expect_err("nothing is to be made of it");
    assert_eq!(error.exit_code(), 1, "{error}");
    assert_eq!(error.standard_output(), None);
    let text = error.standard_error().unwrap();
    assert!(text.starts_with("pasta: ") && text.lines().count() == 1, "{text}");
    text
}

fn attached(plan: &Plan) -> &cli::Attach {
    match &plan.mode {
        Mode::Attach(attach) => attach,
        Mode::Run { command } => panic!("a command: {command:?}"),
    }
}

#[test]
fn a_number_is_a_process_and_all_else_a_command() {
    let plan = plan(&["--config-net", "4711"]);
    assert_eq!(attached(&plan).target, AttachTarget::Pid(4711));
    assert!(plan.process.background && plan.confinement == Confinement::Full);
    let spawn = self::plan(&["-q", "ip", "-4", "--help"]);
    assert_eq!(spawn.mode, Mode::Run { command: ["ip", "-4", "--help"].map(OsString::from).into() });
    assert!(!spawn.process.background);
    assert_eq!(self::plan(&[]).mode, Mode::Run { command: Vec::new() });
}

#[test]
fn a_namespace_is_named_by_path_or_by_name() {
    let by_path = plan(&["--netns", "/proc/7/ns/net", "--userns", "/proc/7/ns/user"]);
    assert_eq!(attached(&by_path).target, AttachTarget::Path("/proc/7/ns/net".into()));
    assert_eq!(attached(&by_path).userns, Some(PathBuf::from("/proc/7/ns/user")));
    assert_eq!(attached(&by_path).lifetime, Lifetime::OfTarget);
    assert_eq!(attached(&by_path).announcement, Announcement::Nothing);
    let by_name = plan(&["--netns=blue", "--netns-only", "--no-netns-quit"]);
    assert_eq!(attached(&by_name).target, AttachTarget::Path("/run/netns/blue".into()));
    assert_eq!(attached(&by_name).lifetime, Lifetime::UntilTold);
}

#[test]
fn podmans_words_are_understood() {
    let words = "--config-net -t 0.0.0.0/18080-18080:80-80 -u 15300-15301:53-54 --dns-forward 169.254.1.1 -T none -U none \
                 --no-map-gw --quiet --netns /run/user/1000/netns/netns-1 --map-guest-addr 169.254.1.2";
    let plan = plan(&words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(attached(&plan).configuration, Configuration::Ours);
    assert_eq!(plan.verbosity, Verbosity::Quiet);
    let copy = plan.host_copy.unwrap();
    assert!(!copy.gateway_is_loopback && copy.map_host_loopback.is_empty());
    assert_eq!(copy.map_guest_address, ["169.254.1.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(copy.dns_forward, ["169.254.1.1".parse::<IpAddr>().unwrap()]);
    assert!(plan.services.dns);
    let rules: Vec<String> = plan.forwarding.inward.required.iter().map(ToString::to_string).collect();
    let expected = [
        "0.0.0.0:18080->80/tcp",
        "0.0.0.0:15300->53/udp",
        "0.0.0.0:15301->54/udp",
        "[::]:15300->53/udp",
        "[::]:15301->54/udp",
    ];
    assert_eq!(rules, expected);
    assert!(plan.forwarding.inward.followed.is_empty() && plan.forwarding.outward == Default::default());
}

#[test]
fn rootlesskits_words_are_understood() {
    let words = "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 \
                 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto --host-lo-to-ns-lo 4711";
    let plan = plan(&words.split_whitespace().collect::<Vec<_>>());
    assert!(plan.link.ipv4.is_some() && plan.link.ipv6.is_none() && plan.link.mtu == 65_520);
    assert_eq!(plan.forwarding.local_clients, LocalClients::SplicedToLoopback);
    let followed: Vec<_> = plan.forwarding.inward.followed.iter().map(|ports| ports.protocol).collect();
    assert_eq!(followed, [PortProtocol::Tcp, PortProtocol::Udp]);
    let copy = plan.host_copy.unwrap();
    assert_eq!(copy.tap_name.unwrap().as_str(), "tap0");
    assert_eq!(copy.addresses, [("10.0.2.100".parse().unwrap(), None)]);
    assert_eq!((copy.netmask, copy.gateway4), (Some(24), Some("10.0.2.2".parse().unwrap())));
}

#[rstest]
#[case(&["--version"])]
#[case(&["--host-lo-to-ns-lo", "--version"])]
#[case(&["--help"])]
#[case(&["-h"])]
fn what_is_asked_about_us_is_answered_with_success(#[case] words: &[&str]) {
    let answer = parse(words).unwrap_err();
    assert_eq!(answer.exit_code(), 0);
    let text = answer.standard_output().unwrap();
    assert!(text.contains("pasta") && text.contains("netferry"), "{text}");
}

#[test]
fn help_names_every_option() {
    let answer = parse(&["--help"]).unwrap_err();
    let help = answer.standard_output().unwrap().to_owned();
    let options = "--netns --userns --netns-only --no-netns-quit --config-net --ns-ifname --ns-mac-addr --address --netmask \
        --mac-addr --gateway --interface --outbound --outbound-if4 --outbound-if6 --dns --dns-forward --dns-host --search \
        --dhcp-dns --no-dhcp-dns --dhcp-search --no-dhcp-search --no-dhcp --no-dhcpv6 --no-ndp --no-ra --no-tcp --no-udp \
        --no-icmp --freebind --no-map-gw --map-host-loopback --map-guest-addr --ipv4-only --ipv6-only --hostname --fqdn \
        --mtu --pcap --pid --log-file --log-size --foreground --stderr --quiet --debug --trace --stats --runas --help \
        --version --host-lo-to-ns-lo --no-splice --splice-only --no-copy-routes --no-copy-addrs --tcp-ports --udp-ports \
        --tcp-ns --udp-ns";
    for option in options.split_whitespace() {
        assert!(help.contains(option), "{option}");
    }
}

#[test]
fn defaults_are_the_originals() {
    let plan = plan(&["1"]);
    assert_eq!(plan.link.mtu, 65_520);
    assert!(plan.services.router_adverts && plan.services.neighbor_discovery && plan.services.dhcpv6);
    assert_eq!(plan.forwarding.local_clients, LocalClients::SplicedToAddress);
    for direction in [&plan.forwarding.inward, &plan.forwarding.outward] {
        assert_eq!(direction.followed.len(), 4, "both transports, both families");
    }
    let copy = plan.host_copy.unwrap();
    assert!(copy.gateway_is_loopback && copy.offers_dhcp && !copy.offers_resolvers && !copy.offers_search);
}

#[rstest]
#[case(&["--no-tcp", "1"], (false, true, true))]
#[case(&["--no-udp", "1"], (true, false, true))]
#[case(&["--no-icmp", "1"], (true, true, false))]
fn transports_are_switched_off(#[case] words: &[&str], #[case] expected: (bool, bool, bool)) {
    let transports = plan(words).transports;
    assert_eq!((transports.tcp, transports.udp, transports.icmp), expected);
}

#[test]
fn services_are_switched_off() {
    let plan = plan(&["--no-dhcp", "--no-dhcpv6", "--no-ra", "1"]);
    assert!(!plan.host_copy.unwrap().offers_dhcp && !plan.services.dhcpv6 && !plan.services.router_adverts);
    assert!(!self::plan(&["--no-ndp", "1"]).services.neighbor_discovery);
}

#[test]
fn the_process_lives_as_it_is_told() {
    let words =
        ["-P", "/tmp/pid", "-l", "/tmp/log", "--log-size", "65536", "-p", "/tmp/pcap", "--runas", "7:8", "1"];
    let plan = plan(&words);
    assert_eq!(plan.process.pid_file, Some("/tmp/pid".into()));
    let log = plan.process.log_file.unwrap();
    assert_eq!((log.path, log.max_bytes), ("/tmp/log".into(), 65_536));
    assert_eq!((plan.capture, plan.process.run_as), (Some("/tmp/pcap".into()), Some("7:8".to_owned())));
    for words in [["-f", "1"], ["-d", "1"], ["--trace", "1"]] {
        assert!(!self::plan(&words).process.background, "{words:?}");
    }
}

#[rstest]
#[case(&["-n", "255.255.0.0", "1"], 16)]
#[case(&["--netmask=12", "1"], 12)]
fn a_netmask_is_a_mask_or_a_length(#[case] words: &[&str], #[case] expected: u8) {
    assert_eq!(copy(words).netmask, Some(expected));
}

#[test]
fn addresses_gateways_and_aliases_are_those_of_either_family() {
    let words = [
        "-a",
        "192.0.2.9/28",
        "-a",
        "2001:db8::9/56",
        "-g",
        "192.0.2.1",
        "-g",
        "fe80::9",
        "--map-host-loopback",
        "192.0.2.7",
        "--map-guest-addr",
        "none",
        "-i",
        "eth3",
        "1",
    ];
    let copy = copy(&words);
    let expected = [("192.0.2.9".parse().unwrap(), Some(28)), ("2001:db8::9".parse().unwrap(), Some(56))];
    assert_eq!(copy.addresses, expected);
    assert_eq!(copy.gateway4, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(copy.gateway6, Some("fe80::9".parse().unwrap()));
    assert!(!copy.gateway_is_loopback && copy.map_guest_address.is_empty());
    assert_eq!(copy.interface.unwrap().as_str(), "eth3");
}

#[test]
fn an_alias_of_a_family_that_is_off_means_nothing() {
    let copy = copy(&["-6", "--map-guest-addr", "169.254.1.2", "--dns-forward", "169.254.1.1", "1"]);
    assert!(copy.map_guest_address.is_empty() && copy.dns_forward.is_empty());
}

#[test]
fn the_last_of_several_counts() {
    assert_eq!(plan(&["-m", "1400", "--mtu=1500", "1"]).link.mtu, 1_500);
    assert!(copy(&["--no-dhcp-dns", "--dhcp-dns", "1"]).offers_resolvers);
    assert!(!copy(&["--dhcp-dns", "--no-dhcp-dns", "1"]).offers_resolvers);
}

#[rstest]
#[case(&["--map-gest-addr", "x"], "unrecognized option '--map-gest-addr'")]
#[case(&["--socket", "/tmp/x"], "--socket is for virtual machines")]
#[case(&["--vhost-user"], "--vhost-user is for virtual machines")]
#[case(&["-1"], "--one-off is for virtual machines")]
#[case(&["--netns", "a", "b"], "--netns a: a namespace is given, and `b` besides")]
#[case(&["--netns-only", "sh"], "--netns-only: a command needs a user namespace")]
#[case(&["--userns", "/x", "sh"], "--userns: a user namespace alone is not served")]
#[case(&["0"], "PID 0: no process has this number")]
#[case(&["-m", "99999999", "1"], "--mtu 99999999: out of range")]
#[case(&["-a", "1.2.3", "1"], "--address 1.2.3: not an address")]
#[case(&["-a", "192.0.2.1/33", "1"], "--address 192.0.2.1/33: not a prefix length; use 1 to 32")]
#[case(&["-a", "127.0.0.1", "1"], "--address 127.0.0.1: no interface can have it")]
#[case(&["-4", "-a", "2001:db8::1", "1"], "--address 2001:db8::1: its family is off")]
#[case(&["-n", "255.0.255.0", "1"], "--netmask 255.0.255.0: neither a mask nor a prefix length")]
#[case(&["-i", "a/b", "1"], "--interface a/b: not the name of an interface")]
#[case(&["-I", "lo", "1"], "--ns-ifname lo: this is the loopback interface")]
#[case(&["--log-size", "12", "1"], "--log-size 12: too small for a log")]
#[case(&["-H", "a b", "1"], "not a name")]
#[case(&["-4", "-6", "1"], "cannot be used with")]
#[case(&["--no-splice", "--splice-only", "1"], "cannot be used with")]
#[case(&["-M", "ff:ff:ff:ff:ff:ff", "1"], "--mac-addr ff:ff:ff:ff:ff:ff: not a unicast address")]
fn what_cannot_be_is_told_in_one_line(#[case] words: &[&str], #[case] expected: &str) {
    let text = error(words);
    assert!(text.contains(expected), "{text}");
}
