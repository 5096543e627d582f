//! Words to plans in the face of slirp4netns.

use std::ffi::OsString;
use std::net::Ipv4Addr;

use netferry::cli::{
    self, Announcement, Attach, AttachTarget, CliError, Collisions, Configuration, Confinement, Mode, Plan,
    Source,
};
use netferry::config::{DhcpPool, Services};
use rstest::rstest;

fn parse(words: &[&str]) -> Result<Plan, CliError> {
    cli::parse(std::iter::once("/usr/bin/slirp4netns").chain(words.iter().copied()).map(OsString::from))
}

fn plan(words: &[&str]) -> Plan {
    parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn attach(words: &[&str]) -> Attach {
    match plan(words).mode {
        Mode::Attach(attach) => attach,
        Mode::Run { .. } => panic!("{words:?} runs a command"),
    }
}

#[test]
fn defaults_are_those_of_the_original() {
    let plan = plan(&["4711"]);
    let ipv4 = plan.link.ipv4.unwrap();
    let address = |last| Ipv4Addr::new(10, 0, 2, last);
    assert_eq!((ipv4.gateway, ipv4.dns, ipv4.container), (address(2), address(3), address(100)));
    assert_eq!((plan.link.ipv6, plan.link.mtu, plan.link.container_mac), (None, 1500, None));
    let dhcp = Some(DhcpPool { first: address(15), last: address(30) });
    assert_eq!(plan.services, Services { dns: true, dhcp, dhcpv6: false });
    assert_eq!(plan.collisions, Collisions::Accept);
    assert_eq!((plan.tap_name.as_str(), plan.host_loopback), ("tap0", true));
    assert_eq!(plan.confinement, Confinement::default());
    let expected = Attach {
        target: AttachTarget::Pid(4711),
        userns: None,
        configuration: Configuration::Others,
        ready_fd: None,
        exit_fd: None,
        ends_with_process: false,
        announcement: Announcement::StandardOutput,
    };
    assert_eq!(attach(&["4711"]), expected);
}

#[test]
fn what_podman_passes_is_understood() {
    let words = "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 3 -r 4 \
                 --api-socket /run/x.net --netns-type=path /run/user/1000/netns/netns-1 tap0";
    let words: Vec<&str> = words.split_whitespace().collect();
    let plan = plan(&words);
    assert!(!plan.host_loopback && plan.services.dhcpv6);
    assert_eq!(plan.confinement, Confinement { sandbox: true, seccomp: true });
    assert_eq!(plan.api_socket, Some("/run/x.net".into()));
    let attach = attach(&words);
    assert_eq!((attach.exit_fd, attach.ready_fd), (Some(3), Some(4)));
    assert_eq!(attach.configuration, Configuration::Ours);
    assert_eq!(attach.target, AttachTarget::Path("/run/user/1000/netns/netns-1".into()));
    // The address that the container would choose by the router advertisement.
    let ipv6 = plan.link.ipv6.unwrap();
    assert_eq!(ipv6.gateway, "fd00::2".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!(ipv6.container.segments()[..4], [0xfd00, 0, 0, 0]);
    assert_eq!((ipv6.container.segments()[5] & 0xff, ipv6.container.segments()[6] >> 8), (0xff, 0xfe));
}

#[rstest]
#[case::joined_short_options(&["-c6m", "9000", "1"])]
#[case::value_in_the_same_word(&["-c", "-6", "-m9000", "1"])]
#[case::abbreviated(&["--conf", "--enable-i", "--mt=9000", "1"])]
#[case::options_behind_the_operands(&["1", "tap0", "-c", "--mtu", "9000", "-6"])]
#[case::the_last_one_counts(&["-m", "1500", "-c", "-c", "--enable-ipv6", "--mtu=9000", "1"])]
fn options_are_taken_as_getopt_long_takes_them(#[case] words: &[&str]) {
    let plan = plan(words);
    assert_eq!((plan.link.mtu, plan.link.ipv6.is_some()), (9000, true));
    assert_eq!(attach(words).configuration, Configuration::Ours);
    assert_eq!(attach(words).target, AttachTarget::Pid(1));
}

#[test]
fn other_targets_are_told_apart() {
    assert_eq!(attach(&["--netns-type=tapfd", "5"]).target, AttachTarget::TapFd(5));
    assert_eq!(attach(&["--target-type=bess", "/tmp/b"]).target, AttachTarget::Bess("/tmp/b".into()));
    assert_eq!(attach(&["--netns-type=path", "123"]).target, AttachTarget::Path("123".into()));
}

#[test]
fn sources_are_addresses_or_interfaces() {
    let sources = plan(&["--outbound-addr=192.0.2.7", "--outbound-addr6", "eth0", "1"]).outbound;
    assert_eq!(sources.ipv4, Some(Source::Address(Ipv4Addr::new(192, 0, 2, 7))));
    assert_eq!(sources.ipv6, Some(Source::Interface("eth0".into())));
}

#[test]
fn another_subnet_moves_every_address_in_it() {
    let plan = plan(&["-c", "--cidr", "192.168.0.0/16", "1"]);
    let ipv4 = plan.link.ipv4.unwrap();
    assert_eq!(ipv4.container, Ipv4Addr::new(192, 168, 0, 100));
    assert_eq!(plan.services.dhcp.unwrap().first, Ipv4Addr::new(192, 168, 0, 15));
    assert_eq!(plan_mtu("65521"), 65_520, "the original's largest is the largest of ours");
}

fn plan_mtu(text: &str) -> u16 {
    plan(&["-m", text, "1"]).link.mtu
}

#[rstest]
#[case(&[], "no PID is given")]
#[case(&["--netns-type=path"], "no PATH is given")]
#[case(&["abc"], "PID abc: not a process; give its number, or add --netns-type=path")]
#[case(&["0"], "PID 0: not a process; give its number, or add --netns-type=path")]
#[case(&["1", "tap0", "more"], "operand more: one too many")]
#[case(&["-m", "70000", "1"], "--mtu 70000: out of range; use 576 to 65520")]
#[case(&["--cidr=10.0.2.0/26", "1"], "--cidr 10.0.2.0/26: prefix length out of range; use 1 to 25")]
#[case(&["--cidr=10.0.2.7/24", "1"], "--cidr 10.0.2.7/24: an address in a subnet; give the subnet itself, 10.0.2.0/24")]
#[case(&["--netns-type=x", "1"], "--netns-type x: unknown; use path, pid or tapfd")]
#[case(&["--target-type=x", "1"], "--target-type x: unknown; use netns or bess")]
#[case(&["--target-type=bess", "-c", "/x"], "--configure is for namespaces, which --target-type=bess has none of")]
#[case(&["--netns-type=tapfd", "-c", "5"], "--configure needs a namespace, and --netns-type=tapfd names none; configure it there")]
#[case(&["--macaddress=02:00:00:00:00:01", "1"], "--macaddress is for --configure; add that")]
#[case(&["-r", "x", "1"], "--ready-fd x: not a descriptor; give the number of an open one, from 0 on")]
#[case(&["--outbound-addr=::1", "1"], "--outbound-addr ::1: neither an address of this family nor the name of an interface")]
#[case(&["--outbound-addr6=192.0.2.1", "1"], "--outbound-addr6 192.0.2.1: neither an address of this family nor the name of an interface")]
#[case(&["--bogus", "1"], "unexpected argument '--bogus' found")]
#[case(&["--en", "1"], "unexpected argument '--en' found")]
fn mistakes_are_told_in_one_line_and_exit_with_1(#[case] words: &[&str], #[case] message: &str) {
    let error = parse(words).unwrap_err();
    assert_eq!(error.to_string(), format!("slirp4netns: {message}; try 'slirp4netns --help'"));
    assert_eq!(error.exit_code(), 1);
}

#[rstest]
#[case::subcommand(&["netferry", "slirp4netns", "4711"])]
#[case::plain_name(&["slirp4netns", "4711"])]
#[case::path(&["/opt/x/slirp4netns", "4711"])]
fn the_face_is_chosen_by_name_or_first_word(#[case] words: &[&str]) {
    let plan = cli::parse(words.iter().map(OsString::from)).unwrap();
    assert_eq!(plan.collisions, Collisions::Accept);
}

#[test]
fn version_has_the_lines_that_clients_look_for() {
    for word in ["-v", "--version"] {
        let error = parse(&[word]).unwrap_err();
        assert_eq!(error.exit_code(), 0);
        let text = error.to_string();
        assert!(text.starts_with("slirp4netns version 1.3.1 (netferry "), "{text}");
        assert!(text.lines().any(|line| line == "SLIRP_CONFIG_VERSION_MAX: 4"), "{text}");
    }
}
