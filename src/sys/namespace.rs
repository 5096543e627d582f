//! Namespaces: entering those of a container that exists, making new ones.
//!
//! Entering works on descriptors: [`NamespaceTarget::open`] opens and checks the files while we are still
//! ourselves (names and permissions are those of the host), [`Namespaces::enter`] then joins them, in a forked
//! single-threaded child, since the kernel lets no process with threads join a user namespace. The user
//! namespace joined is the one that owns the network namespace (`NS_GET_USERNS`), because it alone gives the
//! right to configure it; a process may sit in another.
//!
//! New namespaces come from [`unshare_user_net_mount`]; identities in the new user namespace are given by the
//! parent process (see [`crate::sys::id_map`]). Where the system forbids user namespaces the error names the
//! setting to change. References: namespaces(7), user_namespaces(7), ioctl_nsfs(2).

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// Which network namespace is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceTarget {
    /// That of a process.
    Pid(i32),
    /// That behind a file, and its user namespace if it is not to be found from it.
    Paths {
        /// A network namespace file (`/proc/PID/ns/net`, `/run/netns/NAME`).
        netns: PathBuf,
        /// A user namespace file.
        userns: Option<PathBuf>,
    },
}

/// Why a namespace could not be entered or made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// No process of that number.
    #[error("no process {pid}; give the number of a running process in the container")]
    NoSuchProcess {
        /// The number asked for.
        pid: i32,
    },
    /// No file of that name.
    #[error("no such file: {}; give a process number or the path of a network namespace", path.display())]
    NoSuchPath {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file is there and not for us.
    #[error(
        "no permission to open {}; run netferry as the user who owns the container",
        path.display()
    )]
    NotReadable {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file could not be opened for another reason.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is {found}, not a {wanted} namespace", path.display())]
    WrongKind {
        /// The path asked for.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The namespace belongs to a user namespace that is none of ours.
    #[error(
        "{} belongs to a user namespace outside of ours; \
         run netferry as the user who owns the container, outside of other containers",
        path.display()
    )]
    ForeignOwner {
        /// The path asked for.
        path: PathBuf,
    },
    /// The kernel refused the entry.
    #[error("not permitted to enter the {kind} namespace of {}; run netferry as the user who owns the container", path.display())]
    NotPermitted {
        /// User or network.
        kind: &'static str,
        /// The path asked for.
        path: PathBuf,
    },
    /// The entry failed for another reason.
    #[error("cannot enter the {kind} namespace of {}: {source}", path.display())]
    Enter {
        /// User or network.
        kind: &'static str,
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A setting forbids new namespaces.
    #[error("cannot make a user namespace: {setting} is {value}; as root: sysctl -w {setting}={remedy}")]
    Disabled {
        /// The sysctl.
        setting: &'static str,
        /// What it is.
        value: u64,
        /// What would do.
        remedy: u64,
    },
    /// Something that is no setting forbids new namespaces.
    #[error("cannot make a user, network and mount namespace: {source}; {hint}")]
    Unshare {
        /// What the kernel said.
        source: io::Error,
        /// What is known to cause it.
        hint: &'static str,
    },
}

/// The open files of a container's namespaces, checked to be what they should be.
#[derive(Debug)]
pub struct Namespaces {
    path: PathBuf,
    net: OwnedFd,
    /// None where it is the one we are in.
    user: Option<OwnedFd>,
}

impl NamespaceTarget {
    /// Opens the files and finds the user namespace.
    pub fn open(&self) -> Result<Namespaces, NamespaceError> {
        let (path, given_userns) = match self {
            NamespaceTarget::Pid(pid) => (process_netns(*pid)?, None),
            NamespaceTarget::Paths { netns, userns } => (netns.clone(), userns.as_deref()),
        };
        let net = open_namespace(&path, CloneFlags::CLONE_NEWNET).map_err(|error| match (self, error) {
            // It ended between our look and the opening.
            (NamespaceTarget::Pid(pid), NamespaceError::NoSuchPath { .. }) => {
                NamespaceError::NoSuchProcess { pid: *pid }
            }
            (_, error) => error,
        })?;
        let user = match given_userns {
            Some(userns) => open_namespace(userns, CloneFlags::CLONE_NEWUSER)?,
            None => owner(&net).map_err(|errno| match errno {
                Errno::EPERM => NamespaceError::ForeignOwner { path: path.clone() },
                other => {
                    NamespaceError::Enter { kind: "owning user", path: path.clone(), source: other.into() }
                }
            })?,
        };
        let user = if is_own_userns(&user) { None } else { Some(user) };
        Ok(Namespaces { path, net, user })
    }
}

