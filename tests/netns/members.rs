//! Containers of a network, seen and ruled one by one and all together, as instances are.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ground::{Ground, HOST4, PYTHON, SCRATCH, WORLD4, bind, cannot_run, sealed};
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::rules::attempt;
use crate::servers::{echo, echo_datagrams, serve_streams};
use crate::slirp4netns::{container, inside};

/// Holds a connection to the world that has carried something, and tells how it ends.
const HOLDER: &str = "\
import socket
s = socket.create_connection(('203.0.113.2', 7)); s.sendall(b'x' * 1000)
got = 0
while got < 1000: got += len(s.recv(1000))
print('up', flush=True)
try: print('ended', s.recv(9), flush=True)
except ConnectionResetError: print('reset', flush=True)
import time; time.sleep(60)
";

/// Greets whoever comes, once he has said something.
const GREETER: &str = "\
import socket
s = socket.create_server(('', 80)); print('up', flush=True)
while True:
    c = s.accept()[0]
    try: c.recv(9); c.sendall(b'hello')
    except OSError: pass
    c.close()
";

fn ask(ground: &Ground, words: &str) -> Outcome {
    run(ground.netferry(&words.split(' ').collect::<Vec<_>>()))
}

fn json(ground: &Ground, words: &str) -> Value {
    let outcome = ask(ground, words).expect_success();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

/// A container on network `lab`.
fn member(ground: &Ground, words: &str) -> Running {
    let container = container(ground);
    ask(ground, &format!("network connect lab {} {words}", container.pid())).expect_success();
    container
}

fn enter(ground: &Ground, container: &Running, program: &[&str]) -> Running {
    let pid = container.pid().to_string();
    let mut command = ground.user("nsenter");
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
    command.stdin(Stdio::piped());
    start(command)
}

fn ping(ground: &Ground, container: &Running, whom: &str, patience: &str) -> Outcome {
    inside(ground, container, &["ping", "-n", "-c", "1", "-W", patience, whom])
}

#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn texts<'a>(list: &'a Value, name: &str) -> Vec<&'a str> {
    list.as_array().expect("a list").iter().filter_map(|one| one[name].as_str()).collect()
}

