//! Many containers on one network: what each takes, and that those who come and go do not disturb those who stay.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::bridge::{create, daemon, eventually, inspect, members, network};
use crate::ground::{Ground, HOST4, PYTHON, SCRATCH, processes, sealed};
use crate::process::{Running, SOON, Stream, run, start};

const CONTAINERS: u16 = 100;
const PORTS: u16 = 10;
/// Every so many containers one answers at its ports.
const SAMPLE: u16 = 10;
/// How many commands are given at a time.
const HANDS: usize = 4;
/// How many leave and come back.
const COMINGS: u16 = 40;

/// What a container may take of the process of its network, its ten ports included, whoever built that.
const MOST_BYTES: u64 = 640 << 10;
/// A port is two, one for each family.
const MOST_DESCRIPTORS: u64 = 2 * PORTS as u64 + 8;

/// Says who it is at each of ten ports.
const ANSWER: &str = "
import selectors, socket, sys
ears = selectors.DefaultSelector()
for port in range(7000, 7010): ears.register(socket.create_server(('', port)), selectors.EVENT_READ)
print('listening', flush=True)
while True:
    for key, _ in ears.select():
        stream, _ = key.fileobj.accept()
        stream.sendall(sys.argv[1].encode())
        stream.close()
";

/// Sends to the other of the two, over and over until it is told to stop, and compares what comes back.
const EXCHANGE: &str = "
import hashlib, os, socket, sys, threading, time
block = hashlib.shake_256(b'netferry').digest(1 << 20)
def reflect(stream):
    while part := stream.recv(1 << 18): stream.sendall(part)
    stream.close()
if sys.argv[1] == 'serve':
    listener = socket.create_server(('', 6000))
    print('listening', flush=True)
    while True: threading.Thread(target=reflect, args=(listener.accept()[0],), daemon=True).start()
rounds = 0
while not os.path.exists(sys.argv[2]):
    stream = socket.create_connection((sys.argv[1], 6000), timeout=20)
    threading.Thread(target=lambda: (stream.sendall(block), stream.shutdown(socket.SHUT_WR)), daemon=True).start()
    came = b''
    while part := stream.recv(1 << 18): came += part
    assert came == block, 'what came back is not what was sent'
    rounds += 1
    if rounds == 1: print('under way', flush=True)
    time.sleep(0.005)
print('whole', rounds, flush=True)
";

/// A namespace, and the process that keeps it.
struct Place(Child);