impl Namespaces {
    /// Joins them. Only in a single-threaded process; there is no way back.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        if let Some(user) = &self.user {
            setns(user, CloneFlags::CLONE_NEWUSER).map_err(|errno| self.enter_error("user", errno))?;
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).map_err(|errno| self.enter_error("network", errno))
    }

    /// What is open for them.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.net.as_fd()), self.user.as_ref().map(AsFd::as_fd)].into_iter().flatten()
    }

    /// The inode of the network namespace, by which others name it.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        nix::sys::stat::fstat(&self.net).ok().map(|status| status.st_ino)
    }

    /// The user namespace alone, where it is another than ours. It keeps no network alive.
    pub fn into_user(self) -> Option<OwnedFd> {
        self.user
    }

    /// Whether entering means joining another user namespace.
    pub fn changes_user(&self) -> bool {
        self.user.is_some()
    }

    fn enter_error(&self, kind: &'static str, errno: Errno) -> NamespaceError {
        let path = self.path.clone();
        match errno {
            Errno::EPERM | Errno::EACCES => NamespaceError::NotPermitted { kind, path },
            other => NamespaceError::Enter { kind, path, source: other.into() },
        }
    }
}

/// Opens and joins the namespaces of `target`. Only in a single-threaded process; there is no way back.
pub fn enter(target: &NamespaceTarget) -> Result<(), NamespaceError> {
    target.open()?.enter()
}

/// Moves the calling, single-threaded process into a new user, network and mount namespace. Until its
/// identities are mapped from outside it is nobody there, with every capability.
pub fn unshare_user_net_mount() -> Result<(), NamespaceError> {
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(flags).map_err(|errno| unshare_error(errno, read_sysctl))
}

/// What stands behind a refused `unshare`: a setting if one is found, else what is known of the error.
fn unshare_error(errno: Errno, sysctl: impl Fn(&str) -> Option<u64>) -> NamespaceError {
    // Name, value that forbids, value that does not.
    const FORBIDDING: [(&str, u64, u64); 5] = [
        ("user.max_user_namespaces", 0, 15_000),
        ("user.max_net_namespaces", 0, 15_000),
        ("user.max_mnt_namespaces", 0, 15_000),
        ("kernel.unprivileged_userns_clone", 0, 1),
        ("kernel.apparmor_restrict_unprivileged_userns", 1, 0),
    ];
    for (setting, forbidding, remedy) in FORBIDDING {
        if sysctl(setting) == Some(forbidding) {
            return NamespaceError::Disabled { setting, value: forbidding, remedy };
        }
    }
    let hint = match errno {
        Errno::ENOSPC => {
            "there are too many already: raise user.max_user_namespaces and user.max_net_namespaces"
        }
        Errno::EUSERS => "user namespaces are nested too deeply",
        Errno::EPERM => "a container runtime's seccomp filter, a security module or a chroot forbids it",
        Errno::EINVAL | Errno::ENOSYS => "this kernel is built without user or network namespaces",
        _ => "see unshare(2)",
    };
    NamespaceError::Unshare { source: errno.into(), hint }
}

fn read_sysctl(name: &str) -> Option<u64> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn process_netns(pid: i32) -> Result<PathBuf, NamespaceError> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if pid <= 0 || !process.exists() {
        return Err(NamespaceError::NoSuchProcess { pid });
    }
    Ok(process.join("ns/net"))
}

fn open_namespace(path: &Path, wanted: CloneFlags) -> Result<OwnedFd, NamespaceError> {
    let path_buf = || path.to_path_buf();
    // A FIFO or a device in its place must not keep us waiting, hence the look at the kind first.
    let open = || {
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        File::open(path).map(Some)
    };
    let file = open().map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH) => {
            NamespaceError::NoSuchPath { path: path_buf() }
        }
        Some(Errno::EACCES | Errno::EPERM) => NamespaceError::NotReadable { path: path_buf() },
        _ => NamespaceError::Open { path: path_buf(), source },
    })?;
    let wrong_kind = |found| NamespaceError::WrongKind { path: path_buf(), wanted: kind_name(wanted), found };
    let file = file.ok_or_else(|| wrong_kind("no regular file"))?;
    match namespace_kind(&file) {
        Some(kind) if kind == wanted => Ok(file.into()),
        Some(kind) => Err(wrong_kind(kind_name(kind))),
        None => Err(wrong_kind("an ordinary file")),
    }
}