#[test]
fn containers_of_a_network_are_listed_watched_and_changed_one_by_one() {
    sealed(|ground| {
        ground.needs(&["ping", "tshark"]);
        ground.allow_ping();
        serve_streams(ground.world_listener(WORLD4, 7), echo);
        ask(ground, "network create lab --subnet 172.17.0.0/16 --subnet6 fd00:17::/64").expect_success();
        let quiet = member(ground, "--name db");
        let web = member(ground, "--name web -p 8080:80");
        let mut holder = enter(ground, &web, &[PYTHON, "-c", HOLDER]);
        holder.wait_for(Stream::Out, "up");

        // Who is there.
        let listed = json(ground, "ps --json");
        assert_eq!(texts(&listed, "id"), ["lab", "lab/db", "lab/web"], "{listed:#}");
        let (whole, one) = (&listed[0], &listed[2]);
        assert!(listed.as_array().unwrap().iter().all(|one| one["pid"] == whole["pid"]), "{listed:#}");
        assert_eq!(whole["containers"], serde_json::json!(["db", "web"]));
        assert_eq!((&one["face"], &one["container"]["pid"]), (&"network".into(), &web.pid().into()));
        let namespace = fs::metadata(format!("/proc/{}/ns/net", web.pid())).unwrap().ino();
        assert_eq!(one["container"]["namespace"], namespace, "{listed:#}");
        assert_eq!(one["container"]["addresses"], serde_json::json!(["172.17.0.3", "fd00:17::3"]));
        assert_eq!(
            (&one["flows"], &whole["flows"], &one["published_ports"]),
            (&1.into(), &1.into(), &2.into())
        );
        assert!(one["from_container"]["bytes"].as_u64().unwrap() > 1_000, "{listed:#}");
        let table = ask(ground, "ps").expect_success().stdout;
        assert!(table.lines().count() == 4 && table.contains("lab/web  network"), "{table}");

        // What goes on, of one and of all.
        let of_one = json(ground, "flows --json lab/web tcp");
        assert_eq!(
            (&of_one[0]["state"], &of_one[0]["begun_by"]),
            (&"established".into(), &"container".into())
        );
        assert_eq!(of_one[0]["container"]["remote"], "203.0.113.2:7");
        assert!(of_one[0]["host_tcp"].is_object(), "{of_one:#}");
        assert_eq!(texts(&json(ground, "flows --json lab"), "instance"), ["lab/web"]);
        assert_eq!(json(ground, "flows --json lab/db"), serde_json::json!([]));
        assert!(ask(ground, "flows lab").expect_success().stdout.contains("lab/web  tcp"));
        assert_eq!(json(ground, "top --json lab/web")["status"]["id"], "lab/web");
        let metrics = ask(ground, "metrics lab").expect_success().stdout;
        for text in [
            "netferry_flows{instance_id=\"lab/web\",container=\"web\",protocol=\"tcp\",state=\"established\"} 1",
            "netferry_flows{instance_id=\"lab/db\",container=\"db\",protocol=\"tcp\",state=\"established\"} 0",
        ] {
            assert!(metrics.contains(text), "{text}\n{metrics}");
        }
        assert_eq!(metrics.matches("# TYPE netferry_flows gauge").count(), 1, "{metrics}");
        assert_eq!(metrics.lines().filter(|line| *line == "# EOF").count(), 1, "{metrics}");
        // The same over HTTP, of everybody, and of who has come since.
        let mut page = start(ground.netferry(&["metrics", "--listen", "9100"]));
        page.wait_for(Stream::Err, "metrics are at http://127.0.0.1:9100/metrics");
        let fetch = || {
            let mut curl = ground.user("curl");
            curl.args(["-s", "-H", "Accept: application/openmetrics-text", "http://127.0.0.1:9100/metrics"]);
            run(curl).expect_success().stdout
        };
        let names = |page: &str| {
            let mut found: Vec<_> = page.lines().filter(|line| line.starts_with("netferry_uptime")).collect();
            found.iter_mut().for_each(|line| *line = line.split('"').nth(1).unwrap_or_default());
            found.join(" ")
        };
        let told = fetch();
        assert_eq!(names(&told), "lab/db lab/web", "{told}");
        assert!(
            told.ends_with("# EOF\n") && told.matches("# TYPE netferry_flows gauge").count() == 1,
            "{told}"
        );
        let mut other = start(ground.netferry(&["run", "--", "sh", "-c", "echo up; exec sleep 600"]));
        other.wait_for(Stream::Out, "up");
        let more = fetch();
        assert_eq!(names(&more), format!("{} lab/db lab/web", other.pid()), "{more}");
        other.signal(Signal::SIGTERM);
        other.finish(SOON);
        assert_eq!(names(&fetch()), "lab/db lab/web");
        ask(ground, "metrics --listen 9100").expect_code(1).expect_stderr("9100");
        ask(ground, "metrics --listen nowhere").expect_code(2).expect_stderr("write it as in 9100");
        page.signal(Signal::SIGTERM);
        page.finish(SOON);
        ask(ground, "explain tcp://203.0.113.2:7 lab/db").expect_success().expect_stdout("it leaves");

        // Whom is not meant.
        ask(ground, "flows").expect_code(1).expect_stderr("several instances: lab/db, lab/web; name one");
        ask(ground, "top --json lab").expect_code(1).expect_stderr("several instances: lab/db, lab/web;");
        ask(ground, "flows lab/nobody").expect_code(1).expect_stderr("there is no nobody on network lab");
        ask(ground, "flows none/web").expect_code(1).expect_stderr("there is no network none");

        // What passes, on both sides of the one and not of the other.
        let capture = format!("{SCRATCH}/web.pcapng");
        let watching = start(ground.netferry(&["capture", "lab/web", "icmp", "-w", &capture]));
        eventually("a capture begins", || fs::metadata(&capture).is_ok_and(|file| file.len() > 0));
        for container in [&quiet, &web] {
            ping(ground, container, "203.0.113.2", "20").expect_success();
        }
        watching.signal(Signal::SIGINT);
        watching.finish(SOON).expect_success().expect_stderr("4 packets captured, 0 lost");
        let mut tshark = ground.root("tshark");
        tshark.args(["-n", "-r", &capture, "-T", "fields", "-e", "frame.interface_name", "-e", "ip.src"]);
        let shown = run(tshark).expect_success().stdout;
        for line in
            ["container\t172.17.0.3", "container\t203.0.113.2", "host\t203.0.113.1", "host\t203.0.113.2"]
        {
            assert_eq!(shown.matches(line).count(), 1, "{line}\n{shown}");
        }

        // Between the two as well, the question before its answer, though the one's process writes it to the other's interface.
        let between = format!("{SCRATCH}/between.pcapng");
        let watching = start(ground.netferry(&["capture", "lab/web", "icmp", "-w", &between]));
        eventually("a capture begins", || fs::metadata(&between).is_ok_and(|file| file.len() > 0));
        ping(ground, &quiet, "172.17.0.3", "20").expect_success();
        watching.signal(Signal::SIGINT);
        watching.finish(SOON).expect_success().expect_stderr("2 packets captured, 0 lost");
        let mut tshark = ground.root("tshark");
        tshark.args(["-n", "-r", &between, "-T", "fields", "-e", "frame.interface_name", "-e", "ip.src"]);
        let shown = run(tshark).expect_success().stdout;
        assert_eq!(shown, "container\t172.17.0.2\ncontainer\t172.17.0.3\n");
        let others = json(ground, "ps --json")[2]["others"].clone();
        for way in ["sent_bytes", "received_bytes"] {
            assert!(others[way].as_u64().unwrap() >= 98, "{others:#}");
        }

        // How it goes, for the one and not for the other.
        ask(ground, "impair lab/web loss=100%").expect_success();
        ping(ground, &web, "203.0.113.2", "1").expect_code(1);
        ping(ground, &quiet, "203.0.113.2", "20").expect_success();
        ask(ground, "impair lab/web off").expect_success();
        ping(ground, &web, "203.0.113.2", "20").expect_success();
        ask(ground, "shape lab/web up=10mbit").expect_success();
        ask(ground, "shape lab/web").expect_success().expect_stdout("up=10mbit");
        ask(ground, "shape lab/db").expect_success().expect_stdout("off");
        ask(ground, "flows --kill lab/web tcp").expect_success().expect_stdout("1 ended");
        holder.wait_for(Stream::Out, "reset");
        ask(ground, "network rm --force lab").expect_success();
        assert_eq!(json(ground, "ps --json"), serde_json::json!([]));
    });
}

