//! Words to plans, through the library.

use std::ffi::OsString;
use std::path::PathBuf;

use netferry::cli::{
    self, AttachTarget, CliError, Collisions, Conditions, Confinement, ControlPlace, Mode, OutboundSources,
    Plan, ProcessPlan, Verbosity, Workers,
};
use netferry::config::address::{self, ExplicitSubnets};
use netferry::config::{
    ClosedPorts, LinkConfig, Offers, PortForwarding, Services, Timeouts, Transports, UdpMapping,
};
use rstest::rstest;

fn parse(words: &[&str]) -> Result<Plan, CliError> {
    let program = std::iter::once("netferry");
    cli::parse(program.chain(words.iter().copied()).map(OsString::from))
}

fn plan(words: &[&str]) -> Plan {
    parse(words).unwrap()
}

fn published(words: &[&str]) -> Vec<String> {
    plan(words).publish.iter().map(ToString::to_string).collect()
}

fn attached(words: &[&str]) -> (AttachTarget, Option<PathBuf>, Option<i32>) {
    match plan(words).mode {
        Mode::Attach(what) => (what.target, what.userns, what.ready_fd),
        Mode::Run { .. } => panic!("{words:?} is not attach"),
    }
}

#[test]
fn run_without_options_has_the_documented_defaults() {
    let expected = Plan {
        mode: Mode::Run { command: Vec::new() },
        link: LinkConfig::default(),
        collisions: Collisions::Avoid(ExplicitSubnets::default()),
        tap_name: "tap0".into(),
        host_copy: None,
        publish: Vec::new(),
        forwarding: PortForwarding::default(),
        workers: Workers::Count(1),
        transports: Transports::default(),
        host_loopback: false,
        rules: Vec::new(),
        audit: None,
        audit_enforce: None,
        hook: None,
        udp_mapping: UdpMapping::Connected,
        closed_ports: ClosedPorts::Learn,
        timeouts: Timeouts::default(),
        services: Services::default(),
        offers: Offers::default(),
        outbound: OutboundSources::default(),
        face: None,
        api_socket: None,
        control: ControlPlace::Default,
        metrics: None,
        confinement: Confinement::default(),
        resolvers: None,
        offload: true,
        process: ProcessPlan::default(),
        capture: None,
        conditions: Conditions::default(),
        verbosity: Verbosity::Normal,
    };
    assert_eq!(plan(&["run"]), expected);
}

#[rstest]
#[case::plain(&["run", "true"], &["true"])]
#[case::options_of_the_command(
    &["run", "-p", "8080:80", "python3", "-m", "http.server", "80"],
    &["python3", "-m", "http.server", "80"]
)]
#[case::after_two_hyphens(&["run", "--", "cmd", "-x"], &["cmd", "-x"])]
#[case::command_that_begins_with_a_hyphen(&["run", "--", "-x", "--mtu"], &["-x", "--mtu"])]
#[case::our_own_options_after_the_command(&["run", "cmd", "--mtu", "9", "-p", "80"], &["cmd", "--mtu", "9", "-p", "80"])]
#[case::help_of_the_command(&["run", "cmd", "--help"], &["cmd", "--help"])]
#[case::version_of_the_command(&["run", "cmd", "-V", "--version"], &["cmd", "-V", "--version"])]
#[case::two_hyphens_of_the_command(&["run", "sh", "-c", "x", "--", "y"], &["sh", "-c", "x", "--", "y"])]
#[case::two_hyphens_twice(&["run", "--", "sh", "--", "y"], &["sh", "--", "y"])]
#[case::two_hyphens_right_after_the_command(&["run", "env", "--", "y"], &["env", "--", "y"])]
#[case::empty_word(&["run", "printf", ""], &["printf", ""])]
#[case::two_hyphens_and_nothing(&["run", "--"], &[])]
fn everything_from_the_command_on_is_its_own(#[case] words: &[&str], #[case] expected: &[&str]) {
    let command = expected.iter().map(OsString::from).collect();
    assert_eq!(plan(words).mode, Mode::Run { command });
}