fn kind_name(kind: CloneFlags) -> &'static str {
    match kind {
        CloneFlags::CLONE_NEWNET => "network",
        CloneFlags::CLONE_NEWUSER => "user",
        _ => "another kind of namespace",
    }
}

/// What kind of namespace a file stands for; none if it is something else.
fn namespace_kind(file: &File) -> Option<CloneFlags> {
    // SAFETY: NS_GET_NSTYPE takes no argument; a file that is no namespace refuses it.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    Errno::result(kind).ok().map(CloneFlags::from_bits_retain)
}

/// The user namespace that owns another namespace.
fn owner(namespace: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor (close-on-exec) or an error.
    let fd: c_int = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether our user namespace is the one whose capabilities count in our network namespace.
pub(super) fn owns_own_network() -> bool {
    let owner = File::open("/proc/self/ns/net").map(|net| owner(&net.into()));
    matches!(owner, Ok(Ok(owner)) if is_own_userns(&owner))
}

/// Namespaces are the same where device and inode are (namespaces(7)). Where our own cannot be looked at, the
/// entry is tried, and will tell.
fn is_own_userns(other: &OwnedFd) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let own = fs::metadata("/proc/self/ns/user").map(identity);
    let other = fs::metadata(format!("/proc/self/fd/{}", other.as_raw_fd())).map(identity);
    matches!((own, other), (Ok(own), Ok(other)) if own == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(netns: &Path) -> NamespaceTarget {
        NamespaceTarget::Paths { netns: netns.to_path_buf(), userns: None }
    }

    #[test]
    fn a_process_that_is_not_there_is_told_by_its_number() {
        for pid in [0, -1, i32::MAX] {
            let error = NamespaceTarget::Pid(pid).open().unwrap_err();
            assert!(matches!(error, NamespaceError::NoSuchProcess { pid: found } if found == pid), "{error}");
        }
    }

    #[test]
    fn a_path_that_is_not_there_is_told() {
        let error = paths(Path::new("/proc/self/ns/nothing")).open().unwrap_err();
        assert!(matches!(error, NamespaceError::NoSuchPath { .. }), "{error}");
    }

    #[test]
    fn files_that_are_no_network_namespace_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        let cases = [
            (plain.as_path(), "an ordinary file, not a network namespace"),
            (directory.path(), "no regular file, not a network namespace"),
            (Path::new("/dev/null"), "no regular file, not a network namespace"),
            (Path::new("/proc/self/ns/user"), "user, not a network namespace"),
            (Path::new("/proc/self/ns/mnt"), "another kind of namespace, not a network namespace"),
        ];
        for (path, expected) in cases {
            let error = paths(path).open().unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn the_user_namespace_we_are_in_is_not_entered_again() {
        let namespaces = NamespaceTarget::Paths {
            netns: PathBuf::from("/proc/self/ns/net"),
            userns: Some(PathBuf::from("/proc/self/ns/user")),
        };
        assert!(!namespaces.open().unwrap().changes_user());
    }

    #[test]
    fn a_forbidding_setting_is_named_with_its_remedy() {
        let forbidden = |name: &str, value: u64| {
            let name = name.to_string();
            unshare_error(Errno::EPERM, move |asked| (asked == name).then_some(value)).to_string()
        };
        assert_eq!(
            forbidden("kernel.unprivileged_userns_clone", 0),
            "cannot make a user namespace: kernel.unprivileged_userns_clone is 0; \
             as root: sysctl -w kernel.unprivileged_userns_clone=1"
        );
        assert!(
            forbidden("user.max_user_namespaces", 0).contains("sysctl -w user.max_user_namespaces=15000")
        );
        assert!(
            forbidden("kernel.apparmor_restrict_unprivileged_userns", 1)
                .contains("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
        );
    }

    #[test]
    fn a_refusal_without_a_forbidding_setting_says_what_it_may_be() {
        let error = |errno| unshare_error(errno, |_| Some(1000)).to_string();
        assert!(error(Errno::EPERM).contains("seccomp"));
        assert!(error(Errno::ENOSPC).contains("raise user.max_user_namespaces"));
    }
}
