//! Networks as those find them who manage containers: how one comes, configures itself, publishes, leaves, and what several
//! ask for at once. What passes between containers is `bridge.rs`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::bridge::{contained, create, eventually, inspect, is_bound, members, network};
use crate::ground::{Ground, HOST4, WORLD4, WORLD6, processes, sealed};
use crate::pasta::fetch;
use crate::pasta_dhcp::{dhclient, expect_lines};
use crate::pattern::{Crc32, fill};
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::servers::http;
use crate::slirp4netns::{container, inside};

fn links(ground: &Ground, container: &Running) -> String {
    inside(ground, container, &["ip", "-brief", "link"]).expect_success().stdout
}

fn ask(ground: &Ground, words: &str) -> Outcome {
    run(network(ground, words))
}

#[test]
fn a_container_comes_by_pid_or_path_and_what_it_had_is_another_ones_when_it_has_left() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        let wants =
            "--subnet 172.17.0.0/24 --gateway 172.17.0.254 --subnet6 fd00:17::/64 --gateway6 fd00:17::fe";
        create(ground, &format!("lab {wants}"));
        let by_path = container(ground);
        let path = format!("/proc/{}/ns/net", by_path.pid());
        let had = "--name first --alias www --ip 172.17.0.1 --ip6 fd00:17::1 -p 8080:7000";
        ask(ground, &format!("connect lab {path} {had}")).expect_success();
        let script = "ip route; ip -brief address show eth0; ping -c 1 -W 10 172.17.0.254; ping -c 1 -W 10 fd00:17::fe";
        let shown = inside(ground, &by_path, &["sh", "-ec", script]).expect_success();
        for text in ["default via 172.17.0.254 dev eth0", "172.17.0.1/24", "fd00:17::1/64"] {
            assert!(shown.stdout.contains(text), "no {text:?}\n{shown}");
        }

        let by_pid = container(ground);
        let pid = by_pid.pid();
        for (wants, said) in [
            ("--ip 172.17.0.1", "is the address of first"),
            ("--ip6 fd00:17::1", "is the address of first"),
            ("--ip 172.17.0.254", "is the address of the gateway"),
            ("--ip 172.17.1.1", "is not in 172.17.0.0/24"),
            ("--name first", "first is on network lab already"),
            ("-p 8080:1", "the port is in use on the host"),
        ] {
            ask(ground, &format!("connect lab {pid} {wants}")).expect_code(1).expect_stderr(said);
            eventually("nothing is left of it", || !links(ground, &by_pid).contains("eth0"));
        }
        assert_eq!(members(&inspect(ground, "lab")), ["first"]);
        ask(ground, "rm lab").expect_code(1).expect_stderr("has 1 container; disconnect it first");

        // Who has been told that it is gone may have what it had.
        ask(ground, "disconnect lab first").expect_success();
        assert!(!is_bound(8080) && !links(ground, &by_path).contains("eth0"));
        ask(ground, &format!("connect lab {pid} {had}")).expect_success();
        assert!(is_bound(8080));
        by_pid.signal(Signal::SIGKILL);
        eventually("it leaves with its process", || members(&inspect(ground, "lab")).is_empty());
        assert!(!is_bound(8080));

        ask(ground, &format!("connect lab {path} {had}")).expect_success();
        drop(by_path);
        eventually("it leaves with its namespace", || members(&inspect(ground, "lab")).is_empty());
        assert!(!is_bound(8080));
        ask(ground, "rm lab").expect_success();
        eventually("all have ended", || processes().iter().all(|line| !line.contains("netferry")));
        assert_eq!(left_behind(ground), [".lock"]);
    });
}

/// What is in the directory of networks.
fn left_behind(ground: &Ground) -> Vec<String> {
    let user = ground.user("id").arg("-u").output().expect("it starts");
    let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
    let place = Path::new("/tmp").join(format!("netferry-{user}")).join("networks");
    let entries = std::fs::read_dir(place).expect("it is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn who_configures_itself_is_leased_what_it_was_given_and_makes_itself_an_address_of_the_prefix() {
    sealed(|ground| {
        create(ground, "lab --subnet 172.17.0.0/16 --subnet6 fd00:17::/64");
        let container = container(ground);
        let wants = format!("connect lab {} --name self --ip 172.17.0.77", container.pid());
        ask(ground, &wants).expect_success();
        let script = "ip link set eth0 down; ip address flush dev eth0; ip link set eth0 up; ip route";
        let shown = inside(ground, &container, &["sh", "-ec", script]).expect_success();
        assert!(!shown.stdout.contains("default"), "{shown}");
        let asked = "subnet-mask, routers, domain-name-servers, host-name, interface-mtu";
        let told = dhclient(ground, &container, "eth0", "-4", asked);
        expect_lines(
            &told,
            &[
                "new_ip_address='172.17.0.77'",
                "new_subnet_mask='255.255.0.0'",
                "new_routers='172.17.0.1'",
                "new_domain_name_servers='172.17.0.1'",
                "new_host_name='self'",
                "new_interface_mtu='1500'",
            ],
        );
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, WORLD4, 8080).expect_success().expect_stdout("hello 203.0.113.1");

        // RFC 4291 appendix A, of 02:42:ac:11:00:4d.
        let made = "fd00:17::42:acff:fe11:4d/64";
        eventually("an address of the advertised prefix", || {
            let shown = inside(ground, &container, &["ip", "-6", "-brief", "address", "show", "dev", "eth0"]);
            shown.stdout.contains(made) && !shown.stdout.contains("fd00:17::2/")
        });
        http(ground.world_listener(WORLD6, 8080));
        fetch(ground, &container, WORLD6, 8080).expect_success().expect_stdout("hello 2001:db8:1::1");
        ask(ground, "rm --force lab").expect_success();
    });
}

