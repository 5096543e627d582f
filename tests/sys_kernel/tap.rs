//! The TAP device: what it is opened with, and how its opening fails.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netferry::sys::descriptor::{receive_descriptor, send_descriptor};
use netferry::sys::id_map::IdMapping;
use netferry::sys::mounts::{make_private, show_own_sysfs};
use netferry::sys::netlink::Netlink;
use netferry::sys::tap::{Tap, TapError, TapFeatures};
use nix::sched::{CloneFlags, unshare};

use crate::Case;
use crate::container::{Container, contained, output_of};

pub const CASES: &[Case] = &[
    ("tap_has_every_offload_of_this_kernel", every_offload),
    ("tap_does_without_what_is_not_wanted", without_what_is_not_wanted),
    ("tap_carries_frames_with_and_without_a_header", carries_frames),
    ("tap_is_usable_by_a_process_outside_of_its_namespace", used_from_outside),
    ("tap_goes_away_with_its_descriptor", goes_away),
    ("tap_takes_over_a_persistent_device", persistent_device),
    ("tap_name_in_use_is_refused", name_in_use),
    ("tap_name_of_another_kind_of_interface_is_refused", name_of_another_kind),
    ("tap_without_rights_over_the_namespace_is_refused", without_rights),
];

/// UDP segmentation came with Linux 6.2.
fn expected_of_this_kernel() -> TapFeatures {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    TapFeatures { uso: version >= (6, 2), ..TapFeatures::ALL }
}

fn every_offload() {
    contained(|| {
        make_private().unwrap();
        assert!(show_own_sysfs());
        let tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        assert_eq!(tap.name(), "tap0");
        assert_eq!(tap.features(), expected_of_this_kernel());
        // IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, as the device itself has them.
        let flags = std::fs::read_to_string("/sys/class/net/tap0/tun_flags").unwrap();
        assert_eq!(flags.trim(), "0x5002");
    });
}

fn without_what_is_not_wanted() {
    contained(|| {
        make_private().unwrap();
        assert!(show_own_sysfs());
        let checksum_only = TapFeatures { tso4: false, tso6: false, uso: false, ..TapFeatures::ALL };
        let cases = [
            (
                TapFeatures { uso: false, ..TapFeatures::ALL },
                TapFeatures { uso: false, ..TapFeatures::ALL },
                "0x5002",
            ),
            (checksum_only, checksum_only, "0x5002"),
            // No offload is possible without checksums.
            (
                TapFeatures { checksum: false, ..TapFeatures::ALL },
                TapFeatures { vnet_header: true, ..TapFeatures::NONE },
                "0x5002",
            ),
            (TapFeatures { vnet_header: false, ..TapFeatures::ALL }, TapFeatures::NONE, "0x1002"),
            (TapFeatures::NONE, TapFeatures::NONE, "0x1002"),
        ];
        for (number, (wanted, expected, expected_flags)) in cases.into_iter().enumerate() {
            let name = format!("tap{number}");
            let tap = Tap::open(&name, wanted).unwrap();
            assert_eq!(tap.features(), expected, "{wanted:?}");
            let flags = std::fs::read_to_string(format!("/sys/class/net/{name}/tun_flags")).unwrap();
            assert_eq!(flags.trim(), expected_flags, "{wanted:?}");
        }
    });
}

fn carries_frames() {
    contained(|| {
        for (name, features) in [("tap0", TapFeatures::ALL), ("tap1", TapFeatures::NONE)] {
            let tap = Tap::open(name, features).unwrap();
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.link_index(name).unwrap();
            let mac = [0x02, 0, 0, 0, 0, 0x64];
            netlink.set_mac(index, mac).unwrap();
            netlink.add_address(index, "10.0.2.100".parse().unwrap(), 24, false).unwrap();
            netlink.set_up(index).unwrap();
            let header_len = if tap.features().vnet_header { 10 } else { 0 };
            let written = [vec![0; header_len], arp_request([10, 0, 2, 2], [10, 0, 2, 100])].concat();
            assert_eq!(tap.write(&written).unwrap(), written.len());
            let reply = read_where(&tap, |frame| is_arp_reply(&frame[header_len..]));
            // Sender's link and network address: RFC 826.
            assert_eq!(&reply[header_len + 22..header_len + 28], mac);
            assert_eq!(&reply[header_len + 28..header_len + 32], [10, 0, 2, 100]);
        }
    });
}

const OUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &OUR_MAC, &[0x08, 0x06]].concat();
    let operation = [0, 1, 8, 0, 6, 4, 0, 1];
    [&ethernet[..], &operation, &OUR_MAC, &sender, &[0; 6], &target].concat()
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2]
}

/// The first frame of that kind; others (multicast listener reports) pass by.
fn read_where(tap: &Tap, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = vec![0; 65_600];
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        match tap.read(&mut buffer) {
            Ok(len) if wanted(&buffer[..len]) => return buffer[..len].to_vec(),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    panic!("no such frame came");
}

fn used_from_outside() {
    let mapping = IdMapping::root_with_ranges().unwrap();
    let container = Container::start(&mapping, |socket| {
        let tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap0").unwrap();
        netlink.add_address(index, "10.0.2.100".parse().unwrap(), 24, false).unwrap();
        netlink.set_up(index).unwrap();
        send_descriptor(&socket, Some(tap.as_fd()), b"tap0").unwrap();
        drop(tap);
        receive_descriptor(&socket, &mut [0; 16]).unwrap();
    });
    let (_, descriptor) = receive_descriptor(&container.socket, &mut [0; 16]).unwrap();
    // There is no such interface out here.
    assert!(!Netlink::open().unwrap().link_exists("tap0").unwrap());
    let wanted = TapFeatures { uso: false, ..TapFeatures::ALL };
    let tap = Tap::from_fd(descriptor.unwrap(), wanted).unwrap();
    assert_eq!((tap.name(), tap.features()), ("tap0", wanted));
    tap.write(&[vec![0; 10], arp_request([10, 0, 2, 2], [10, 0, 2, 100])].concat()).unwrap();
    read_where(&tap, |frame| is_arp_reply(&frame[10..]));
    container.finish();
}

fn goes_away() {
    contained(|| {
        let tap = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let mut netlink = Netlink::open().unwrap();
        assert!(netlink.link_exists("tap0").unwrap());
        drop(tap);
        assert!(!netlink.link_exists("tap0").unwrap());
    });
}

fn persistent_device() {
    contained(|| {
        output_of("ip", &["tuntap", "add", "dev", "tap7", "mode", "tap"]);
        let tap = Tap::open("tap7", TapFeatures::ALL).unwrap();
        assert_eq!(tap.features(), expected_of_this_kernel());
        drop(tap);
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("tap7").unwrap();
        netlink.remove_link(index).unwrap();
        assert!(!netlink.link_exists("tap7").unwrap());
    });
}

fn name_in_use() {
    contained(|| {
        let _held = Tap::open("tap0", TapFeatures::ALL).unwrap();
        let error = Tap::open("tap0", TapFeatures::ALL).unwrap_err();
        assert!(matches!(&error, TapError::NameTaken { name } if name == "tap0"), "{error}");
    });
}

fn name_of_another_kind() {
    contained(|| {
        output_of("ip", &["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
        for wanted in [TapFeatures::ALL, TapFeatures::NONE] {
            let error = Tap::open("veth0", wanted).unwrap_err();
            assert!(matches!(&error, TapError::NotATap { name } if name == "veth0"), "{error}");
        }
    });
}

fn without_rights() {
    contained(|| {
        // All-powerful in a further user namespace, and nobody to the network namespace.
        unshare(CloneFlags::CLONE_NEWUSER).unwrap();
        let error = Tap::open("tap0", TapFeatures::ALL).unwrap_err();
        assert!(matches!(&error, TapError::NotPermitted { name } if name == "tap0"), "{error}");
    });
}
