//! A file system with next to nothing in it, and no capabilities: what is left to a relay that was taken over.
//!
//! [`enter`] is called once, when every socket and device is open and nothing but the loop follows. The
//! process stays in its network namespace, where its sockets belong; what it gives up is the rest:
//!
//! 1. A mount namespace of its own (and with it an IPC and a UTS namespace), whose root becomes an empty, read-only tmpfs (`view` tells the few
//!    directories mounted there, read-only, for files that are read again later). The host's root is detached:
//!    no path leads there, and descriptors of directories that we were started with are closed.
//! 2. Every capability, from all five sets, and with `PR_SET_NO_NEW_PRIVS` the way to get any again.
//! 3. Where the kernel has Landlock: every access to files but reading those, signals to anybody, abstract Unix sockets
//!    (`landed`). A second wall behind the first, which also holds should a mount ever lead out.
//! 4. Being looked into: the process is no longer dumpable, so that not even its own user can trace it or read its
//!    memory, and no core file holds the container's traffic.
//!
//! **Which user namespace.** Mounting takes `CAP_SYS_ADMIN`. Where the process has it (podman starts us as root
//! of its user namespace) a mount namespace is all that is made. A plain user (RootlessKit) gets it
//! from a new user namespace, in which nobody but that user exists, as himself. The alternative, which the
//! original takes, is to join the container's user namespace; but there the container's root has every
//! capability over us, and we over the container. In a namespace of its own the process is nobody's subject, and
//! powerful over nothing. Only where the system allows no new user namespace ([`SandboxPlan::container_userns`])
//! we go that way too. Neither way changes what sockets may do: the group range for ping sockets compares the
//! host's numbers, and ports below 1024 ask the user namespace that owns the network namespace.
//!
//! **Left out:** a PID namespace (it would need another process in front of us, and whoever started us watches
//! ours; no system call that names a process is left by [`super::seccomp`]) and a network namespace (the sockets' own). Mounts that appear on the host below a directory that is
//! shown appear here too; a service that removes and remakes its whole directory below `/run` is lost from
//! sight until restart, and the resolvers last seen stay. Nothing is left behind: namespace and tmpfs end with the process.
//!
//! References: mount_namespaces(7), pivot_root(2), user_namespaces(7), capabilities(7), mount_setattr(2), landlock(7).

mod landed;
mod view;

use std::ffi::c_ulong;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::stat::fstat;
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

use super::confined::Sandboxed;
use super::{mounts, namespace};
use view::View;

/// Directories that may be covered until the new root is in place.
const STAGING: [&str; 5] = ["/tmp", "/run", "/mnt", "/var", "/dev"];
const CAP_NET_BIND_SERVICE: u32 = 10;
/// Above every capability there can be: the sets have 64 bits.
const CAPABILITIES: u32 = 64;
/// Set where AppArmor takes the capabilities of a new user namespace away again.
const APPARMOR_RESTRICTS: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// How to do without, by face.
const WITHOUT: &str = "give --no-sandbox, or as slirp4netns leave --enable-sandbox out";

/// What the process still needs.
#[derive(Debug, Default)]
pub struct SandboxPlan<'a> {
    /// Files that are read again later, by absolute paths; followed as far as `view` can.
    pub files: Vec<&'a Path>,
    /// The user namespace to join where the system allows none of our own.
    pub container_userns: Option<OwnedFd>,
    /// Ports below 1024 may still be bound, if they may now: `CAP_NET_BIND_SERVICE` stays where the process is
    /// root of the user namespace that owns its network. In every other case the capability means nothing.
    pub low_ports: bool,
}

/// Why there is no sandbox. The process may have changed by then and must end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No namespace to do it in.
    #[error(
        "cannot make a mount namespace for the sandbox: {source}; the system forbids user namespaces to this \
         program (see sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns): allow them, or {WITHOUT}"
    )]
    Namespace {
        /// What the kernel said to the last attempt.
        source: io::Error,
    },
    /// A step failed.
    #[error("cannot {doing} for the sandbox: {source}; to do without, {WITHOUT}")]
    Step {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// None of the directories needed for a moment is there.
    #[error("no directory to prepare the sandbox in; make one of /tmp, /run, /mnt")]
    NoStaging,
}

fn step<T, E: Into<io::Error>>(doing: impl Into<String>, result: Result<T, E>) -> Result<T, SandboxError> {
    result.map_err(|error| SandboxError::Step { doing: doing.into(), source: error.into() })
}

