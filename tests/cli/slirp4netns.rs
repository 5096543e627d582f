//! The face of slirp4netns: words to plans, and what its starters read.

use std::ffi::OsString;
use std::path::PathBuf;

use assert_cmd::Command;
use netferry::cli::{
    self, Announcement, Attach, AttachTarget, CliError, Collisions, Configuration, Confinement, Lifetime,
    Mode, OutboundSources, Plan, Source,
};
use netferry::config::address::{DEFAULT_MTU, MAX_MTU};
use netferry::config::{DhcpPool, Services};
use rstest::rstest;

fn parse(words: &[&str]) -> Result<Plan, CliError> {
    let program = std::iter::once("/usr/bin/slirp4netns");
    cli::parse(program.chain(words.iter().copied()).map(OsString::from))
}

fn plan(words: &[&str]) -> Plan {
    parse(words).unwrap()
}

fn attach(words: &[&str]) -> Attach {
    match plan(words).mode {
        Mode::Attach(attach) => attach,
        Mode::Run { .. } => panic!("{words:?} runs a command"),
    }
}

/// The options of one start of podman 4.3 beside the namespace, which is given in several ways.
const PODMAN: [&str; 10] = [
    "--disable-host-loopback",
    "--mtu=65520",
    "--enable-sandbox",
    "--enable-seccomp",
    "--enable-ipv6",
    "-c",
    "-e",
    "3",
    "-r",
    "4",
];

#[test]
fn defaults_are_those_of_the_original() {
    let plan = plan(&["4711", "tap0"]);
    let ipv4 = plan.link.ipv4.unwrap();
    assert_eq!(ipv4.subnet.to_string(), "10.0.2.0/24");
    assert_eq!(
        [ipv4.gateway, ipv4.dns.unwrap(), ipv4.container].map(|address| address.to_string()),
        ["10.0.2.2", "10.0.2.3", "10.0.2.100"]
    );
    assert_eq!((plan.link.ipv6, plan.link.mtu, plan.link.container_mac), (None, DEFAULT_MTU, None));
    assert_eq!(plan.collisions, Collisions::Accept);
    assert!(plan.host_loopback);
    let pool = DhcpPool { first: "10.0.2.15".parse().unwrap(), last: "10.0.2.30".parse().unwrap() };
    assert_eq!(plan.services, Services { dns: true, dhcp: Some(pool), dhcpv6: false, ..Services::default() });
    assert_eq!(plan.outbound, OutboundSources::default());
    assert_eq!(
        (plan.api_socket, plan.confinement),
        (None, Confinement::OfFace { sandbox: false, filter: false })
    );
    let expected = Attach {
        target: AttachTarget::Pid(4711),
        userns: None,
        configuration: Configuration::Others,
        ready_fd: None,
        exit_fd: None,
        lifetime: Lifetime::UntilTold,
        announcement: Announcement::StandardOutput,
    };
    assert_eq!(plan.mode, Mode::Attach(expected));
}

#[test]
fn podman_is_understood() {
    let words = [&PODMAN[..], &["--api-socket", "/run/a.net", "--netns-type=path", "/run/netns/a", "tap0"]];
    let plan = plan(&words.concat());
    assert!(!plan.host_loopback);
    assert_eq!(plan.link.mtu, 65_520);
    assert_eq!(plan.confinement, Confinement::OfFace { sandbox: true, filter: true });
    assert_eq!(plan.api_socket, Some(PathBuf::from("/run/a.net")));
    assert!(plan.services.dhcpv6);
    let ipv6 = plan.link.ipv6.unwrap();
    assert_eq!(
        (ipv6.prefix.to_string(), ipv6.gateway.to_string(), ipv6.dns.unwrap().to_string()),
        ("fd00::/64".into(), "fd00::2".into(), "fd00::3".into())
    );
    let attach = attach(&words.concat());
    assert_eq!(attach.target, AttachTarget::Path("/run/netns/a".into()));
    assert_eq!(attach.configuration, Configuration::Ours);
    assert_eq!((attach.exit_fd, attach.ready_fd), (Some(3), Some(4)));
}

