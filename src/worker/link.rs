//! The link to the container as the core's frame sink: a TAP, or the socket of a User Mode Linux guest.
//!
//! One buffer, with room for the virtio-net header in front of the frame, so that a frame leaves in one
//! `write` and is never copied; the payload of a TCP segment leaves from where it waits to be acknowledged, by
//! `writev`. What the link does not take is dropped and counted, as a full queue would.

pub mod impaired;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use self::impaired::Impaired;
use crate::config::Impairments;
use crate::config::limits::{ImpairLimits, MAX_ROOM_BYTES};
use crate::observe::capture::Capture;
use crate::observe::pcapng::Direction;
use crate::stack::boundary::{FrameSink, Instant};
use crate::sys::bess::BessSocket;
use crate::sys::tap::Tap;
use crate::wire::vnet_header::{Offload, VNET_HEADER_LEN};
use crate::worker::recorder::stage::{Sight, Stage};

/// The largest thing that one `read` or `write` of the device moves; a VLAN tag and some air included.
const BUFFER_BYTES: usize = VNET_HEADER_LEN + MAX_ROOM_BYTES + 64;

/// Reads that may fail in a row, each a while after the last, before the device is taken to be gone: some ten seconds.
const MAX_READ_FAILURES: u32 = 500;

/// What frames come from and go to.
#[derive(Debug)]
pub enum Device {
    /// An interface in the container's network namespace.
    Tap(Tap),
    /// A guest's socket.
    Bess(BessSocket),
    /// None: nothing comes from it, and what goes there is lost.
    Nothing(UnixDatagram),
}

impl From<Tap> for Device {
    fn from(tap: Tap) -> Device {
        Device::Tap(tap)
    }
}

impl From<BessSocket> for Device {
    fn from(socket: BessSocket) -> Device {
        Device::Bess(socket)
    }
}

impl Device {
    /// A link to nobody; what holds its place in the poll is a socket that nobody else has.
    pub fn nothing() -> io::Result<Device> {
        UnixDatagram::unbound().map(Device::Nothing)
    }

    /// What the core may leave to the other side, or has to understand of it.
    fn offload(&self) -> Offload {
        match self {
            Device::Tap(tap) => {
                let features = tap.features();
                if !features.vnet_header {
                    return Offload::NONE;
                }
                Offload {
                    checksum: features.checksum,
                    tcp4: features.tso4,
                    tcp6: features.tso6,
                    udp: features.uso,
                }
            }
            Device::Bess(_) | Device::Nothing(_) => Offload::NONE,
        }
    }