#[test]
fn rules_of_a_network_hold_for_each_container_on_every_path_and_are_exchanged_for_all() {
    sealed(|ground| {
        ground.needs(&["dig", "ping"]);
        ground.allow_ping();
        ground.world_resolver(WORLD4, "first");
        for port in [7, 8] {
            serve_streams(ground.world_listener(WORLD4, port), echo);
        }
        let rules = format!("{SCRATCH}/lab.toml");
        fs::write(
            &rules,
            "default = \"reject\"\ndefault-in = \"reject\"\ndns = \"listed\"\n\
             [[rule]]\nallow = [\"www.test\"]\nports = [7]\nprotocol = \"tcp\"\n\
             [[rule]]\nallow = [\"203.0.113.2\"]\ndirection = \"in\"\n\
             [[rule]]\nallow = [\"host\"]\nports = [8080]\nprotocol = \"tcp\"\n",
        )
        .unwrap();
        ask(ground, "network create lab --subnet 172.17.0.0/16 --preset nonsense").expect_code(2);
        ask(ground, &format!("network create lab --subnet 172.17.0.0/16 --rules {rules}")).expect_success();
        let client = member(ground, "--name client");
        let web = member(ground, "--name web -p 8080:80");
        let mut greeter = enter(ground, &web, &[PYTHON, "-c", GREETER]);
        greeter.wait_for(Stream::Out, "up");
        let dig = |name: &str| {
            let words = ["dig", "@172.17.0.1", "+time=20", "+tries=1", name, "A"];
            inside(ground, &client, &words).expect_success().stdout
        };
        let greeted = |stream: std::io::Result<TcpStream>| {
            use std::io::Write;
            let mut stream = stream?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.write_all(b"hi")?;
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).map(|_| greeting)
        };

        // By its address alone nobody knows the server's name; other names are not to be asked for, but for those of containers.
        assert_eq!(attempt(ground, &client, &["tcp/203.0.113.2/7/20"]), ["ECONNREFUSED"]);
        assert!(dig("www.test").contains("203.0.113.2"));
        assert!(dig("who.test").contains("status: REFUSED"));
        assert!(dig("web").contains("172.17.0.3"));
        let words = ["tcp/203.0.113.2/7/20", "tcp/203.0.113.2/8/20", "udp/203.0.113.2/7/20"];
        assert_eq!(attempt(ground, &client, &words), ["ok", "ECONNREFUSED", "EHOSTUNREACH"]);
        // What the one has been told of a name the other has not.
        assert_eq!(attempt(ground, &web, &words[..1]), ["ECONNREFUSED"]);
        let refused = ping(ground, &client, "203.0.113.2", "20");
        assert!(refused.stdout.contains("Packet filtered"), "{refused}");
        // On the segment there is no rule between them, and to what is published there is one on either side.
        ping(ground, &client, "172.17.0.3", "20").expect_success();
        assert_eq!(greeted(ground.dial_from_world(HOST4, 8080)).unwrap(), "hello");
        assert_ne!(greeted(TcpStream::connect((HOST4, 8080))).unwrap_or_default(), "hello");
        let hairpin = format!(
            "import socket\ntry: s = socket.create_connection(('{HOST4}', 8080), 20); s.sendall(b'hi'); print('got', s.recv(9))\n\
             except ConnectionError as error: print('got', error)"
        );
        let outcome = inside(ground, &client, &[PYTHON, "-c", &hairpin]).expect_success();
        assert!(outcome.stdout.contains("got") && !outcome.stdout.contains("hello"), "{outcome}");
        let told = json(ground, "rules --json lab");
        assert_eq!(texts(&told, "instance"), ["lab/client", "lab/web"]);
        let flows = |of: usize, rule: usize| told[of]["rules"][rule]["flows"].as_u64().unwrap();
        assert_eq!((flows(0, 0), flows(0, 2), flows(1, 0), flows(1, 1)), (1, 1, 0, 1), "{told:#}");
        assert!(told[1]["standing"][1]["flows"].as_u64().unwrap() >= 2, "{told:#}");
        let table = ask(ground, "rules -v lab").expect_success().stdout;
        assert!(table.contains("lab/client:\n") && table.contains("lab/web:\n"), "{table}");
        ask(ground, "explain tcp://203.0.113.2:8 lab/client")
            .expect_code(1)
            .expect_stdout("it goes no further");

        // Others for all who are there, and for who comes.
        fs::write(&rules, "[[rule]]\nreject = [\"203.0.113.2\"]\nports = [7]\n").unwrap();
        let reloaded = ask(ground, &format!("rules reload --rejudge {rules} lab")).expect_success();
        reloaded.expect_stdout("1 rules are in force");
        let audit = format!("{SCRATCH}/newcomer.audit");
        let newcomer = member(
            ground,
            &format!("--name newcomer --audit {audit} --allow 203.0.113.2:7/tcp --reject 203.0.113.2:8/tcp"),
        );
        let both = ["tcp/203.0.113.2/7/20", "tcp/203.0.113.2/8/20"];
        for container in [&client, &web] {
            assert_eq!(attempt(ground, container, &both), ["ECONNREFUSED", "ok"]);
        }
        // It has some of its own, which do not undo those of the network, and are kept.
        assert_eq!(attempt(ground, &newcomer, &both), ["ECONNREFUSED", "ECONNREFUSED"]);
        fs::write(&rules, "").unwrap();
        ask(ground, &format!("rules reload {rules} lab")).expect_success();
        assert_eq!(attempt(ground, &client, &both), ["ok", "ok"]);
        assert_eq!(attempt(ground, &newcomer, &both), ["ok", "ECONNREFUSED"]);
        assert_eq!(greeted(TcpStream::connect((HOST4, 8080))).unwrap(), "hello");
        // And for one of them.
        fs::write(&rules, "default = \"reject\"\n").unwrap();
        ask(ground, &format!("rules reload {rules} lab/newcomer")).expect_success();
        assert_eq!(attempt(ground, &newcomer, &["tcp/203.0.113.2/8/20"]), ["ECONNREFUSED"]);
        assert_eq!(attempt(ground, &client, &["tcp/203.0.113.2/8/20"]), ["ok"]);
        fs::write(&rules, "nonsense = 1\n").unwrap();
        ask(ground, &format!("rules reload {rules} lab")).expect_code(1);
        // Where it went is written down, and in the end how often.
        ask(ground, "network disconnect lab newcomer").expect_success();
        let written = fs::read_to_string(&audit).unwrap();
        assert!(
            written.lines().any(|line| line.contains("\"new\"") && line.contains("203.0.113.2")),
            "{written}"
        );
        assert!(
            written.lines().any(|line| line.contains("\"total\"") && line.contains("203.0.113.2")),
            "{written}"
        );
        ask(ground, &format!("audit suggest {audit}")).expect_success().expect_stdout("203.0.113.2");
        ask(ground, "network rm --force lab").expect_success();
    });
}