#[test]
fn rootlesskit_is_understood() {
    let words = ["--mtu", "65520", "-r", "3", "--userns-path=/proc/7/ns/user", "--netns-type", "path"];
    let attach = attach(&[&words[..], &["/proc/7/root/netns", "tap0"]].concat());
    assert_eq!(attach.target, AttachTarget::Path("/proc/7/root/netns".into()));
    assert_eq!(attach.userns, Some("/proc/7/ns/user".into()));
    assert_eq!(attach.configuration, Configuration::Others);
}

/// As getopt_long(3) takes them.
#[rstest]
#[case::long(&["--mtu", "1400", "--configure", "--enable-ipv6", "7"])]
#[case::equals_sign(&["--mtu=1400", "--configure", "--enable-ipv6", "7"])]
#[case::abbreviated(&["--mt=1400", "--conf", "--enable-ip", "7"])]
#[case::short(&["-m", "1400", "-c", "-6", "7"])]
#[case::short_and_value_in_one_word(&["-m1400", "-c", "-6", "7"])]
#[case::cluster(&["-c6m", "1400", "7"])]
#[case::cluster_and_value_in_one_word(&["-6cm1400", "7"])]
#[case::among_the_operands(&["7", "--mtu", "1400", "tap0", "-c", "-6"])]
#[case::last_one_counts(&["-m", "1300", "-c", "-c", "-6", "--mtu", "9000", "--mtu=1400", "7"])]
#[case::after_two_hyphens(&["-c6", "-m", "1400", "--", "7", "tap0"])]
fn options_are_taken_in_every_form(#[case] words: &[&str]) {
    let plan = plan(words);
    assert_eq!(plan.link.mtu, 1_400, "{words:?}");
    assert!(plan.link.ipv6.is_some(), "{words:?}");
    assert_eq!(plan.tap_name, "tap0");
    let attach = attach(words);
    assert_eq!((attach.target, attach.configuration), (AttachTarget::Pid(7), Configuration::Ours));
}

#[test]
fn exact_name_of_an_option_is_no_abbreviation_of_a_longer_one() {
    let outbound = plan(&["--outbound-addr", "192.0.2.1", "--outbound-addr6", "eth0", "7"]).outbound;
    assert_eq!(outbound.ipv4, Some(Source::Address("192.0.2.1".parse().unwrap())));
    assert_eq!(outbound.ipv6, Some(Source::Interface("eth0".into())));
}

#[rstest]
#[case(&["--netns-type=pid", "7", "eth0"], AttachTarget::Pid(7))]
#[case(&["--netns-type=path", "7", "eth0"], AttachTarget::Path("7".into()))]
#[case(&["--netns-type=tapfd", "7"], AttachTarget::TapFd(7))]
#[case(&["--target-type=bess", "/tmp/bess.sock"], AttachTarget::Bess("/tmp/bess.sock".into()))]
#[case(&["--target-type=netns", "7"], AttachTarget::Pid(7))]
fn operand_is_what_the_types_say(#[case] words: &[&str], #[case] expected: AttachTarget) {
    assert_eq!(attach(words).target, expected);
}

#[rstest]
#[case("10.0.3.0/24", ["10.0.3.2", "10.0.3.3", "10.0.3.100", "10.0.3.15", "10.0.3.30"])]
#[case("10.9.0.0/16", ["10.9.0.2", "10.9.0.3", "10.9.0.100", "10.9.0.15", "10.9.0.30"])]
#[case("10.0.2.128/25", ["10.0.2.130", "10.0.2.131", "10.0.2.228", "10.0.2.143", "10.0.2.158"])]
#[case("10.0.0.0/7", ["10.0.0.2", "10.0.0.3", "10.0.0.100", "10.0.0.15", "10.0.0.30"])]
fn addresses_follow_from_the_network(#[case] cidr: &str, #[case] expected: [&str; 5]) {
    let plan = plan(&["--cidr", cidr, "7"]);
    let (ipv4, pool) = (plan.link.ipv4.unwrap(), plan.services.dhcp.unwrap());
    let found = [ipv4.gateway, ipv4.dns.unwrap(), ipv4.container, pool.first, pool.last];
    assert_eq!(found.map(|address| address.to_string()), expected);
}

