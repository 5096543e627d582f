//! A container that asks for its settings, behind the face of pasta without `--config-net`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::ground::{Ground, PYTHON, SCRATCH, WORLD4, WORLD6, sealed};
use crate::pasta::{eventually, fetch, serve};
use crate::process::Running;
use crate::servers::http;
use crate::slirp4netns::{container, inside};

/// What dhclient calls with the lease in its environment: does with it what an init system would, and tells it.
const SCRIPT: &str = "#!/bin/sh
case $reason in
BOUND)
    ip address add \"$new_ip_address/$new_subnet_mask\" dev $interface
    ip route add default via \"$new_routers\"
    ;;
BOUND6)
    ip address add \"$new_ip6_address/$new_ip6_prefixlen\" dev $interface
    ;;
*)
    exit 0
    ;;
esac
set | grep '^new_' >told
";

/// Waits for a router advertisement, and prints flags, resolvers and domains of it.
const ADVERTISED: &str = "
import socket, struct
link = socket.if_nametoindex(\"host0\")
node = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86dd))
node.bind((\"host0\", 0x86dd))
node.settimeout(10)
while True:
    packet = node.recv(2000)
    if packet[6] == 58 and packet[40] == 134:
        break
said = [\"flags %02x\" % packet[45]]
at = 40 + 16
while at < len(packet):
    code, size = packet[at], packet[at + 1] * 8
    value = packet[at + 8:at + size]
    if code == 25:
        said.append(\"resolver \" + socket.inet_ntop(socket.AF_INET6, value))
    if code == 31:
        names, label = \"search \", 0
        while label < len(value) and value[label]:
            labels = []
            while value[label]:
                labels.append(value[label + 1:label + 1 + value[label]].decode())
                label += 1 + value[label]
            names += \".\".join(labels) + \",\"
            label += 1
        said.append(names)
    at += size
print(\" \".join(said))
";

/// Settings to look for, of no network that the test ground has.
const OFFERS: [&str; 15] = [
    "--no-map-gw",
    "--dns",
    "192.0.2.53",
    "--dns",
    "2001:db8::53",
    "--search",
    "example.org",
    "--search",
    "lan.example",
    "--hostname",
    "box",
    "--fqdn",
    "box.example.org",
    "--dhcp-dns",
    "--dhcp-search",
];

/// Runs dhclient once for one family on `interface`, and returns what it was told.
pub fn dhclient(ground: &Ground, container: &Running, interface: &str, family: &str, asked: &str) -> String {
    ground.needs(&["dhclient"]);
    let place = Path::new(SCRATCH).join(format!("dhclient{family}"));
    fs::create_dir_all(&place).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
    let script = place.join("script");
    fs::write(&script, SCRIPT).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::write(place.join("conf"), format!("request {asked};")).unwrap();
    let place = place.display();
    let command = format!(
        "cd {place}
        touch leases
        timeout 30 dhclient {family} -1 -d -cf conf -sf {place}/script -lf {place}/leases -pf {place}/pid {interface} >log 2>&1 &
        for i in $(seq 150); do [ -s told ] && break; sleep 0.1; done
        kill $!
        cat told || cat log"
    );
    inside(ground, container, &["sh", "-c", &command]).stdout
}

/// Each of `lines` is one of what was told.
#[track_caller]
pub fn expect_lines(told: &str, lines: &[&str]) {
    for line in lines {
        assert!(told.lines().any(|told| told == *line), "no {line:?} in\n{told}");
    }
}

#[test]
fn who_asks_over_dhcp_is_told_the_hosts_address_and_all_that_is_offered() {
    sealed(|ground| {
        let container = container(ground);
        serve(ground, &container, &OFFERS);
        inside(ground, &container, &["ip", "link", "set", "host0", "up"]).expect_success();
        let asked =
            "subnet-mask, routers, domain-name-servers, domain-search, host-name, interface-mtu, fqdn.fqdn";
        let told = dhclient(ground, &container, "host0", "-4", asked);
        expect_lines(
            &told,
            &[
                "new_ip_address='203.0.113.1'",
                "new_subnet_mask='255.255.255.0'",
                "new_routers='203.0.113.2'",
                "new_domain_name_servers='192.0.2.53'",
                "new_domain_search='example.org. lan.example.'",
                "new_host_name='box'",
                "new_interface_mtu='65520'",
            ],
        );
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, WORLD4, 8080).expect_success().expect_stdout("hello 203.0.113.1");
    });
}

#[test]
fn who_asks_over_dhcpv6_is_told_the_same() {
    sealed(|ground| {
        let container = container(ground);
        serve(ground, &container, &OFFERS);
        inside(ground, &container, &["ip", "link", "set", "host0", "up"]).expect_success();
        // dhclient asks from the link-local address.
        eventually("an address of the link", || {
            let shown =
                inside(ground, &container, &["ip", "-6", "-o", "address", "show", "dev", "host0"]).stdout;
            shown.contains("fe80::") && !shown.contains("tentative")
        });
        let asked = "dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn";
        let told = dhclient(ground, &container, "host0", "-6", asked);
        expect_lines(
            &told,
            &[
                "new_ip6_address='2001:db8:1::1'",
                "new_ip6_prefixlen='128'",
                "new_dhcp6_name_servers='2001:db8::53'",
                "new_dhcp6_domain_search='example.org. lan.example.'",
                "new_fqdn_fqdn='box.example.org'",
            ],
        );
        http(ground.world_listener(WORLD6, 8080));
        fetch(ground, &container, WORLD6, 8080).expect_success().expect_stdout("hello 2001:db8:1::1");
    });
}

#[test]
fn a_router_advertisement_names_resolvers_and_domains() {
    sealed(|ground| {
        let container = container(ground);
        serve(ground, &container, &OFFERS);
        let script = format!("{PYTHON} -c '{ADVERTISED}'");
        let told = inside(ground, &container, &["sh", "-c", &format!("ip link set host0 up; {script}")]);
        told.expect_success().expect_stdout("flags c0 resolver 2001:db8::53 search example.org,lan.example,");
    });
}
