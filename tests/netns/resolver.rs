//! DNS through the forwarder, asked by dig and by the C library.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::dns::BIG_TEXT_BYTES;
use crate::ground::{FAR4, Ground, WORLD4, WORLD6, sealed};
use crate::process::{Outcome, Stream, run, start};

const DIG: &[&str] = &["dig", "+short", "+time=8", "+tries=1"];

fn dig(ground: &Ground, question: &[&str]) -> Outcome {
    ground.needs(&["dig"]);
    run(ground.netferry(&[&["run", "--"], DIG, question].concat()))
}

#[test]
fn dig_asks_over_udp() {
    sealed(|ground| {
        ground.world_resolver(WORLD4, "first");
        assert_eq!(dig(ground, &["@10.0.2.3", "www.test", "A"]).expect_success().stdout, "203.0.113.2\n");
        assert_eq!(dig(ground, &["www.test", "AAAA"]).expect_success().stdout, "2001:db8:1::2\n");
    });
}

#[test]
fn dig_asks_over_tcp() {
    sealed(|ground| {
        ground.world_resolver(WORLD4, "first");
        let answer = dig(ground, &["@10.0.2.3", "+tcp", "www.test", "A"]);
        assert_eq!(answer.expect_success().stdout, "203.0.113.2\n");
    });
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    sealed(|ground| {
        ground.world_resolver(WORLD4, "first");
        let answer = dig(ground, &["big.test", "TXT"]).expect_success();
        assert_eq!(answer.stdout.matches('x').count(), BIG_TEXT_BYTES, "{answer}");
    });
}

#[test]
fn a_name_that_does_not_exist_stays_so() {
    sealed(|ground| {
        ground.needs(&["dig"]);
        ground.world_resolver(WORLD4, "first");
        let arguments = ["run", "--", "dig", "+time=8", "+tries=1", "nothing.test"];
        run(ground.netferry(&arguments)).expect_success().expect_stdout("status: NXDOMAIN");
    });
}

#[test]
fn the_resolver_has_an_ipv6_twin() {
    sealed(|ground| {
        ground.needs(&["dig"]);
        ground.world_resolver(WORLD4, "first");
        let script = "resolver=$(sed -n 's/^nameserver \\(.*:.*\\)/\\1/p' /etc/resolv.conf | head -1); \
                      test -n \"$resolver\" || resolver=$(ip -6 -o address show dev tap0 scope global | \
                      sed -n 's,.* inet6 \\([^/ ]*\\)::[^/]*/64.*,\\1::3,p'); \
                      dig +short +time=8 +tries=1 @$resolver www.test A";
        let answer = run(ground.netferry(&["run", "--", "sh", "-c", script]));
        assert_eq!(answer.expect_success().stdout, "203.0.113.2\n");
    });
}

#[test]
fn a_resolver_of_the_host_may_have_an_ipv6_address() {
    sealed(|ground| {
        ground.set_resolvers(&[WORLD6.into()]);
        ground.world_resolver(WORLD6, "sixth");
        assert_eq!(dig(ground, &["who.test", "TXT"]).expect_success().stdout, "\"sixth\"\n");
    });
}

#[test]
fn a_resolver_on_the_loopback_of_the_host_is_asked_all_the_same() {
    sealed(|ground| {
        // As systemd-resolved has it.
        ground.set_resolvers(&[IpAddr::from([127, 0, 0, 53])]);
        let socket = std::net::UdpSocket::bind("127.0.0.53:53").unwrap();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, client)) = socket.recv_from(&mut query) {
                let answer = crate::dns::answer(&query[..len], "local", crate::dns::Transport::Datagram);
                let _ = socket.send_to(&answer.unwrap_or_default(), client);
            }
        });
        assert_eq!(dig(ground, &["who.test", "TXT"]).expect_success().stdout, "\"local\"\n");
    });
}