impl Place {
    fn new(ground: &Ground) -> Place {
        let mut command = ground.user("unshare");
        command.args(["--user", "--map-root-user", "--net", "sleep", "1000"]).stdout(Stdio::null());
        Place(command.spawn().expect("unshare starts"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn is_made(&self) -> bool {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid()));
        name.is_ok_and(|name| name.trim_end() == "sleep")
    }

    fn python(&self, ground: &Ground, script: &str, arguments: &[&str]) -> Running {
        let pid = self.pid().to_string();
        let mut command = ground.user("nsenter");
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", script]);
        command.args(arguments);
        start(command)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn first_port(number: u16) -> u16 {
    20_000 + number * PORTS
}

fn connect(ground: &Ground, place: &Place, number: u16) -> Command {
    let (pid, first) = (place.pid(), first_port(number));
    let ports = format!("-p {first}-{}:7000-{}", first + PORTS - 1, 7_000 + PORTS - 1);
    network(ground, &format!("connect lab {pid} --name n{number} --ip 172.17.1.{} {ports}", number + 1))
}

/// What a published port says.
fn says(port: u16) -> String {
    let mut stream = TcpStream::connect((HOST4, port)).unwrap_or_else(|error| panic!("{port}: {error}"));
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut said = String::new();
    // Who does not listen resets it.
    let _ = stream.read_to_string(&mut said);
    said
}

fn resident_bytes(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("proc(5)") * 4_096
}

fn descriptors(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64
}

#[test]
fn a_hundred_containers_with_a_thousand_ports_come_and_go_and_do_not_disturb_each_other() {
    sealed(|ground| {
        create(ground, "lab --subnet 172.17.0.0/16 --subnet6 fd00:17::/64");
        let daemon = daemon();
        let (bytes, open) = (resident_bytes(daemon), descriptors(daemon));
        let places: Vec<Place> = (0..CONTAINERS).map(|_| Place::new(ground)).collect();
        eventually("all namespaces are there", || places.iter().all(Place::is_made));
        let began = Instant::now();
        several_at_a_time(&places, 0, |number, place| {
            run(connect(ground, place, number)).expect_success();
        });
        let took = began.elapsed();
        let each = (resident_bytes(daemon) - bytes) / u64::from(CONTAINERS);
        let opened = (descriptors(daemon) - open) / u64::from(CONTAINERS);
        println!("figures: {took:.1?} for {CONTAINERS}, {} KiB and {opened} descriptors each", each >> 10);
        assert!(each <= MOST_BYTES, "each takes {each} bytes");
        assert!(opened <= MOST_DESCRIPTORS, "each takes {opened} descriptors");

        let sample: Vec<u16> = (0..CONTAINERS).step_by(usize::from(SAMPLE)).collect();
        let mut servers: Vec<Running> = Vec::new();
        for number in &sample {
            let name = format!("n{number}");
            servers.push(places[usize::from(*number)].python(ground, ANSWER, &[&name]));
        }
        servers.iter_mut().for_each(|server| drop(server.wait_for(Stream::Out, "listening")));
        for number in 0..CONTAINERS {
            let said = if sample.contains(&number) { format!("n{number}") } else { String::new() };
            for port in first_port(number)..first_port(number) + PORTS {
                assert_eq!(says(port), said, "at {port}");
            }
        }

        come_and_go(ground, &places);
        // Who has come back answers at what it had.
        for number in sample {
            assert_eq!(says(first_port(number)), format!("n{number}"));
        }
        let present = members(&inspect(ground, "lab"));
        assert_eq!(present.len(), usize::from(CONTAINERS), "{present:?}");
        let left = (resident_bytes(daemon) - bytes) / u64::from(CONTAINERS);
        assert!(left <= MOST_BYTES * 3 / 2, "comings and goings have left {left} bytes for each");
        run(network(ground, "rm --force lab")).expect_success();
        assert!(TcpListener::bind((HOST4, first_port(0))).is_ok());
        eventually("all have ended", || processes().iter().all(|line| !line.contains("netferry")));
    });
}

/// Deals with each place by its number, of which `first` is the first: most of it is waiting for the kernel.
fn several_at_a_time(places: &[Place], first: u16, deal: impl Fn(u16, &Place) + Sync) {
    let numbered: Vec<(u16, &Place)> = (first..).zip(places).collect();
    let deal = &deal;
    std::thread::scope(|scope| {
        for hand in numbered.chunks(numbered.len().div_ceil(HANDS)) {
            scope.spawn(move || hand.iter().for_each(|(number, place)| deal(*number, place)));
        }
    });
}

/// Others leave and come back while two exchange what is compared byte by byte.
fn come_and_go(ground: &Ground, places: &[Place]) {
    let [stays, other, others @ ..] = places else { panic!("there are more") };
    let stop = format!("{SCRATCH}/stop");
    let mut server = stays.python(ground, EXCHANGE, &["serve", &stop]);
    server.wait_for(Stream::Out, "listening");
    let mut client = other.python(ground, EXCHANGE, &["172.17.1.1", &stop]);
    client.wait_for(Stream::Out, "under way");
    let began = Instant::now();
    several_at_a_time(&others[..COMINGS.into()], 2, |number, place| {
        run(network(ground, &format!("disconnect lab n{number}"))).expect_success();
        assert!(TcpStream::connect((HOST4, first_port(number))).is_err(), "n{number} has left");
        run(connect(ground, place, number)).expect_success();
    });
    let rate = f64::from(COMINGS) / began.elapsed().as_secs_f64();
    fs::File::create(&stop).and_then(|mut file| file.write_all(b"stop")).expect("scratch");
    let exchanged = client.finish(SOON).expect_success().expect_stdout("whole").stdout;
    println!("figures: {rate:.0} a second left and came back beside {}", exchanged.replace('\n', " "));
}