#[test]
fn ethernet_address_makes_the_ipv6_address() {
    let plan = plan(&["-c6", "--macaddress", "02:11:22:33:44:55", "7"]);
    assert_eq!(plan.link.container_mac, Some("02:11:22:33:44:55".parse().unwrap()));
    assert_eq!(plan.link.ipv6.unwrap().container.to_string(), "fd00::11:22ff:fe33:4455");
}

#[test]
fn ipv6_is_left_out_where_the_mtu_forbids_it() {
    // podman asks for IPv6 whatever its user has said about the MTU.
    let plan = plan(&["-c6", "--mtu", "1279", "7"]);
    assert_eq!((plan.link.mtu, plan.link.ipv6, plan.services.dhcpv6), (1_279, None, false));
}

#[test]
fn largest_mtu_of_the_original_is_our_largest() {
    assert_eq!(plan(&["--mtu=65521", "7"]).link.mtu, MAX_MTU);
}

#[test]
fn dns_can_be_left_out() {
    assert!(!plan(&["--disable-dns", "7"]).services.dns);
}

/// The words make no sense: one line on standard error, the help on standard output, status 1.
#[rstest]
#[case(&[], "slirp4netns: no PID is given")]
#[case(&["--netns-type=path"], "slirp4netns: no PATH is given")]
#[case(&["--foo", "7"], "slirp4netns: unexpected argument '--foo' found")]
#[case(&["--enable", "7"], "slirp4netns: unexpected argument '--enable' found")]
#[case(&["-x", "7"], "slirp4netns: unexpected argument '-x' found")]
#[case(&["7", "tap0", "tap1"], "slirp4netns: operand tap1: one too many")]
#[case(&["/proc/7/ns/net"], "slirp4netns: PID /proc/7/ns/net: not a process; give its number, or add --netns-type=path")]
#[case(&["0"], "slirp4netns: PID 0: not a process")]
#[case(&["--netns-type=tapfd", "tap0"], "slirp4netns: TAPFD tap0: not a descriptor")]
#[case(&["--netns-type=file", "7"], "slirp4netns: --netns-type file: unknown; use path, pid or tapfd")]
#[case(&["--target-type=uml", "7"], "slirp4netns: --target-type uml: unknown; use netns or bess")]
#[case(&["--target-type=bess", "-c", "/tmp/s"], "slirp4netns: --configure is for namespaces")]
#[case(&["--target-type=bess", "--netns-type=pid", "/tmp/s"], "slirp4netns: --netns-type is for namespaces")]
#[case(&["--target-type=bess", "--userns-path=/u", "/tmp/s"], "slirp4netns: --userns-path is for namespaces")]
#[case(&["--netns-type=tapfd", "-c", "7"], "slirp4netns: --configure needs a namespace")]
#[case(&["-r", "three", "7"], "slirp4netns: --ready-fd three: not a descriptor")]
#[case(&["-e", "", "7"], "slirp4netns: --exit-fd '': not a descriptor")]
#[case(&["--mtu", "big", "7"], "slirp4netns: --mtu big: not a number of bytes")]
#[case(&["--cidr", "foo", "7"], "slirp4netns: --cidr foo: not an IPv4 subnet")]
#[case(&["--macaddress", "02:11:22:33:44:55", "7"], "slirp4netns: --macaddress is for --configure; add that")]
#[case(&["--outbound-addr", "2001:db8::1", "7"], "slirp4netns: --outbound-addr 2001:db8::1: an address of the other family")]
#[case(&["--outbound-addr6", "192.0.2.1", "7"], "slirp4netns: --outbound-addr6 192.0.2.1: an address of the other family")]
#[case(&["--outbound-addr", "eth0/1", "7"], "slirp4netns: --outbound-addr eth0/1: neither an address nor the name of an interface")]
fn mistake_is_told_with_the_help(#[case] words: &[&str], #[case] beginning: &str) {
    let error = parse(words).unwrap_err();
    let line = error.standard_error().unwrap();
    assert!(line.starts_with(beginning) && !line.contains('\n'), "{line}");
    assert!(error.standard_output().unwrap().contains("--netns-type"));
    assert_eq!(error.exit_code(), 1);
}