#[test]
fn datagrams_of_a_networks_containers_leave_from_the_address_that_the_host_has_now() {
    sealed(|ground| {
        echo_datagrams(ground.world_datagrams(WORLD4, 7), true);
        ask(ground, "network create lab --subnet 172.17.0.0/16").expect_success();
        let web = member(ground, "--name web");
        let script = "import socket, sys\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('203.0.113.2', 7)); s.settimeout(0.5)\n\
             for line in sys.stdin:\n \
             for n in range(40):\n  \
             try: s.send(b'whence'); print(s.recv(99).decode().strip(), flush=True); break\n  \
             except OSError: pass\n";
        let mut asker = enter(ground, &web, &[PYTHON, "-c", script]);
        asker.say("");
        asker.wait_for(Stream::Out, "from 203.0.113.1:");
        for words in [
            "address del 203.0.113.1/24 dev host0",
            "address add 203.0.113.9/24 dev host0",
            "route replace default via 203.0.113.2",
        ] {
            ground.text_of("ip", &words.split(' ').collect::<Vec<_>>());
        }
        asker.say("");
        asker.wait_for(Stream::Out, "from 203.0.113.9:");
        ask(ground, "network rm --force lab").expect_success();
    });
}

/// The debug build, which faults where its environment says.
const FAULTY: &str = "/mnt/faulty";

