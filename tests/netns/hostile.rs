//! A hostile container: its root floods the TAP with frames that lie, while an honest program beside it fetches pages.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::ground::{PYTHON, WORLD4, processes, sealed};
use crate::process::{Stream, start};
use crate::servers::http;

/// Flows, reassembly and the container's own sockets may take this much, however much is sent.
const MOST_RESIDENT_BYTES: u64 = 96 << 20;

/// Frames made of honest ones by lies about length, place, source and kind; every one is sent as it is.
const FLOOD: &str = r#"
import os, random, socket, struct, subprocess, threading, time
SECONDS = 4
link = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
link = [name for name in link if name != "lo"][0]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((link, 3))
mine = raw.getsockname()[4]
gateway = None
while gateway is None:
    subprocess.run(["curl", "-sS", "--max-time", "5", "-o", "/dev/null", "http://203.0.113.2:8080/"])
    for line in open("/proc/net/arp"):
        word = line.split()
        if word[0] == "10.0.2.2" and word[3] != "00:00:00:00:00:00":
            gateway = bytes.fromhex(word[3].replace(":", ""))
own6 = [line.split()[0] for line in open("/proc/net/if_inet6") if line.split()[3] == "00" and link in line][0]
own6 = socket.inet_ntop(10, bytes.fromhex(own6))
chance = random.Random(7)
def total(data):
    data += b"\0" * (len(data) % 2)
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def ip4(payload, proto, source="10.0.2.100", to="203.0.113.9", ihl=5, field=0, ident=0, length=None):
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | ihl, 0, length or 20 + len(payload), ident, field, 64, proto, 0,
                       socket.inet_aton(source), socket.inet_aton(to))
    head = head[:10] + struct.pack("!H", total(head)) + head[12:]
    return gateway + mine + b"\x08\0" + head + payload
def ip6(payload, proto, source=own6, to="2001:db8:1::9", length=None):
    head = struct.pack("!IHBB", 6 << 28, length or len(payload), proto, 64)
    return gateway + mine + b"\x86\xdd" + head + socket.inet_pton(10, source) + socket.inet_pton(10, to) + payload
def udp(length=None):
    body = bytes(chance.randrange(40))
    return struct.pack("!HHHH", chance.randrange(65536), chance.randrange(65536), length or 8 + len(body), 0) + body
def syn(offset=5):
    port = chance.randrange(65536)
    return struct.pack("!HHIIBBHHH", port, chance.randrange(1, 65536), chance.randrange(1 << 32), 0, offset << 4, 2, 65535, 0, 0)
def lie():
    kind = chance.randrange(14)
    spoofed = chance.choice(["10.0.2.2", "10.0.2.3", "127.0.0.1", "203.0.113.5", "224.0.0.1", "255.255.255.255", "0.0.0.0"])
    if kind == 0: return ip4(udp(), 17, source=spoofed)
    if kind == 1: return ip4(udp(), 17, to=spoofed)
    if kind == 2: return ip4(udp(chance.randrange(65536)), 17)
    if kind == 3: return ip4(syn(chance.randrange(16)), 6)
    if kind == 4: return ip4(udp(), 17, ihl=chance.randrange(16))
    if kind == 5: return ip4(udp(), 17, length=chance.randrange(1, 65536))
    if kind == 6: return ip4(bytes(8 * chance.randrange(150)), 17, field=0x2000 | chance.randrange(8192), ident=chance.randrange(65536))
    if kind == 7: return ip4(bytes(1400), 17, field=0x2000, ident=chance.randrange(65536))
    if kind == 8: return ip6(bytes(chance.choice([0, 43, 44, 60, 6]) for _ in range(chance.randrange(200))), chance.choice([0, 43, 44, 60]))
    if kind == 9: return ip6(udp(), 17, source=chance.choice(["::1", "fd00::2", "ff02::1", "2001:db8::1"]))
    if kind == 10: return ip4(bytes([chance.randrange(256)]) + bytes(chance.randrange(60)), 1)
    if kind == 11: return b"\xff" * 6 + mine + b"\x08\x06\0\1\x08\0\6\4\0" + bytes([chance.randrange(4)]) + mine + socket.inet_aton(spoofed) + bytes(6) + socket.inet_aton("10.0.2.2")
    if kind == 12: return gateway + mine + b"\x81\0\0\7" + bytes(chance.randrange(1400))
    return ip4(syn(), 6)[: chance.randrange(14, 54)]
until, sent, refused = time.monotonic() + SECONDS, 0, 0
def flood():
    global sent, refused
    while time.monotonic() < until:
        frame = lie()
        if sent % 7 == 0:
            frame = bytearray(frame)
            frame[chance.randrange(12, len(frame))] ^= 1 << chance.randrange(8)
        try:
            raw.send(frame)
            sent += 1
        except OSError:
            refused += 1
thread = threading.Thread(target=flood)
thread.start()
pages = 0
while time.monotonic() < until:
    page = subprocess.run(["curl", "-sS", "--max-time", "10", "http://203.0.113.2:8080/"], capture_output=True, text=True)
    assert page.stdout == "hello 203.0.113.1\n", page
    pages += 1
thread.join()
print("pages", pages, "frames", sent, "refused by the kernel", refused, flush=True)
assert pages >= 5 and sent > 5000, (pages, sent)
"#;

/// Highest resident memory of the program under test, all of its processes together.
fn peak_bytes() -> u64 {
    let ours = processes().into_iter().filter(|process| process.contains("(netferry)"));
    let peaks = ours.filter_map(|process| {
        let pid = process.split(' ').next()?.to_owned();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    peaks.sum::<u64>() << 10
}

#[test]
fn a_flood_of_lies_neither_ends_the_network_nor_fills_memory_nor_stops_an_honest_program() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        let before = ground.belongings();
        let script = format!("{FLOOD}\nprint('waiting', flush=True)\ntime.sleep(1)");
        let mut running = start(ground.netferry(&["run", "--", PYTHON, "-c", &script]));
        let told = running.wait_for(Stream::Out, "pages ");
        running.wait_for(Stream::Out, "waiting");
        let peak = peak_bytes();
        println!("{told}; {} KiB resident at most", peak >> 10);
        assert!(peak > 0 && peak < MOST_RESIDENT_BYTES, "{peak} bytes");
        let outcome = running.finish(Duration::from_secs(30)).expect_success();
        assert!(!outcome.stderr.contains("fault of netferry's own"), "{outcome}");
        thread::sleep(Duration::from_millis(100));
        ground.assert_nothing_left(&before);
    });
}