    fn has_header(&self) -> bool {
        match self {
            Device::Tap(tap) => tap.features().vnet_header,
            Device::Bess(_) | Device::Nothing(_) => false,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Device::Tap(tap) => tap.read(buffer),
            Device::Bess(socket) => socket.read(buffer),
            Device::Nothing(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes one frame: its beginning, and the two parts of the rest.
    fn write(&mut self, front: &[u8], rest: [&[u8]; 2]) -> io::Result<usize> {
        let is_whole = rest.iter().all(|part| part.is_empty());
        match self {
            Device::Tap(tap) if is_whole => tap.write(front),
            Device::Tap(tap) => tap.write_gathered([front, rest[0], rest[1]]),
            Device::Bess(socket) if is_whole => socket.write(front),
            Device::Bess(socket) => socket.write(&[front, rest[0], rest[1]].concat()),
            Device::Nothing(_) => Ok(front.len()),
        }
    }
}

/// Whether an error of a write means that there is no device any more.
fn is_end(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
        || matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// The device and what it needs for writing.
#[derive(Debug)]
pub struct Link {
    device: Device,
    has_header: bool,
    buffer: Box<[u8]>,
    dropped: u64,
    is_gone: bool,
    /// Reads in a row that failed for another reason than that there is no device any more.
    failures: u32,
    is_starved: bool,
    capture: Option<Capture>,
    /// Somebody captures what passes here.
    stage: Option<Box<Stage>>,
    /// It is a bad one.
    impaired: Option<Box<Impaired>>,
    now: Instant,
}

/// Outcome of reading the TAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRead {
    /// A frame of so many bytes, its header included where the link has one.
    Frame(usize),
    /// Nothing now.
    Blocked,
    /// The device is no more.
    Gone,
}

impl Link {
    /// Takes over an open device.
    #[must_use]
    pub fn new(device: Device) -> Link {
        let has_header = device.has_header();
        Link {
            device,
            has_header,
            buffer: vec![0; BUFFER_BYTES].into(),
            dropped: 0,
            is_gone: false,
            failures: 0,
            is_starved: false,
            capture: None,
            stage: None,
            impaired: None,
            now: Instant::ZERO,
        }
    }

    /// Records every frame from now on.
    pub fn record_in(&mut self, capture: Capture) {
        self.capture = Some(capture);
    }

    /// Takes note of the time: what was recorded before goes to the kernel, and what has arrived by now to the container.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
        if let Some(stage) = &mut self.stage {
            stage.tick(micros(now));
        }
        if self.impaired.is_some() {
            self.release();
        }
    }

    /// Puts down what passes from now on, or no longer.
    pub fn watch(&mut self, stage: Option<Box<Stage>>) {
        self.stage = stage;
    }

    /// What was put down.
    pub fn stage_mut(&mut self) -> Option<&mut Stage> {
        self.stage.as_deref_mut()
    }

    /// Makes it a bad link from now on, or a better one; `seed` is what chance comes from.
    pub fn impair(&mut self, how: Impairments, limits: ImpairLimits, seed: u64) {
        if self.impaired.is_none() && !how.is_off() {
            self.impaired = Some(Box::new(Impaired::new(limits, seed)));
        }
        if let Some(impaired) = &mut self.impaired {
            impaired.change(how);
        }
    }

    /// How bad a link it is, if it is.
    #[must_use]
    pub fn impaired(&self) -> Option<&Impaired> {
        self.impaired.as_deref()
    }

    /// Takes a frame of the container's that is to be held back; false if it is to go on at once.
    #[must_use]
    pub fn hold_back(&mut self, header: &[u8], frame: &[u8]) -> bool {
        let Some(impaired) = &mut self.impaired else { return false };
        impaired.admit_up(header, frame, self.now);
        true
    }

    /// The next frame of the container's that has come through: its virtio-net header, and the frame behind it.
    pub fn come_through(&mut self) -> Option<Box<[u8]>> {
        let impaired = self.impaired.as_deref_mut()?;
        let block = impaired.up.poll(self.now);
        if block.is_none() && impaired.is_idle() {
            self.impaired = None;
        }
        block
    }

    /// When the next frame comes through.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.impaired.as_ref().and_then(|impaired| impaired.poll_timeout())
    }

    /// Writes what has come through toward the container.
    fn release(&mut self) {
        while let Some(block) = self.impaired.as_deref_mut().and_then(|impaired| impaired.down.poll(self.now))
        {
            let Some((header, frame)) = block.split_first_chunk::<VNET_HEADER_LEN>() else { continue };
            let end = VNET_HEADER_LEN + frame.len();
            self.buffer[VNET_HEADER_LEN..end].copy_from_slice(frame);
            self.write_out(frame.len(), [&[], &[]], *header);
        }
    }

    /// A buffer that [`Link::read`] fills.
    #[must_use]
    pub fn read_buffer() -> Box<[u8]> {
        vec![0; BUFFER_BYTES].into()
    }

    /// What the core may leave to the kernel.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.device.offload()
    }