#[test]
fn a_fault_costs_a_connection_or_at_most_its_container_and_never_the_network() {
    sealed(|ground| {
        if !cfg!(debug_assertions) {
            cannot_run("faults on demand are compiled out of release builds: test a debug build");
        }
        fs::File::create(FAULTY).expect("private directory");
        bind(Path::new(env!("CARGO_BIN_EXE_netferry")), Path::new(FAULTY));
        serve_streams(ground.world_listener(WORLD4, 7), echo);
        let mut create: Command = ground.user(FAULTY);
        create.args(["network", "create", "lab", "--subnet", "172.17.0.0/16"]);
        create.env("NETFERRY_FAULT", "strike").env("NETFERRY_FATAL_FAULT", "strike the driver");
        run(create).expect_success();
        let (struck, other) = (member(ground, "--name struck -p 8080:80"), member(ground, "--name other"));
        let mut holders: Vec<_> =
            [&struck, &other].map(|one| enter(ground, one, &[PYTHON, "-c", HOLDER])).into_iter().collect();
        holders.iter_mut().for_each(|holder| {
            holder.wait_for(Stream::Out, "up");
        });
        // A connection.
        let strike = "import socket\ns = socket.create_connection(('203.0.113.2', 7), 20)\n\
             try: s.sendall(b'strike me'); print('got', s.recv(9))\n\
             except ConnectionResetError: print('reset')";
        inside(ground, &struck, &[PYTHON, "-c", strike]).expect_success().expect_stdout("reset");
        assert_eq!(json(ground, "flows --json lab tcp").as_array().unwrap().len(), 2);
        assert_eq!(json(ground, "ps --json")[0]["lost_by_faults"], 0);
        // All of a container.
        let strike = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.sendto(b'strike the driver', ('203.0.113.2', 9))";
        inside(ground, &struck, &[PYTHON, "-c", strike]).expect_success();
        eventually("the container has left", || {
            texts(&json(ground, "ps --json"), "id") == ["lab", "lab/other"]
        });
        assert_eq!(json(ground, "ps --json")[0]["lost_by_faults"], 1);
        assert_eq!(
            texts(&json(ground, "flows --json lab"), "instance"),
            ["lab/other"],
            "the other has its connection"
        );
        assert_eq!(attempt(ground, &other, &["tcp/203.0.113.2/7/20"]), ["ok"]);
        // Its name, its address and its ports are another's now.
        let heir = member(ground, "--name struck --ip 172.17.0.2 -p 8080:80");
        assert_eq!(attempt(ground, &heir, &["tcp/203.0.113.2/7/20"]), ["ok"]);
        assert_eq!(texts(&json(ground, "ps --json"), "id"), ["lab", "lab/other", "lab/struck"]);
        ask(ground, "network rm --force lab").expect_success();
    });
}
