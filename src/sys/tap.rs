//! The TAP device: Ethernet frames in and out of the container's network namespace.
//!
//! The device is opened as `IFF_TAP|IFF_NO_PI|IFF_VNET_HDR` with every offload it can take, so that the
//! container's kernel hands over and accepts super-segments of up to 64 KiB with partial checksums. All of it
//! works unprivileged, inside a network namespace whose user namespace is ours. Kernels that lack a part are
//! met step by step: without UDP segmentation (before Linux 6.2), without any offload, without the header.
//! What was got is read back with `TUNGETIFF`, because `TUNSETOFFLOAD` and `TUNSETVNETHDRSZ` answer 0 even
//! on a device that has no header, where they mean nothing; see [`Tap::features`].
//!
//! The descriptor works from any namespace once the device exists: a child inside the container's namespace
//! opens it and passes it out ([`Tap::from_fd`] on the receiving side). The device goes away with its last
//! descriptor. Reference: the kernel's `Documentation/networking/tuntap.rst` and `include/uapi/linux/if_tun.h`.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// The clone device every TAP is made from.
const DEVICE: &str = "/dev/net/tun";
/// Longest interface name in bytes, without the terminator (`IFNAMSIZ` - 1).
const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;
/// Bytes of the virtio-net header in front of each frame (`struct virtio_net_hdr`, no mergeable buffers).
const VNET_HEADER_LEN: c_int = 10;

/// What a TAP device does beyond carrying plain frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TapFeatures {
    /// A 10-byte virtio-net header precedes each frame. Everything below needs it.
    pub vnet_header: bool,
    /// Transport checksums may be left partial, both ways. Everything below needs it.
    pub checksum: bool,
    /// IPv4 TCP super-segments (with ECN), both ways.
    pub tso4: bool,
    /// IPv6 TCP super-segments (with ECN), both ways.
    pub tso6: bool,
    /// UDP super-datagrams of both families, both ways (Linux 6.2 and later).
    pub uso: bool,
}

impl TapFeatures {
    /// Everything there is.
    pub const ALL: TapFeatures =
        TapFeatures { vnet_header: true, checksum: true, tso4: true, tso6: true, uso: true };
    /// Plain frames: no header, full checksums, nothing above the MTU.
    pub const NONE: TapFeatures =
        TapFeatures { vnet_header: false, checksum: false, tso4: false, tso6: false, uso: false };

    /// The same without what lacks its prerequisite.
    fn consistent(self) -> TapFeatures {
        let checksum = self.vnet_header && self.checksum;
        TapFeatures {
            vnet_header: self.vnet_header,
            checksum,
            tso4: checksum && self.tso4,
            tso6: checksum && self.tso6,
            uso: checksum && self.uso,
        }
    }

    /// The steps of the fall-back on a device that has the header: as asked, without USO, without segmentation, without
    /// any offload. The last always succeeds where the header is.
    fn offload_steps(self) -> [TapFeatures; 4] {
        let without_uso = TapFeatures { uso: false, ..self };
        let checksum_only = TapFeatures { tso4: false, tso6: false, ..without_uso };
        [self, without_uso, checksum_only, TapFeatures { checksum: false, ..checksum_only }]
    }

    /// The argument of `TUNSETOFFLOAD`.
    fn offload_flags(self) -> u32 {
        let mut flags = 0;
        if self.checksum {
            flags |= libc::TUN_F_CSUM;
        }
        if self.tso4 {
            flags |= libc::TUN_F_TSO4;
        }
        if self.tso6 {
            flags |= libc::TUN_F_TSO6;
        }
        if self.tso4 || self.tso6 {
            flags |= libc::TUN_F_TSO_ECN;
        }
        if self.uso {
            // One without the other is refused with EINVAL.
            flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
        }
        flags
    }
}