#[test]
fn a_resolver_that_refuses_is_passed_over() {
    sealed(|ground| {
        // Nothing listens on port 53 of the first.
        ground.set_resolvers(&[WORLD4.into(), FAR4.into()]);
        ground.world_resolver(FAR4, "second");
        assert_eq!(dig(ground, &["who.test", "TXT"]).expect_success().stdout, "\"second\"\n");
        assert_eq!(dig(ground, &["+tcp", "who.test", "TXT"]).expect_success().stdout, "\"second\"\n");
    });
}

#[test]
fn a_resolver_that_stays_silent_is_passed_over() {
    sealed(|ground| {
        let silent = ground.world_datagrams(WORLD4, 53);
        ground.set_resolvers(&[WORLD4.into(), FAR4.into()]);
        let queries = ground.world_resolver(FAR4, "second");
        assert_eq!(dig(ground, &["who.test", "TXT"]).expect_success().stdout, "\"second\"\n");
        assert!(queries.load(Ordering::SeqCst) >= 1);
        drop(silent);
    });
}

#[test]
fn the_dns_option_overrides_the_resolvers_of_the_host() {
    sealed(|ground| {
        ground.needs(&["dig"]);
        ground.world_resolver(WORLD4, "first");
        ground.world_resolver(FAR4, "second");
        let far = FAR4.to_string();
        let command = [&["run", "--dns", &far, "--"], DIG, &["who.test", "TXT"]].concat();
        assert_eq!(run(ground.netferry(&command)).expect_success().stdout, "\"second\"\n");
    });
}

fn follows_a_change(ground: &Ground, change: impl FnOnce(&Ground)) {
    ground.needs(&["dig"]);
    ground.world_resolver(WORLD4, "first");
    ground.world_resolver(FAR4, "second");
    let ask = format!("{} who.test TXT", DIG.join(" "));
    let script = format!("while :; do {ask}; sleep 0.1; done");
    let mut asking = start(ground.netferry(&["run", "--", "sh", "-c", &script]));
    asking.wait_for(Stream::Out, "\"first\"");
    let changed = Instant::now();
    change(ground);
    asking.wait_for(Stream::Out, "\"second\"");
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
}

#[test]
fn resolvers_written_over_in_place_are_asked_from_then_on() {
    sealed(|ground| follows_a_change(ground, |ground| ground.set_resolvers(&[FAR4.into()])));
}

#[test]
fn resolvers_replaced_by_renaming_are_asked_from_then_on() {
    sealed(|ground| {
        ground.make_etc_private();
        // The very first file has to be one that can be replaced.
        ground.replace_resolvers(&[WORLD4.into()]);
        follows_a_change(ground, |ground| ground.replace_resolvers(&[FAR4.into()]));
    });
}

#[test]
fn the_child_finds_our_resolver_in_its_resolv_conf_and_the_host_keeps_its_own() {
    sealed(|ground| {
        let before = std::fs::read_to_string("/etc/resolv.conf").unwrap();
        let inside = run(ground.netferry(&["run", "--", "cat", "/etc/resolv.conf"])).expect_success();
        let first = inside.stdout.lines().find(|line| line.starts_with("nameserver"));
        assert_eq!(first, Some("nameserver 10.0.2.3"), "{inside}");
        assert!(!inside.stdout.contains("203.0.113.2"), "the host's resolver bypasses ours\n{inside}");
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), before);
    });
}

#[test]
fn a_resolv_conf_that_is_a_link_is_covered_too() {
    sealed(|ground| {
        ground.make_etc_private();
        std::fs::write("/etc/elsewhere.conf", "nameserver 203.0.113.2\n").unwrap();
        // The mount over the file of the machine is gone in the copy.
        let _ = std::fs::remove_file("/etc/resolv.conf");
        std::os::unix::fs::symlink("elsewhere.conf", "/etc/resolv.conf").unwrap();
        let inside = run(ground.netferry(&["run", "--", "cat", "/etc/resolv.conf"])).expect_success();
        assert!(inside.stdout.contains("nameserver 10.0.2.3"), "{inside}");
    });
}