/// Takes any number of streams, and tells each what came of it.
const CHECK: &str = "
import zlib
def check(stream):
    crc = size = 0
    while part := stream.recv(1 << 18):
        crc = zlib.crc32(part, crc); size += len(part)
    stream.sendall(b'%d %08x' % (size, crc))
    stream.close()
listener = socket.create_server(('', 7000))
print('listening')
while True:
    stream, _ = listener.accept()
    threading.Thread(target=check, args=(stream,), daemon=True).start()
";

/// Sends to a published port until it is told to stop, and sees that all of it has arrived.
fn send(port: u16, sent: &AtomicU64, stop: &AtomicBool) {
    let mut stream = TcpStream::connect((HOST4, port)).expect("it is published");
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (mut block, mut crc) = (vec![0; 1 << 18], Crc32::new());
    while !stop.load(Ordering::Relaxed) {
        let so_far = sent.load(Ordering::Relaxed);
        fill(&mut block, so_far);
        crc.update(&block);
        stream.write_all(&block).expect("nothing disturbs it");
        sent.store(so_far + block.len() as u64, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write).expect("nothing disturbs it");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("nothing disturbs it");
    assert_eq!(told, format!("{} {:08x}", sent.load(Ordering::Relaxed), crc.value()));
}

#[test]
fn ports_are_published_and_unpublished_beside_a_transfer_that_came_by_one_of_them() {
    sealed(|ground| {
        create(ground, "lab --subnet 172.17.0.0/16");
        let mut server = contained(ground, "lab", "--name web -p 8080:7000", CHECK);
        server.wait_for(Stream::Out, "listening");
        let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let transfer = scope.spawn(|| send(8080, &sent, &stop));
            let goes_on = || {
                let goal = sent.load(Ordering::Relaxed) + (8 << 20);
                eventually("the transfer goes on", || {
                    sent.load(Ordering::Relaxed) >= goal || transfer.is_finished()
                });
            };
            goes_on();
            for _ in 0..3 {
                ask(ground, "publish lab web 8081-8083:7000-7002 9000:7000").expect_success();
                for port in [8081, 9000] {
                    send(port, &AtomicU64::new(0), &AtomicBool::new(true));
                }
                goes_on();
                ask(ground, "unpublish lab web 8081-8083:7000-7002 9000:7000").expect_success();
                assert!((8081..=8083).chain([9000]).all(|port| !is_bound(port)));
            }
            // All or none: the second is taken.
            let refused = ask(ground, "publish lab web 8084:7000 8080:7000").expect_code(1);
            refused.expect_stderr("8080");
            assert!(!is_bound(8084));
            // The very port that it came by.
            ask(ground, "unpublish lab web 8080:7000").expect_success();
            assert!(!is_bound(8080));
            goes_on();
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(inspect(ground, "lab")["members"][0]["ports"].as_array().map(Vec::len), Some(0));
        ask(ground, "rm --force lab").expect_success();
    });
}

#[test]
fn what_several_ask_for_at_once_each_gets_or_is_told_that_another_was_faster() {
    sealed(|ground| {
        let all_of = |commands: Vec<String>| -> Vec<Outcome> {
            let running: Vec<Running> = commands.iter().map(|words| start(network(ground, words))).collect();
            running.into_iter().map(|one| one.finish(SOON * 2)).collect()
        };
        // One name: one makes it.
        let outcomes = all_of(vec!["create same".to_owned(); 4]);
        let (made, told): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(|outcome| outcome.status.success());
        assert_eq!(made.len(), 1);
        for outcome in told {
            outcome.expect_code(1).expect_stderr("there is a network same already");
        }
        // Several names: each has a subnet of its own.
        let names = ["a", "b", "c"];
        for outcome in all_of(names.iter().map(|name| format!("create {name}")).collect()) {
            outcome.expect_success();
        }
        let subnets: BTreeSet<String> =
            names.iter().chain(&["same"]).map(|name| inspect(ground, name)["subnet"].to_string()).collect();
        assert_eq!(subnets.len(), 4, "{subnets:?}");
        for outcome in all_of(names.iter().chain(&["same"]).map(|name| format!("rm {name}")).collect()) {
            outcome.expect_success();
        }
        // A network that nobody has made: one makes it, all are on it, and it ends with the last.
        let script = "print('here'); time.sleep(60)";
        let mut guests: Vec<Running> = (0..4).map(|_| contained(ground, "fresh", "", script)).collect();
        guests.iter_mut().for_each(|guest| drop(guest.wait_for(Stream::Out, "here")));
        let status = inspect(ground, "fresh");
        let list = status["members"].as_array().expect("a list");
        let addresses: BTreeSet<String> = list.iter().map(|member| member["ipv4"].to_string()).collect();
        assert_eq!(addresses.len(), 4, "{status:#}");
        drop(guests);
        eventually("it has ended", || processes().iter().all(|line| !line.contains("netferry")));
        // One that ends with its last container is there for the next all the same, however soon that comes.
        for _ in 0..10 {
            let guest = start(ground.netferry(&["run", "--network", "fresh", "--", "true"]));
            guest.finish(SOON).expect_success();
        }
    });
}