/// Why there is no TAP device.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No device node, or nothing behind it.
    #[error("cannot open {DEVICE}: {source}; load the kernel's tun module (modprobe tun)")]
    DeviceMissing {
        /// `ENOENT`, `ENXIO` or `ENODEV`.
        source: io::Error,
    },
    /// The device node is there and not for us.
    #[error("no permission to open {DEVICE}; it is usually mode 0666 (chmod 666 {DEVICE} as root)")]
    DevicePermission,
    /// The device node could not be opened for another reason.
    #[error("cannot open {DEVICE}: {source}")]
    DeviceOpen {
        /// What `open` said.
        source: io::Error,
    },
    /// The name does not fit.
    #[error("interface name {name:?} is {} bytes long; the kernel takes 1 to {MAX_NAME_LEN}", name.len())]
    NameLength {
        /// The name asked for.
        name: String,
    },
    /// The name is not one an interface can have.
    #[error("interface name {name:?} is not allowed; use letters, digits, '-', '_' or '.', and not \"lo\"")]
    NameCharacters {
        /// The name asked for.
        name: String,
    },
    /// Another process holds a device of that name.
    #[error("interface {name} is in use by another process; choose another name or end that process")]
    NameTaken {
        /// The name asked for.
        name: String,
    },
    /// The name belongs to an interface of another kind.
    #[error("interface {name} exists and is not a TAP device that can be opened; choose another name")]
    NotATap {
        /// The name asked for.
        name: String,
    },
    /// No `CAP_NET_ADMIN` over the network namespace.
    #[error(
        "not permitted to make interface {name} in this network namespace; \
         it must belong to a user namespace of the same user"
    )]
    NotPermitted {
        /// The name asked for.
        name: String,
    },
    /// A descriptor that was handed over is not a TAP with plain Ethernet frames.
    #[error("the descriptor received is not a TAP device opened with IFF_TAP|IFF_NO_PI: {found}")]
    ForeignDescriptor {
        /// What it is instead.
        found: String,
    },
    /// Another request was refused.
    #[error("{request} on interface {name}: {source}")]
    Request {
        /// The name asked for.
        name: String,
        /// The request.
        request: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open queue of a TAP device, non-blocking.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    features: TapFeatures,
}

impl Tap {
    /// Makes the device `name` in the current network namespace, or takes over a persistent one of that name
    /// that nobody has open, with as much of `wanted` as the kernel has.
    pub fn open(name: &str, wanted: TapFeatures) -> Result<Tap, TapError> {
        Tap::open_queue(name, wanted, 0)
    }

    /// The same with so many queues, over which the kernel spreads the flows. A device that exists already is opened with one,
    /// and only if it was made for one: others may have queues of it.
    pub fn open_queues(name: &str, wanted: TapFeatures, count: usize) -> Result<Vec<Tap>, TapError> {
        if count < 2 {
            return Ok(vec![Tap::open(name, wanted)?]);
        }
        let first = match Tap::open_queue(name, wanted, libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL) {
            Err(TapError::NameTaken { .. }) => return Ok(vec![Tap::open(name, wanted)?]),
            first => first,
        };
        let others = (1..count).map(|_| Tap::open_queue(name, wanted, libc::IFF_MULTI_QUEUE));
        std::iter::once(first).chain(others).collect()
    }

    fn open_queue(name: &str, wanted: TapFeatures, flags: c_int) -> Result<Tap, TapError> {
        check_name(name)?;
        let wanted = wanted.consistent();
        let fd = open_device()?;
        let base_flags = libc::IFF_TAP | libc::IFF_NO_PI | flags;
        let attached = if wanted.vnet_header {
            match attach(fd.as_fd(), name, base_flags | libc::IFF_VNET_HDR) {
                // Either no such flag here, or the name is another kind of interface: the plain request tells.
                Err(Errno::EINVAL) => attach(fd.as_fd(), name, base_flags),
                other => other,
            }
        } else {
            attach(fd.as_fd(), name, base_flags)
        };
        attached.map_err(|errno| attach_error(name, errno))?;
        Tap::configure(fd, wanted)
    }

