//! The program itself: what goes to which stream, and its exit status, where nothing is set up.

use assert_cmd::Command;
use rstest::rstest;

/// Status, standard output and standard error.
fn netferry(words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_netferry")).args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[rstest]
#[case(&["--help"], "netferry attach 4711")]
#[case(&["run", "--help"], "netferry run -p 8080:80 python3 -m http.server 80")]
#[case(&["run", "--help"], "Usage: netferry run [OPTIONS] [--] [CMD [ARG]...]")]
#[case(&["attach", "--help"], "Usage: netferry attach [OPTIONS] <PID|PATH> [TAPNAME]")]
#[case(&["attach", "-h"], "netferry attach $!")]
fn help_with_examples_goes_to_standard_output(#[case] words: &[&str], #[case] contained: &str) {
    let (status, stdout, stderr) = netferry(words);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains(contained), "{stdout}");
}

#[test]
fn version_goes_to_standard_output() {
    let expected = format!("netferry {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(netferry(&["--version"]), (Some(0), expected.clone(), String::new()));
    assert_eq!(netferry(&["-V"]), (Some(0), expected, String::new()));
}

/// Each of them needs all flows in one place.
#[rstest]
#[case(&["--deny", "any:25/tcp"])]
#[case(&["--preset", "no-lan"])]
#[case(&["--limit", "10mbit"])]
#[case(&["--impair", "loss=1%"])]
#[case(&["--pcap", "/nonexistent/x.pcapng"])]
#[case(&["--audit", "/nonexistent/x"])]
#[case(&["--audit-enforce", "/nonexistent/x"])]
fn what_several_workers_cannot_do_is_refused_in_one_line_that_says_what_to_do(#[case] words: &[&str]) {
    let (status, stdout, stderr) = netferry(&[&["run", "--workers", "2"], words, &["true"]].concat());
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("netferry: --workers: ") && stderr.contains("leave it out"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[rstest]
#[case(&["run", "--frobnicate"], 2)]
#[case(&[], 2)]
#[case(&["attach"], 2)]
#[case(&["run", "--mtu", "99", "true"], 1)]
#[case(&["run", "--cidr", "10.0.2.0/30", "true"], 1)]
fn refusal_is_one_line_on_standard_error(#[case] words: &[&str], #[case] expected: i32) {
    let (status, stdout, stderr) = netferry(words);
    assert_eq!((status, stdout.as_str()), (Some(expected), ""));
    assert!(stderr.starts_with("netferry: ") && stderr.ends_with('\n'), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
