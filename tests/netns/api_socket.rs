//! Ports published while the network is up, as podman and RootlessKit ask for them.

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ground::{Ground, HOST4, HOST6, PYTHON, SCRATCH, WORLD4, sealed};
use crate::process::{Running, Stream, run, start};
use crate::servers::http;
use crate::slirp4netns::{container, inside, serve};

fn socket() -> PathBuf {
    Path::new(SCRATCH).join("api.sock")
}

fn api(ground: &Ground, container: &Running, options: &[&str]) -> Running {
    let (path, pid) = (socket(), container.pid().to_string());
    serve(ground, &[&["-c", "-6", "--api-socket", path.to_str().unwrap()], options, &[&pid]].concat())
}

fn connect() -> UnixStream {
    let stream = UnixStream::connect(socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// One request as podman makes it: a newline, half-close, and the answer from one read.
fn ask(request: &str) -> String {
    let mut stream = connect();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut room = vec![0; 1 << 16];
    let len = stream.read(&mut room).unwrap();
    String::from_utf8(room[..len].to_vec()).unwrap()
}

fn add(arguments: &str) -> String {
    ask(&format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#))
}

fn id_of(reply: &str) -> &str {
    let id = reply.strip_prefix(r#"{"return":{"id":"#).and_then(|rest| rest.strip_suffix("}}"));
    id.unwrap_or_else(|| panic!("{reply} is no id"))
}

/// A server in the container that tells each client its address, by TCP or UDP.
fn tell_client(ground: &Ground, container: &Running, kind: &str, port: u16) -> Running {
    let script = format!(
        "import socket\n\
         s = socket.socket(socket.AF_INET6, socket.SOCK_{kind}); s.setsockopt(41, 26, 0); s.bind(('::', {port}))\n\
         if '{kind}' == 'STREAM': s.listen()\n\
         print('up', flush=True)\n\
         while True:\n\
         \tif '{kind}' == 'STREAM': c, a = s.accept(); c.sendall(f'{{a[0]}} {{a[1]}}'.encode()); c.close()\n\
         \telse: d, a = s.recvfrom(99); s.sendto(f'{{a[0]}} {{a[1]}}'.encode(), a)"
    );
    let pid = container.pid().to_string();
    let mut command = ground.user("nsenter");
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", &script]);
    let mut server = start(command);
    server.wait_for(Stream::Out, "up");
    server
}

/// What the server of [`tell_client`] says to a client in the world, and who the client is.
fn seen_and_own(ground: &Ground, port: u16) -> (String, String) {
    let mut stream = ground.dial_from_world(HOST4, port).unwrap();
    let own = stream.local_addr().unwrap();
    let mut seen = String::new();
    stream.read_to_string(&mut seen).unwrap();
    (seen.replace("::ffff:", ""), format!("{} {}", own.ip(), own.port()))
}

#[test]
fn ports_come_and_go_and_show_the_true_client() {
    sealed(|ground| {
        let container = container(ground);
        let _relay = api(ground, &container, &[]);
        let (_tcp, _udp) =
            (tell_client(ground, &container, "STREAM", 80), tell_client(ground, &container, "DGRAM", 53));
        assert_eq!(ask(r#"{"execute":"list_hostfwd"}"#), r#"{"entries":[],"return":{"entries":[]}}"#);
        let tcp =
            add(r#""proto":"tcp","host_addr":"0.0.0.0","host_port":18080,"guest_addr":"","guest_port":80"#);
        let udp = add(
            r#""proto":"udp","host_addr":"0.0.0.0","host_port":15353,"guest_addr":"10.0.2.100","guest_port":53"#,
        );
        assert_ne!(id_of(&tcp), id_of(&udp));
        let (seen, own) = seen_and_own(ground, 18080);
        assert_eq!(seen, own, "the server sees another client");
        let client = ground.in_world(|| UdpSocket::bind((WORLD4, 0)).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"who", (HOST4, 15353)).unwrap();
        let mut room = [0; 99];
        let (len, server) = client.recv_from(&mut room).unwrap();
        let own = client.local_addr().unwrap();
        let seen = String::from_utf8_lossy(&room[..len]).replace("::ffff:", "");
        assert_eq!((seen, server.ip()), (format!("{} {}", own.ip(), own.port()), HOST4.into()));
        let listed = ask(r#"{"execute":"list_hostfwd"}"#);
        for part in [
            r#""host_port":18080"#,
            r#""host_port":15353"#,
            r#""guest_addr":"10.0.2.100""#,
            r#""proto":"udp""#,
        ] {
            assert!(listed.contains(part), "no {part} in {listed}");
        }
        let remove = format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{}}}}}"#, id_of(&tcp));
        assert_eq!(ask(&remove), r#"{"return":{}}"#);
        assert!(ask(&remove).contains("remove_hostfwd: bad arguments.id"));
        assert!(ground.dial_from_world(HOST4, 18080).is_err(), "the port is still open");
        // It can be had again.
        id_of(&add(r#""proto":"tcp","host_port":18080,"guest_port":80"#));
        assert_eq!(seen_and_own(ground, 18080).0.split(' ').next(), Some(&*WORLD4.to_string()));
    });
}

#[test]
fn ports_of_ipv6_and_ranges_are_published_too() {
    sealed(|ground| {
        let container = container(ground);
        let _relay = api(ground, &container, &["--enable-sandbox", "--enable-seccomp"]);
        let _servers = [80, 81, 82].map(|port| tell_client(ground, &container, "STREAM", port));
        id_of(&add(r#""proto":"tcp","host_addr":"::","host_port":18080,"guest_port":80"#));
        let mut stream = ground.dial_from_world(HOST6, 18080).unwrap();
        let own = stream.local_addr().unwrap();
        let mut seen = String::new();
        stream.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, format!("{} {}", own.ip(), own.port()));
        let range = add(r#""proto":"tcp","host_port":19080,"host_port_end":19082,"guest_port":80"#);
        assert!(range.contains(r#""ids":["#), "{range}");
        for port in 19080..=19082 {
            let (seen, own) = seen_and_own(ground, port);
            assert_eq!(seen, own);
        }
    });
}

#[test]
fn what_cannot_be_is_told_and_changes_nothing() {
    sealed(|ground| {
        let container = container(ground);
        let _relay = api(ground, &container, &[]);
        let taken = std::net::TcpListener::bind("0.0.0.0:18081").unwrap();
        for (arguments, reason) in [
            (
                r#""proto":"tcp","host_port":18081,"guest_port":80"#,
                "slirp_add_hostfwd failed: cannot publish",
            ),
            (r#""proto":"tcp","host_port":80,"guest_port":80"#, "need privilege"),
            (
                r#""proto":"tcp","host_addr":"198.51.100.200","host_port":18082,"guest_port":80"#,
                "has no address",
            ),
            (
                r#""proto":"tcp","host_port":18082,"guest_addr":"192.168.7.7","guest_port":80"#,
                "cannot have that address",
            ),
            (r#""proto":"tcp","host_port":18080,"host_port_end":18081,"guest_port":80"#, "in use"),
            (r#""proto":"gre","host_port":18082,"guest_port":80"#, "bad arguments.proto"),
        ] {
            let reply = add(arguments);
            assert!(reply.starts_with(r#"{"error":{"desc":"bad request: add_hostfwd: "#), "{reply}");
            assert!(reply.contains(reason), "no {reason:?} in {reply}");
        }
        drop(taken);
        assert_eq!(ask(r#"{"execute":"list_hostfwd"}"#), r#"{"entries":[],"return":{"entries":[]}}"#);
    });
}

#[test]
fn connections_outlive_their_port_and_json_alone_is_a_request() {
    sealed(|ground| {
        let container = container(ground);
        let _relay = api(ground, &container, &["--enable-sandbox", "--enable-seccomp"]);
        let script = "import socket\n\
             s = socket.socket(); s.bind(('', 80)); s.listen(); print('up', flush=True); c, a = s.accept()\n\
             while d := c.recv(99): c.sendall(d)";
        let pid = container.pid().to_string();
        let mut command = ground.user("nsenter");
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", script]);
        let mut server = start(command);
        server.wait_for(Stream::Out, "up");
        let id = add(r#""proto":"tcp","host_port":18080,"guest_port":80"#);
        let mut stream = ground.dial_from_world(HOST4, 18080).unwrap();
        let mut echoed = |word: &[u8; 5]| {
            let mut room = [0; 5];
            stream.write_all(word).unwrap();
            stream.read_exact(&mut room).unwrap();
            assert_eq!(&room, word);
        };
        echoed(b"first");
        // Neither a newline nor a half-close: the original answers to that as well.
        let mut client = connect();
        let request = format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{}}}}}"#, id_of(&id));
        let begun = Instant::now();
        client.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, r#"{"return":{}}"#);
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        assert!(ground.dial_from_world(HOST4, 18080).is_err(), "the port is still open");
        echoed(b"later");
    });
}

#[test]
fn client_that_found_no_descriptor_left_is_answered_once_there_is_one() {
    sealed(|ground| {
        ground.needs(&["prlimit"]);
        let container = container(ground);
        let relay = api(ground, &container, &[]);
        let pid = relay.pid().to_string();
        let limit = |descriptors: usize| {
            let mut command = ground.user("prlimit");
            command.args(["--pid", &pid, &format!("--nofile={descriptors}:")]);
            run(command).expect_success();
        };
        let mut open: Vec<usize> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        open.sort_unstable();
        let lowest_free = (0..).find(|number| open.binary_search(number).is_err()).unwrap();
        limit(lowest_free);
        let mut client = connect();
        client.write_all(br#"{"execute":"list_hostfwd"}"#).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut room = [0; 99];
        let error = client.read(&mut room).expect_err("there was a descriptor");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        limit(1_000);
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let len = client.read(&mut room).expect("it is let in without another client's coming");
        assert!(room[..len].starts_with(br#"{"entries""#));
    });
}

#[test]
fn bad_clients_never_stop_traffic() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        let container = container(ground);
        let _relay = api(ground, &container, &["--enable-sandbox", "--enable-seccomp"]);
        http(ground.world_listener(WORLD4, 8080));
        let idle: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
        let mut slow = connect();
        slow.write_all(b"{\"execute\":").unwrap();
        let mut large = connect();
        let _ = large.write_all(&vec![b'x'; 100_000]);
        let mut endless = connect();
        std::thread::spawn(move || while endless.write_all(&[b' '; 1 << 16]).is_ok() {});
        for garbage in ["", "nonsense", "[[[[[[", "{}", "\0\0\0"] {
            assert!(ask(garbage).starts_with(r#"{"error":{"desc":"bad request: "#));
        }
        let begun = Instant::now();
        let url = format!("http://{WORLD4}:8080/");
        inside(ground, &container, &["curl", "-sS", "--max-time", "5", &url])
            .expect_success()
            .expect_stdout("hello ");
        assert_eq!(ask(r#"{"execute":"list_hostfwd"}"#), r#"{"entries":[],"return":{"entries":[]}}"#);
        assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
        // Whoever is still there is told, and let go.
        let mut last = String::new();
        { idle.last().unwrap() }.read_to_string(&mut last).unwrap();
        assert!(last.starts_with(r#"{"error""#), "{last:?}");
    });
}