    /// Takes over a descriptor that another process opened, possibly in another network namespace, and sets
    /// header size and offloads as [`Tap::open`] does. Whether there is a header was decided at its opening.
    pub fn from_fd(fd: OwnedFd, wanted: TapFeatures) -> Result<Tap, TapError> {
        let broken = |errno: Errno| TapError::ForeignDescriptor { found: errno.desc().to_string() };
        let status = fcntl(&fd, FcntlArg::F_GETFL).map_err(broken)?;
        let status = OFlag::from_bits_retain(status) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(status)).map_err(broken)?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(broken)?;
        Tap::configure(fd, wanted.consistent())
    }

    /// Reads back what the device is, and sets what can still be set.
    fn configure(fd: OwnedFd, wanted: TapFeatures) -> Result<Tap, TapError> {
        let (name, flags) = interface(fd.as_fd())?;
        if flags & libc::IFF_TAP == 0 || flags & libc::IFF_NO_PI == 0 {
            return Err(TapError::ForeignDescriptor { found: format!("{name} has flags {flags:#06x}") });
        }
        let features = if flags & libc::IFF_VNET_HDR != 0 {
            set_header_len(fd.as_fd(), &name)?;
            // The header stands on the descriptor whether it was wanted or not.
            set_offload(fd.as_fd(), &name, TapFeatures { vnet_header: true, ..wanted })?
        } else {
            TapFeatures::NONE
        };
        Ok(Tap { fd, name, features })
    }

    /// The interface's name, as the kernel has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device does, as far as the kernel agreed.
    pub fn features(&self) -> TapFeatures {
        self.features
    }

    /// Reads one frame, with its virtio-net header in front if [`TapFeatures::vnet_header`]. `WouldBlock` when
    /// there is none. A frame longer than `buffer` is cut.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.fd, buffer)?)
    }

    /// Writes one frame, whole or not at all, with its virtio-net header in front if [`TapFeatures::vnet_header`].
    /// EIO while the interface is down.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(&self.fd, bytes)?)
    }

    /// Writes one frame that lies in parts, as [`Self::write`] does; an empty part is left out.
    pub fn write_gathered<const N: usize>(&self, parts: [&[u8]; N]) -> io::Result<usize> {
        Ok(nix::sys::uio::writev(&self.fd, &parts.map(io::IoSlice::new))?)
    }

    /// The same queue by another descriptor; it is open until both are closed.
    pub fn duplicate(&self) -> io::Result<Tap> {
        Ok(Tap { fd: self.fd.try_clone()?, name: self.name.clone(), features: self.features })
    }

    /// Gives the descriptor away, to be sent to another process.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an interface may be called `name`: 1 to 15 bytes, none of `/`, `:`, `%` (a pattern to the kernel),
/// white space or control characters, and none of the names that mean something else.
pub fn check_name(name: &str) -> Result<(), TapError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(TapError::NameLength { name: name.to_string() });
    }
    let forbidden = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    if name.contains(forbidden) || matches!(name, "." | ".." | "lo" | "all" | "default") {
        return Err(TapError::NameCharacters { name: name.to_string() });
    }
    Ok(())
}

fn open_device() -> Result<OwnedFd, TapError> {
    // The standard library opens everything with O_CLOEXEC.
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
    let source = match opened {
        Ok(file) => return Ok(file.into()),
        Err(error) => error,
    };
    Err(match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENXIO | Errno::ENODEV) => TapError::DeviceMissing { source },
        Some(Errno::EACCES | Errno::EPERM) => TapError::DevicePermission,
        _ => TapError::DeviceOpen { source },
    })
}

fn attach_error(name: &str, errno: Errno) -> TapError {
    let name = name.to_string();
    match errno {
        Errno::EBUSY => TapError::NameTaken { name },
        Errno::EINVAL | Errno::EEXIST => TapError::NotATap { name },
        Errno::EPERM | Errno::EACCES => TapError::NotPermitted { name },
        other => TapError::Request { name, request: "TUNSETIFF", source: other.into() },
    }
}