#[cfg(unix)]
#[test]
fn command_need_not_be_unicode() {
    use std::os::unix::ffi::OsStringExt;
    let word = OsString::from_vec(vec![b'a', 0xff]);
    let plan = cli::parse(["netferry".into(), "run".into(), word.clone()]).unwrap();
    assert_eq!(plan.mode, Mode::Run { command: vec![word.clone()] });
    let error = cli::parse(["netferry".into(), "run".into(), "--mtu".into(), word]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn subnets_are_resolved_and_marked_as_named() {
    let plan = plan(&["run", "--cidr", "192.168.77.0/24", "--cidr6", "fd00:77::5/64"]);
    assert_eq!(plan.collisions, Collisions::Avoid(ExplicitSubnets { ipv4: true, ipv6: true }));
    let (ipv4, ipv6) = (plan.link.ipv4.unwrap(), plan.link.ipv6.unwrap());
    assert_eq!(ipv4.container.to_string(), "192.168.77.100");
    assert_eq!(ipv6.container.to_string(), "fd00:77::5");
    assert_eq!(plan.link.container_mac, Some(address::derived_mac(ipv4.container)));
}

#[test]
fn without_ipv6_a_small_mtu_is_enough_and_ports_are_published_once() {
    let words = ["run", "--no-ipv6", "--mtu", "576", "-p", "8080:80"];
    assert_eq!((plan(&words).link.ipv6, plan(&words).link.mtu), (None, 576));
    assert_eq!(published(&words), ["0.0.0.0:8080->80/tcp"]);
}

#[test]
fn ports_are_published_in_the_order_given() {
    let words = ["run", "-p", "8080:80", "--publish=[::1]:53:5353/udp", "-p127.0.0.1:22:22"];
    assert_eq!(
        published(&words),
        ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "[::1]:53->5353/udp", "127.0.0.1:22->22/tcp"]
    );
}

#[rstest]
#[case("192.0.2.53", "192.0.2.53:53")]
#[case("192.0.2.53:5353", "192.0.2.53:5353")]
#[case("2001:db8::53", "[2001:db8::53]:53")]
#[case("[2001:db8::53]", "[2001:db8::53]:53")]
#[case("[2001:db8::53]:5353", "[2001:db8::53]:5353")]
fn resolver_has_port_53_unless_given(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(plan(&["run", "--dns", text]).resolvers, Some(vec![expected.parse().unwrap()]));
}

#[test]
fn resolvers_keep_their_order() {
    let resolvers = plan(&["run", "--dns", "192.0.2.2", "--dns", "192.0.2.1"]).resolvers.unwrap();
    assert_eq!(resolvers, ["192.0.2.2:53".parse().unwrap(), "192.0.2.1:53".parse().unwrap()]);
}

#[test]
fn switches_reach_the_plan() {
    let words = ["run", "--host-loopback", "--no-offload", "--udp-mapping", "endpoint-independent"];
    let plan = plan(&words);
    assert!(plan.host_loopback && !plan.offload);
    assert_eq!(plan.udp_mapping, UdpMapping::EndpointIndependent);
}

#[test]
fn interface_is_named_as_asked() {
    let plan = plan(&["run", "--ifname", "fifteen-bytes-0", "--mac", "02:00:00:00:00:07"]);
    assert_eq!(plan.tap_name, "fifteen-bytes-0");
    assert_eq!(plan.link.container_mac, Some("02:00:00:00:00:07".parse().unwrap()));
}

#[rstest]
#[case(&["run"], Verbosity::Normal)]
#[case(&["run", "-q"], Verbosity::Quiet)]
#[case(&["run", "-v"], Verbosity::Debug)]
#[case(&["run", "-vv"], Verbosity::Trace)]
#[case(&["run", "-v", "--verbose", "-v"], Verbosity::Trace)]
fn verbosity_follows_the_switches(#[case] words: &[&str], #[case] expected: Verbosity) {
    assert_eq!(plan(words).verbosity, expected);
}

#[test]
fn attach_takes_a_process_or_a_path() {
    assert_eq!(attached(&["attach", "4711"]), (AttachTarget::Pid(4711), None, None));
    let path = |text: &str| AttachTarget::Path(PathBuf::from(text));
    assert_eq!(attached(&["attach", "/run/netns/a"]), (path("/run/netns/a"), None, None));
    assert_eq!(attached(&["attach", "./4711"]), (path("./4711"), None, None));
    let words = ["attach", "--userns", "/proc/7/ns/user", "--ready-fd", "3", "/proc/7/ns/net", "eth0"];
    assert_eq!(attached(&words), (path("/proc/7/ns/net"), Some("/proc/7/ns/user".into()), Some(3)));
    assert_eq!(plan(&words).tap_name, "eth0");
    assert_eq!(plan(&["attach", "1"]).tap_name, "tap0");
    // Attach has no command: options may follow.
    assert_eq!(plan(&["attach", "1", "tap1", "--mtu", "9000"]).link.mtu, 9_000);
}

#[test]
fn closed_ports_refuse_where_that_is_asked_for() {
    assert_eq!(plan(&["run", "--closed-ports", "refuse"]).closed_ports, ClosedPorts::Refuse);
}

#[test]
fn timeouts_are_set_by_name_and_the_last_word_holds() {
    let asked = plan(&["run", "--timeout", "udp=1m,icmp=90s", "--timeout", "udp=2m"]).timeouts;
    let expected = Timeouts {
        udp: std::time::Duration::from_secs(120),
        icmp: std::time::Duration::from_secs(90),
        ..Timeouts::default()
    };
    assert_eq!(asked, expected);
}

/// The form is wrong: status 2, and the help to read.
#[rstest]
#[case(&[], "no command is given; start with 'netferry run' or 'netferry attach PID'; try 'netferry --help'")]
#[case(&["fly"], "unrecognized subcommand 'fly'; try 'netferry --help'")]
#[case(&["run", "--zzyzx", "cmd"], "unexpected argument '--zzyzx' found; try 'netferry run --help'")]
#[case(&["run", "-x", "cmd"], "unexpected argument '-x' found; try 'netferry run --help'")]
#[case(&["run", "--mtuu", "1500"], "unexpected argument '--mtuu' found; a similar argument exists: '--mtu'; try 'netferry run --help'")]
#[case(&["run", "--mtu"], "a value is required for '--mtu <N>' but none was supplied; try 'netferry run --help'")]
#[case(&["run", "--mtu", "1500", "--mtu", "9000"], "the argument '--mtu <N>' cannot be used multiple times; try 'netferry run --help'")]
#[case(&["run", "-q", "-v"], "the argument '--quiet' cannot be used with '--verbose...'; try 'netferry run --help'")]
#[case(&["run", "--no-ipv6", "--cidr6", "fd00::/64"], "the argument '--no-ipv6' cannot be used with '--cidr6 <CIDR6>'; try 'netferry run --help'")]
#[case(&["run", "--udp-mapping", "any"], "invalid value 'any' for '--udp-mapping <MODE>' [possible values: connected, endpoint-independent]; try 'netferry run --help'")]
#[case(&["run", "--ready-fd", "3"], "unexpected argument '--ready-fd' found; try 'netferry run --help'")]
#[case(&["run", "--mtu", "big"], "--mtu big: not a number of bytes; write it as in 1500; try 'netferry run --help'")]
#[case(&["run", "--mtu=-1"], "--mtu -1: not a number of bytes; write it as in 1500; try 'netferry run --help'")]
#[case(&["run", "--mac", "02:00"], "--mac 02:00: expected six pairs of hexadecimal digits such as 02:00:00:00:00:01; try 'netferry run --help'")]
#[case(&["run", "--cidr", "10.0.2.0"], "--cidr 10.0.2.0: not an IPv4 subnet; write it as in 10.0.2.0/24; try 'netferry run --help'")]
#[case(&["run", "--cidr", "fd00::/64"], "--cidr fd00::/64: this is an IPv6 prefix; give it with --cidr6; try 'netferry run --help'")]
#[case(&["run", "--cidr6", "10.0.2.0/24"], "--cidr6 10.0.2.0/24: this is an IPv4 subnet; give it with --cidr; try 'netferry run --help'")]
#[case(&["run", "--cidr6", "fd00::/129"], "--cidr6 fd00::/129: not an IPv6 prefix; write it as in fd00:1:2:3::/64; try 'netferry run --help'")]
#[case(&["run", "-p", "0:80"], "--publish 0:80: port 0 cannot be published; give a number from 1 to 65535; try 'netferry run --help'")]
#[case(&["run", "-p", "80\n:80"], "--publish 80\\n:80: `80\\n` is not a port")]
#[case(&["run", "--dns", "one.example"], "--dns one.example: not the address of a resolver; write it as in 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353; try 'netferry run --help'")]
#[case(&["run", "--timeout", "udp"], "--timeout udp: not of the form NAME=TIME; write it as in udp=5m or tcp-established=3h,icmp=90s; try 'netferry run --help'")]
#[case(&["run", "--timeout", "tcp=1h"], "--timeout tcp=1h: there is no timeout \"tcp\"; there are tcp-handshake, tcp-established, tcp-probe, tcp-closing, tcp-time-wait, udp, icmp, dns; try 'netferry run --help'")]
#[case(&["run", "--timeout", "udp=soon"], "--timeout udp=soon: \"soon\" is not a time; write it as in 90s, 5m, 2h4m or 1500ms; try 'netferry run --help'")]
#[case(&["run", "--hook-timeout", "1s"], "the following required arguments were not provided: --hook <PROGRAM>; try 'netferry run --help'")]
#[case(&["run", "--hook", "x", "--hook-timeout", "long"], "--hook-timeout long: \"long\" is not a time; write it as in 90s, 5m, 2h4m or 1500ms; try 'netferry run --help'")]
#[case(&["attach"], "the following required arguments were not provided: <PID|PATH>; try 'netferry attach --help'")]
#[case(&["attach", "1", "tap0", "more"], "unexpected argument 'more' found; try 'netferry attach --help'")]
#[case(&["attach", ""], "a value is required for '<PID|PATH>' but none was supplied; try 'netferry attach --help'")]
#[case(&["run", "--a\x07b"], "unexpected argument '--ab' found")]
#[case(&["attach", "--ifname", "tap1", "1"], "unexpected argument '--ifname' found")]
#[case(&["attach", "--ready-fd", "0", "1"], "--ready-fd 0: not a descriptor to write to; give the number of an open one, from 1 on; try 'netferry attach --help'")]
#[case(&["attach", "--ready-fd", "three", "1"], "--ready-fd three: not a descriptor to write to")]
#[case(&["attach", "--userns", "/proc/1/ns/user", "1"], "--userns is for a PATH, and a PID has its own; leave it out, or give /proc/PID/ns/net; try 'netferry attach --help'")]
fn mistake_is_told_in_one_line_that_names_the_help(#[case] words: &[&str], #[case] beginning: &str) {
    assert_refused(words, 2, beginning);
}

/// The form is right, the value is not: status 1, and what would do.
#[rstest]
#[case(&["run", "--timeout", "udp=0"], "--timeout udp=0: \"0\" is out of range; give 100ms to 30d")]
#[case(&["run", "--mtu", "1279"], "--mtu 1279: IPv6 needs an MTU of at least 1280; raise it or add --no-ipv6")]
#[case(&["run", "--mtu", "65521"], "--mtu 65521: out of range; use 1280 to 65520")]
#[case(&["run", "--mtu", "99999999999999999999999"], "--mtu 99999999999999999999999: out of range; use 1280 to 65520")]
#[case(&["run", "--no-ipv6", "--mtu", "575"], "--mtu 575: out of range; use 576 to 65520")]
#[case(&["run", "--mac", "02:67:77:00:00:02"], "--mac 02:67:77:00:00:02: 02:67:77:00:00:02 is the gateway's own address; choose another")]
#[case(&["run", "--cidr", "10.0.2.0/30"], "--cidr 10.0.2.0/30: a /30 has no room for gateway, DNS and container beside its network and broadcast address; use a /29 or larger")]
#[case(&["run", "--cidr", "127.0.0.0/8"], "--cidr 127.0.0.0/8: covers loopback (127.0.0.0/8) addresses; choose a private range such as 10.0.2.0/24 or fd00::/64")]
#[case(&["run", "--cidr6", "fe80::/64"], "--cidr6 fe80::/64: covers link-local (fe80::/10) addresses; choose a private range such as 10.0.2.0/24 or fd00::/64")]
#[case(&["run", "-p", "80", "-p", "127.0.0.1:80:90"], "--publish 127.0.0.1:80:90/tcp: host port 80/tcp is published already by 80:80/tcp; choose another")]
#[case(&["run", "-p", "1-60000"], "--publish: 120000 ports are asked for, each family counted, and 4096 are the limit; publish fewer")]
#[case(&["run", "--no-ipv6", "-p", "[::1]:80:80"], "--publish [::1]:80:80/tcp: the family of its address is off; give an address of the other, or none for all")]
#[case(&["run", "--dns=::1", "--dns=::2", "--dns=::3", "--dns=::4", "--dns=::5", "--dns=::6", "--dns=::7", "--dns=::8", "--dns=::9"], "--dns: 9 resolvers are asked for and 8 are the limit; name fewer")]
#[case(&["run", "--workers", "17"], "--workers 17: give 1 to 16, or auto")]
#[case(&["run", "--workers", "0"], "--workers 0: give 1 to 16, or auto")]
#[case(&["run", "--dns", "0.0.0.0"], "--dns 0.0.0.0: no resolver can be there; give its address, and its port if not 53")]
#[case(&["run", "--dns", "192.0.2.1:0"], "--dns 192.0.2.1:0: no resolver can be there; give its address, and its port if not 53")]
#[case(&["run", "--ifname", "sixteen-bytes-00"], "--ifname sixteen-bytes-00: 16 bytes are too long for an interface name; use at most 15")]
#[case(&["run", "--ifname", "a/b"], "--ifname a/b: not an interface name; use letters, digits, hyphens or dots, as in tap0")]
#[case(&["run", "--ifname", "tap%d"], "--ifname tap%d: not an interface name; use letters, digits, hyphens or dots, as in tap0")]
#[case(&["run", "--ifname", ".."], "--ifname ..: not an interface name; use letters, digits, hyphens or dots, as in tap0")]
#[case(&["run", "--ifname", "a b"], "--ifname a b: not an interface name; use letters, digits, hyphens or dots, as in tap0")]
#[case(&["run", "--ifname", ""], "--ifname '': not an interface name; use letters, digits, hyphens or dots, as in tap0")]
#[case(&["run", "--hook", "x", "--hook-timeout", "10ms"], "--hook-timeout 10ms: \"10ms\" is out of range; give 100ms to 30d")]
#[case(&["run", "--hook", "x", "--udp-mapping", "endpoint-independent"], "--hook: with --udp-mapping endpoint-independent one exchange is for all peers")]
#[case(&["run", "--hook", "x", "--workers", "2"], "--workers: rules, hooks, audit, rates, impairments and captures are one worker's; leave it out, or give auto")]
#[case(&["attach", "1", "lo"], "TAPNAME lo: this is the loopback interface; choose another name such as tap0")]
#[case(&["attach", "0"], "PID 0: no process has this id; give one in the namespace, or ./NAME for a path")]
#[case(&["attach", "99999999999"], "PID 99999999999: no process has this id; give one in the namespace, or ./NAME for a path")]
fn unusable_value_is_told_in_one_line_that_says_what_to_do(#[case] words: &[&str], #[case] text: &str) {
    assert_refused(words, 1, text);
}

fn assert_refused(words: &[&str], exit_code: u8, beginning: &str) {
    let error = parse(words).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), exit_code, "{text}");
    assert!(text.starts_with(&format!("netferry: {beginning}")), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn help_and_version_are_information() {
    for words in
        [&["--help"][..], &["-h"], &["run", "--help"], &["attach", "-h"], &["help", "run"], &["--version"]]
    {
        let error = parse(words).unwrap_err();
        assert!(matches!(error, CliError::Information(_)), "{words:?}: {error}");
        assert_eq!(error.exit_code(), 0);
    }
}