/// Confines the calling, single-threaded process for good. Open descriptors keep working, save those of directories,
/// which are closed. After an error the process is to end: it may be anywhere on the way.
pub fn enter(plan: &SandboxPlan<'_>) -> Result<Sandboxed, SandboxError> {
    step("be the only thread", check_alone())?;
    close_directories()?;
    let host_identity = make_namespace(plan.container_userns.as_ref())?;
    let keeps_low_ports = plan.low_ports && host_identity && namespace::owns_own_network();
    let view = View::of(&plan.files);
    replace_root(&view)?;
    drop_capabilities(keeps_low_ports)?;
    step("give up new privileges", prctl::set_no_new_privs())?;
    step("forbid the use of files", landed::restrict())?;
    // Last: a change of credentials sets it anew.
    step("hide the memory", prctl::set_dumpable(false))?;
    Ok(Sandboxed::entered())
}

/// What another thread has would stay as it is: see [`super::confined`].
fn check_alone() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => {
            Err(io::Error::other(format!("there are {threads} threads; this is a bug, please report it")))
        }
    }
}

/// A descriptor of a directory leads out of every mount namespace. We hold none ourselves; what whoever started us has
/// left open is of no use to us.
fn close_directories() -> Result<(), SandboxError> {
    let listed = step("list the open descriptors", fs::read_dir("/proc/self/fd"))?;
    // Collected first: the listing is a descriptor of a directory itself, gone when they are looked at.
    let numbers: Vec<RawFd> =
        listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers {
        if number > libc::STDERR_FILENO && is_directory(number) {
            // SAFETY: a directory's descriptor is nobody's in this process: it opens directories only to list or
            // change them, and has none open while it calls this.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

fn is_directory(number: RawFd) -> bool {
    // SAFETY: only looked at; a number that is not open by now is answered with an error.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fstat(descriptor).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// What else of the system has a namespace, and nothing in it that serving needs.
const BESIDE: CloneFlags = CloneFlags::CLONE_NEWIPC.union(CloneFlags::CLONE_NEWUTS);

/// Moves into a new mount namespace that may be changed. Answers whether the user namespace is still the same.
fn make_namespace(container: Option<&OwnedFd>) -> Result<bool, SandboxError> {
    let namespaces = CloneFlags::CLONE_NEWNS | BESIDE;
    match unshare(namespaces) {
        Ok(()) => return Ok(true),
        Err(Errno::EPERM) => {}
        Err(errno) => return Err(SandboxError::Namespace { source: errno.into() }),
    }
    let (user, group) = (geteuid(), getegid());
    let own = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER | namespaces)?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        // user_namespaces(7): without privilege a group map may be written only once setgroups(2) is given up.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
    };
    let joined = || -> io::Result<()> {
        let container = container.ok_or(Errno::EPERM)?;
        setns(container, CloneFlags::CLONE_NEWUSER)?;
        Ok(unshare(namespaces)?)
    };
    // Under that setting a new namespace is made and then turns out to be powerless, too late to go elsewhere.
    let own_is_powerless = fs::read_to_string(APPARMOR_RESTRICTS).is_ok_and(|text| text.trim() == "1");
    let result = if own_is_powerless && container.is_some() {
        joined().or_else(|_| own())
    } else {
        own().or_else(|refused| joined().map_err(|_| refused))
    };
    result.map(|()| false).map_err(|source| SandboxError::Namespace { source })
}

/// Shows `view` and nothing else.
fn replace_root(view: &View) -> Result<(), SandboxError> {
    // Nothing of ours goes back to the host, but what it mounts over a directory that we see comes here.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    step("part from the host's mounts", mount(None::<&str>, "/", None::<&str>, flags, None::<&str>))?;
    let root = STAGING
        .iter()
        .map(Path::new)
        .find(|root| {
            root.is_dir() && !root.is_symlink() && !view.sources().any(|source| source.starts_with(root))
        })
        .ok_or(SandboxError::NoStaging)?;
    let options = "mode=0755,size=64k,nr_inodes=256";
    step(
        format!("mount a tmpfs on {}", root.display()),
        mount(Some("netferry"), root, Some("tmpfs"), inert(), Some(options)),
    )?;
    for directory in &view.directories {
        let place = below(root, directory);
        step(format!("make {}", place.display()), fs::create_dir_all(&place))?;
        show(directory, &place)?;
    }
    for file in &view.files {
        let place = below(root, file);
        make_parent(&place)?;
        step(format!("make {}", place.display()), fs::File::create(&place))?;
        show(file, &place)?;
    }
    for (link, text) in &view.links {
        let place = below(root, link);
        make_parent(&place)?;
        step(format!("make {}", place.display()), symlink(text, &place))?;
    }
    step("enter the new root", chdir(root))?;
    // pivot_root(2): with both the same, the old root lies on top of the new one and is taken away from there.
    step("change the root (pivot_root fails in a chroot and on an initramfs)", pivot_root(".", "."))?;
    step("detach the host's files", umount2(".", MntFlags::MNT_DETACH))?;
    step("enter the new root", chdir("/"))?;
    let flags = inert() | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    step("close the new root", mount(None::<&str>, "/", None::<&str>, flags, None::<&str>))
}

/// No device, no program and no changed identity is to be had there.
fn inert() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_parent(place: &Path) -> Result<(), SandboxError> {
    let parent = place.parent().unwrap_or(place);
    step(format!("make {}", parent.display()), fs::create_dir_all(parent))
}

/// Mounts `source` and what is mounted below it at `place`, read-only.
fn show(source: &Path, place: &Path) -> Result<(), SandboxError> {
    let doing = || format!("show {}", source.display());
    // Without what is mounted below, the kernel refuses in a user namespace: it might have been hidden by it.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    step(doing(), mount(Some(source), place, None::<&str>, flags, None::<&str>))?;
    let closed = match close_tree(place) {
        // Linux 5.12 has it.
        Err(Errno::ENOSYS) => close_each(place),
        other => other.map_err(io::Error::from),
    };
    step(doing(), closed)
}

/// Makes a mount and all below it read-only at once.
fn close_tree(place: &Path) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let directory = fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(place)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
    // SAFETY: takes a descriptor, an empty path (AT_EMPTY_PATH) and a structure of the size given, all of which
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// The same, mount by mount.
fn close_each(place: &Path) -> io::Result<()> {
    let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo")?;
    for point in mounts::mount_points(&mountinfo).filter(|point| point.starts_with(place)) {
        let flags = inert() | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &point, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Empties all five sets, or leaves the one capability of low ports in effective and permitted.
fn drop_capabilities(keeps_low_ports: bool) -> Result<(), SandboxError> {
    let kept = |capability: u32| keeps_low_ports && capability == CAP_NET_BIND_SERVICE;
    step(
        "drop ambient capabilities",
        control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong),
    )?;
    for capability in (0..CAPABILITIES).filter(|&capability| !kept(capability)) {
        match control(libc::PR_CAPBSET_DROP, c_ulong::from(capability)) {
            Ok(()) => {}
            // The kernel knows no more of them.
            Err(Errno::EINVAL) => break,
            // Without CAP_SETPCAP the set stays, and means nothing: with no new privileges no program brings any.
            Err(Errno::EPERM) => break,
            Err(errno) => return step("drop a capability from the bounding set", Err(errno)),
        }
    }
    let low = if keeps_low_ports { 1 << CAP_NET_BIND_SERVICE } else { 0 };
    step("drop the capabilities", set_capabilities(low))
}

fn control(option: libc::c_int, argument: c_ulong) -> Result<(), Errno> {
    const UNUSED: c_ulong = 0;
    // SAFETY: both options used here take numbers only.
    let result = unsafe { libc::prctl(option, argument, UNUSED, UNUSED, UNUSED) };
    Errno::result(result).map(drop)
}

/// `struct __user_cap_header_struct` of <linux/capability.h>.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`; the first of two holds the lower 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `low` (a set of the first 32) all that is effective and permitted.
fn set_capabilities(low: u32) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = CapabilityHeader { version: VERSION_3, pid: 0 };
    let data = [CapabilityData { effective: low, permitted: low, inheritable: 0 }, CapabilityData::default()];
    // SAFETY: reads and may write one header and reads two data structures, which is what version 3 has; all
    // outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::tests::in_private_network;

    /// A directory with a mount below it, bound to a second place and closed there by `close`.
    fn closes_the_copy_alone(close: fn(&Path)) {
        // Of this thread alone.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (source, place) = (directory.path().join("source"), directory.path().join("place"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&place).unwrap();
        let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        for below in [source.clone(), source.join("below a blank")] {
            fs::create_dir_all(&below).unwrap();
            mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&source), &place, None::<&str>, flags, None::<&str>).unwrap();
        close(&place);
        for file in ["file", "below a blank/file"] {
            let error = fs::write(place.join(file), "x").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{file}");
            fs::write(source.join(file), "x").unwrap();
        }
        for mounted in [&place, &source.join("below a blank"), &source] {
            umount2(mounted, MntFlags::MNT_DETACH).unwrap();
        }
    }

    #[test]
    fn tree_is_closed_at_once() {
        in_private_network("sys::sandbox::tests::tree_is_closed_at_once", || {
            closes_the_copy_alone(|place| close_tree(place).unwrap());
        });
    }

    #[test]
    fn tree_is_closed_mount_by_mount_where_the_kernel_is_old() {
        in_private_network(
            "sys::sandbox::tests::tree_is_closed_mount_by_mount_where_the_kernel_is_old",
            || closes_the_copy_alone(|place| close_each(place).unwrap()),
        );
    }
}