fn attach(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> Result<(), Errno> {
    let mut request = empty_request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is; it outlives the call, and its
    // name is terminated because `check_name` leaves at least one of the zeroed bytes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).map(drop)
}

/// The interface behind a descriptor: its name and flags.
fn interface(fd: BorrowedFd<'_>) -> Result<(String, c_int), TapError> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one `struct ifreq`, which `request` is; it outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    Errno::result(result)
        .map_err(|errno| TapError::ForeignDescriptor { found: format!("TUNGETIFF: {}", errno.desc()) })?;
    let name = request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect::<Vec<_>>();
    // SAFETY: every byte of the union was initialised, and TUNGETIFF answers in this member; any value is valid.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The flags are sixteen bits without a sign; the C type has one.
    Ok((String::from_utf8_lossy(&name).into_owned(), c_int::from(flags as u16)))
}

fn set_header_len(fd: BorrowedFd<'_>, name: &str) -> Result<(), TapError> {
    let len: c_int = VNET_HEADER_LEN;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    Errno::result(result).map(drop).map_err(|errno| TapError::Request {
        name: name.to_string(),
        request: "TUNSETVNETHDRSZ",
        source: errno.into(),
    })
}

/// Switches on the first of the fall-back steps that the kernel takes.
fn set_offload(fd: BorrowedFd<'_>, name: &str, wanted: TapFeatures) -> Result<TapFeatures, TapError> {
    let mut refused = Errno::UnknownErrno;
    for step in wanted.offload_steps() {
        let flags = libc::c_ulong::from(step.offload_flags());
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, flags) };
        match Errno::result(result) {
            Ok(_) => return Ok(step),
            Err(errno) => refused = errno,
        }
    }
    Err(TapError::Request { name: name.to_string(), request: "TUNSETOFFLOAD", source: refused.into() })
}

fn empty_request() -> libc::ifreq {
    // SAFETY: `struct ifreq` is a plain C structure of integers and a union of such; all zeros is a valid value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_allowed() {
        for name in ["tap0", "a", "net-ferry_0.1", "123456789012345"] {
            check_name(name).expect(name);
        }
    }

    #[test]
    fn a_name_of_no_or_too_many_bytes_is_refused() {
        for name in ["", "1234567890123456", "ääääääää"] {
            assert!(matches!(check_name(name), Err(TapError::NameLength { .. })), "{name}");
        }
    }

    #[test]
    fn a_name_the_kernel_reads_otherwise_is_refused() {
        for name in ["a/b", "a b", "a\tb", "tap%d", "a:b", "a\0b", ".", "..", "lo", "all"] {
            assert!(matches!(check_name(name), Err(TapError::NameCharacters { .. })), "{name:?}");
        }
    }

    #[test]
    fn offloads_without_their_prerequisite_are_not_asked_for() {
        let headerless = TapFeatures { vnet_header: false, ..TapFeatures::ALL };
        assert_eq!(headerless.consistent(), TapFeatures::NONE);
        let no_checksum = TapFeatures { checksum: false, ..TapFeatures::ALL }.consistent();
        assert_eq!(no_checksum, TapFeatures { vnet_header: true, ..TapFeatures::NONE });
        assert_eq!(TapFeatures::ALL.consistent(), TapFeatures::ALL);
    }

    #[test]
    fn the_fall_back_gives_up_uso_then_segmentation_then_checksums() {
        let flags = TapFeatures::ALL.offload_steps().map(TapFeatures::offload_flags);
        assert_eq!(flags, [0x6f, 0x0f, 0x01, 0x00]);
    }

    #[test]
    fn a_descriptor_that_is_no_tap_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Tap::from_fd(file.into(), TapFeatures::ALL).unwrap_err();
        assert!(matches!(error, TapError::ForeignDescriptor { .. }), "{error}");
    }
}
