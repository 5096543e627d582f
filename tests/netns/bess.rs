//! `--target-type=bess`: a virtual machine in place of a container, played by smoltcp over the socket.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as GuestInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::ground::{Ground, SCRATCH, WORLD4, sealed};
use crate::process::{Running, SOON, Stream, start};
use crate::servers::{echo, echo_datagrams, serve_streams};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const MAX_FRAME: usize = 65_536;

/// The socket as a network card.
struct Card(OwnedFd);

struct Received(Vec<u8>);

struct Sending<'a>(&'a Card);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A relay that reads too slowly loses it, as on a wire.
        let _ = send(self.0.0.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: GuestInstant) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; MAX_FRAME];
        let len = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT).ok().filter(|&len| len > 0)?;
        frame.truncate(len);
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _: GuestInstant) -> Option<Sending<'_>> {
        Some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// The virtual machine.
struct Guest {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    started: Instant,
}

impl Guest {
    fn boot(path: &Path) -> Guest {
        let mut card = Card(dial(path).unwrap());
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut card, GuestInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(ADDRESS), 24)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Guest { card, interface, sockets: SocketSet::new(Vec::new()), started: Instant::now() }
    }

    /// Lives until `done` answers something.
    fn until<T>(&mut self, mut done: impl FnMut(&mut SocketSet<'static>) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let now = GuestInstant::from_millis(i64::try_from(self.started.elapsed().as_millis()).unwrap());
            self.interface.poll(now, &mut self.card, &mut self.sockets);
            if let Some(result) = done(&mut self.sockets) {
                return result;
            }
            assert!(Instant::now() < deadline, "the guest waits for ever");
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn dial(&mut self, target: SocketAddrV4) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(self.interface.context(), (IpAddress::Ipv4(*target.ip()), target.port()), 50_000)
            .unwrap();
        self.sockets.add(socket)
    }
}

fn dial(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn path() -> PathBuf {
    Path::new(SCRATCH).join("bess.sock")
}

/// A relay that waits for its guest at [`path`].
fn relay(ground: &Ground, options: &[&str]) -> Running {
    let path = path();
    let words = [&["slirp4netns", "--target-type=bess"], options, &[path.to_str().unwrap()]].concat();
    let running = start(ground.netferry(&words));
    let deadline = Instant::now() + SOON;
    while !path.exists() {
        assert!(Instant::now() < deadline, "no socket: {}", running.so_far(Stream::Err));
        thread::sleep(Duration::from_millis(5));
    }
    running
}

fn serves(ground: &Ground, options: &[&str]) {
    serve_streams(ground.world_listener(WORLD4, 7001), echo);
    echo_datagrams(ground.world_datagrams(WORLD4, 7000), false);
    let relay = relay(ground, options);
    let mut guest = Guest::boot(&path());

    let metadata = || vec![udp::PacketMetadata::EMPTY; 4];
    let buffer = || udp::PacketBuffer::new(metadata(), vec![0; 1 << 13]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(40_000).unwrap();
    socket.send_slice(b"datagram", IpEndpoint::new(IpAddress::Ipv4(WORLD4), 7000)).unwrap();
    let datagrams = guest.sockets.add(socket);
    let answer = guest.until(|sockets| {
        let (data, meta) = sockets.get_mut::<udp::Socket<'_>>(datagrams).recv().ok()?;
        Some((data.to_vec(), meta.endpoint))
    });
    assert_eq!(answer, (b"datagram".to_vec(), IpEndpoint::new(IpAddress::Ipv4(WORLD4), 7000)));

    // Far more than the socket's queue holds.
    let body: Vec<u8> = (0..4_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let stream = guest.dial(SocketAddrV4::new(WORLD4, 7001));
    let (mut sent, mut received) = (0, Vec::new());
    guest.until(|sockets| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(stream);
        if socket.can_send() && sent < body.len() {
            sent += socket.send_slice(&body[sent..]).unwrap();
        } else if sent == body.len() {
            socket.close();
        }
        while socket.can_recv() {
            received.extend(socket.recv(|data| (data.len(), data.to_vec())).unwrap());
        }
        (received.len() >= body.len() || !socket.is_open()).then_some(())
    });
    assert!(received == body, "{} of {} bytes came back", received.len(), body.len());

    // A port that nobody listens on.
    let refused = guest.dial(SocketAddrV4::new(WORLD4, 9));
    guest.until(|sockets| (!sockets.get::<tcp::Socket<'_>>(refused).is_open()).then_some(()));

    // Nobody else, and the end with the guest.
    dial(&path()).unwrap_err();
    drop(guest);
    let outcome = relay.finish(SOON).expect_success();
    assert!(!outcome.stderr.contains("system call"), "{outcome}");
}

#[test]
fn a_virtual_machine_is_served() {
    sealed(|ground| {
        let before = ground.belongings();
        serves(ground, &[]);
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn a_virtual_machine_is_served_from_a_sandbox() {
    sealed(|ground| serves(ground, &["--enable-sandbox", "--enable-seccomp"]));
}

#[test]
fn waiting_for_a_guest_ends_on_a_signal_and_leaves_nothing() {
    sealed(|ground| {
        let before = ground.belongings();
        let relay = relay(ground, &[]);
        relay.signal(Signal::SIGTERM);
        relay.finish(SOON).expect_success();
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn garbage_of_a_guest_is_survived() {
    sealed(|ground| {
        let relay = relay(ground, &[]);
        let guest = dial(&path()).unwrap();
        for len in [1, 13, 14, 15, 60, 1514, 9000, 65_000] {
            send(guest.as_raw_fd(), &vec![0xff; len], MsgFlags::MSG_NOSIGNAL).unwrap();
        }
        // A guest that never reads, and asks for the gateway's address all the time.
        let mut request = Vec::new();
        etherparse::PacketBuilder::ethernet2(MAC, [0xff; 6])
            .arp(
                etherparse::ArpPacket::new(
                    etherparse::ArpHardwareId::ETHERNET,
                    etherparse::EtherType::IPV4,
                    etherparse::ArpOperation::REQUEST,
                    &MAC,
                    &ADDRESS.octets(),
                    &[0; 6],
                    &GATEWAY.octets(),
                )
                .unwrap(),
            )
            .write(&mut request)
            .unwrap();
        for _ in 0..20_000 {
            if send(guest.as_raw_fd(), &request, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let mut answer = [0; MAX_FRAME];
        let len = recv(guest.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        let answer = etherparse::SlicedPacket::from_ethernet(&answer[..len]).unwrap();
        let Some(etherparse::NetSlice::Arp(arp)) = answer.net else { panic!("{answer:?}") };
        assert_eq!(
            (arp.operation(), arp.sender_protocol_addr()),
            (etherparse::ArpOperation::REPLY, &GATEWAY.octets()[..])
        );
        drop(guest);
        relay.finish(SOON).expect_success();
    });
}