/// The words make sense, but what they ask for cannot be: one line on standard error, status 1.
#[rstest]
#[case(&["--mtu", "575", "7"], "netferry: --mtu 575: out of range; use 576 to 65520")]
#[case(&["--mtu", "65522", "7"], "netferry: --mtu 65522: out of range; use 576 to 65520")]
#[case(&["--cidr", "10.0.2.5/24", "7"], "netferry: --cidr 10.0.2.5/24: an address in a subnet; give the subnet itself, 10.0.2.0/24")]
#[case(&["--cidr", "10.0.2.0/26", "7"], "netferry: --cidr 10.0.2.0/26: prefix length out of range; use 1 to 25")]
#[case(&["--cidr", "0.0.0.0/0", "7"], "netferry: --cidr 0.0.0.0/0: covers unspecified")]
#[case(&["--cidr", "127.0.0.0/24", "7"], "netferry: --cidr 127.0.0.0/24: covers loopback")]
#[case(&["7", "sixteen-bytes-00"], "netferry: TAPNAME sixteen-bytes-00: 16 bytes are too long")]
fn what_cannot_be_is_told_in_one_line(#[case] words: &[&str], #[case] beginning: &str) {
    let error = parse(words).unwrap_err();
    let line = error.standard_error().unwrap();
    assert!(line.starts_with(beginning) && !line.contains('\n'), "{line}");
    assert_eq!((error.standard_output(), error.exit_code()), (None, 1));
}

/// Status, standard output and standard error.
fn program(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_netferry")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_names_every_option_that_is_looked_for() {
    let (status, stdout, stderr) = program(&["slirp4netns", "--help"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    for option in [
        "--disable-host-loopback",
        "--mtu",
        "--enable-sandbox",
        "--enable-seccomp",
        "--cidr",
        "--outbound-addr",
        "--enable-ipv6",
        "--netns-type",
        "--api-socket",
    ] {
        // nerdctl looks for the whole word.
        assert!(stdout.split_whitespace().any(|word| word == option), "{option} in\n{stdout}");
    }
}

#[test]
fn version_has_the_lines_that_are_read() {
    let (status, stdout, stderr) = program(&["slirp4netns", "-v"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let mut lines = stdout.lines();
    assert!(lines.next().unwrap().starts_with("slirp4netns version 1.3."), "{stdout}");
    // Docker splits each line at "version" and takes the last it finds.
    assert!(lines.all(|line| !line.contains("version")), "{stdout}");
    for begin in ["commit: ", "libslirp: ", "SLIRP_CONFIG_VERSION_MAX: 4", "libseccomp: "] {
        assert!(stdout.lines().any(|line| line.starts_with(begin)), "{begin} in\n{stdout}");
    }
}

#[test]
fn streams_and_status_of_a_mistake_are_those_of_the_original() {
    let (status, stdout, stderr) = program(&["slirp4netns", "--frobnicate"]);
    assert_eq!(status, Some(1));
    assert!(stdout.contains("--configure"), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let (status, stdout, stderr) = program(&["slirp4netns", "--cidr=10.0.2.0/30", "1"]);
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn face_is_chosen_by_the_name_of_the_program_whatever_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("slirp4netns");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_netferry"), &link).unwrap();
    let output = Command::new(&link).arg("--version").output().unwrap();
    assert!(output.stdout.starts_with(b"slirp4netns version "));
    let error = cli::parse(["slirp4netns-not".into(), "--cidr".into()]).unwrap_err();
    assert_eq!(error.exit_code(), 2, "only the whole name counts");
}