    /// Frames that the device did not take.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a read or write has found the device gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Reads one frame.
    pub fn read(&mut self, buffer: &mut [u8]) -> LinkRead {
        loop {
            match self.device.read(buffer) {
                // tun(4) never ends; a device that does has been taken away, and a guest that does is gone.
                Ok(0) => break,
                Ok(len) => {
                    self.failures = 0;
                    return LinkRead::Frame(len);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.failures = 0;
                        return LinkRead::Blocked;
                    }
                    io::ErrorKind::Interrupted => {}
                    // EBADFD once the device is deleted.
                    _ if is_end(&error) => break,
                    // One frame is lost, for want of memory; or nothing else could be waited for.
                    _ => {
                        self.failures += 1;
                        if self.failures > MAX_READ_FAILURES {
                            break;
                        }
                        self.dropped += 1;
                        self.is_starved = true;
                        return LinkRead::Blocked;
                    }
                },
            }
        }
        self.is_gone = true;
        LinkRead::Gone
    }

    /// Whether a read has failed that is worth another: no event will tell of the frames behind.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// The same, and no longer.
    pub fn try_again(&mut self) -> bool {
        std::mem::take(&mut self.is_starved)
    }

    /// Splits what was read into virtio-net header and frame; `None` when it is shorter than the header.
    #[must_use]
    pub fn split<'b>(&mut self, read: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        const NO_HEADER: &[u8] = &[0; VNET_HEADER_LEN];
        let (header, frame) =
            if self.has_header { read.split_at_checked(VNET_HEADER_LEN)? } else { (NO_HEADER, read) };
        if let Some(capture) = &mut self.capture {
            capture.record(micros(self.now), header, frame);
        }
        if let (Some(stage), Some(header)) = (&mut self.stage, header.first_chunk()) {
            stage.put(Sight::Frame(Direction::Outbound, *header), &[frame]);
        }
        Some((header, frame))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.device {
            Device::Tap(tap) => tap.as_fd(),
            Device::Bess(socket) => socket.as_fd(),
            Device::Nothing(socket) => socket.as_fd(),
        }
    }
}

impl FrameSink for Link {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let room = self.buffer.get_mut(VNET_HEADER_LEN..VNET_HEADER_LEN + len);
        if room.is_none() {
            self.dropped += 1;
        }
        room
    }

    fn commit(&mut self, len: usize, header: [u8; VNET_HEADER_LEN]) {
        self.commit_gathered(len, [&[], &[]], header);
    }

    fn commit_gathered(&mut self, len: usize, payload: [&[u8]; 2], header: [u8; VNET_HEADER_LEN]) {
        if let Some(impaired) = &mut self.impaired {
            let front = &self.buffer[VNET_HEADER_LEN..VNET_HEADER_LEN + len];
            impaired.admit_down(&header, &[front, payload[0], payload[1]].concat(), self.now);
            return;
        }
        self.write_out(len, payload, header);
    }
}

fn micros(now: Instant) -> u64 {
    u64::try_from(now.total_micros()).unwrap_or(0)
}

impl Link {
    /// Hands the first `len` bytes behind the header's place in the buffer, and `payload`, to the device.
    fn write_out(&mut self, len: usize, payload: [&[u8]; 2], header: [u8; VNET_HEADER_LEN]) {
        let end = VNET_HEADER_LEN + len;
        if let Some(capture) = &mut self.capture {
            let frame = [&self.buffer[VNET_HEADER_LEN..end], payload[0], payload[1]].concat();
            capture.record(micros(self.now), &header, &frame);
        }
        if let Some(stage) = &mut self.stage {
            let front = &self.buffer[VNET_HEADER_LEN..end];
            stage.put(Sight::Frame(Direction::Inbound, header), &[front, payload[0], payload[1]]);
        }
        let start = if self.has_header {
            self.buffer[..VNET_HEADER_LEN].copy_from_slice(&header);
            0
        } else {
            VNET_HEADER_LEN
        };
        loop {
            match self.device.write(&self.buffer[start..end], payload) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO is an interface that is down, EINVAL a frame that the kernel finds malformed, EAGAIN and
                // ENOBUFS want of room: each costs this frame only. The end is found by the next read as well.
                Err(error) => {
                    self.dropped += 1;
                    self.is_gone |= is_end(&error);
                    return;
                }
            }
        }
    }
}
