//! What a private mount namespace shows in place of the host's files: `/etc/resolv.conf` and `/sys`.
//!
//! Everything is put together on a tmpfs that covers an ordinary directory for a moment and is then detached,
//! so that nothing is written to any disk and nothing is left behind: what was mounted from it keeps it alive
//! until the mount namespace ends. Meant for the forked child, in the mount namespace it has just made
//! ([`crate::sys::namespace::unshare_user_net_mount`]), as root there. References: mount_namespaces(7), mount(2).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Directories that may be covered for a moment; nobody else is in the namespace yet.
const STAGING: [&str; 4] = ["/tmp", "/run", "/mnt", "/dev"];

/// Why a file could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is nothing to put our file over.
    #[error(
        "no {RESOLV_CONF} to replace in the container (it is missing, or a link to nothing); make the file"
    )]
    NoResolvConf,
    /// None of the directories needed for a moment is there.
    #[error("no directory to prepare a mount in; make one of /tmp, /run, /mnt")]
    NoStaging,
    /// A step failed.
    #[error("cannot {doing}: {source}")]
    Step {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn step<T, E: Into<io::Error>>(doing: impl Into<String>, result: Result<T, E>) -> Result<T, MountError> {
    result.map_err(|error| MountError::Step { doing: doing.into(), source: error.into() })
}

/// Keeps whatever is mounted or unmounted from now on to this mount namespace.
pub fn make_private() -> Result<(), MountError> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let result = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
    step("make the mount namespace private", result)
}

/// Makes `/etc/resolv.conf`, or what it is a link to, read as `content`. The mount namespace must be private.
pub fn bind_resolv_conf(content: &str) -> Result<(), MountError> {
    let target = fs::canonicalize(RESOLV_CONF).map_err(|_| MountError::NoResolvConf)?;
    with_staging(&target, |staging| {
        let file = staging.join("resolv.conf");
        step("write the container's resolv.conf", fs::write(&file, content))?;
        // Whatever the umask: others than root read it too.
        step(
            "open the container's resolv.conf to all",
            fs::set_permissions(&file, Permissions::from_mode(0o644)),
        )?;
        bind(&file, &target, MsFlags::empty())
    })
}

/// Makes `/sys/class/net` show the interfaces of this network namespace instead of the host's. What is mounted
/// below `/sys` (control groups) stays. Answers whether it could be done; if not, nothing has changed.
pub fn show_own_sysfs() -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let sys = Path::new("/sys");
    let result = with_staging(sys, |staging| {
        let fresh = staging.join("sys");
        step("make a directory", fs::create_dir(&fresh))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        step("mount sysfs", mount(Some("sysfs"), &fresh, Some("sysfs"), flags, None::<&str>))?;
        for below in mount_points_below(&mounts, sys) {
            let relative = below.strip_prefix(sys).unwrap_or(&below);
            bind(&below, &fresh.join(relative), MsFlags::MS_REC)?;
        }
        step("move sysfs", mount(Some(&fresh), sys, None::<&str>, MsFlags::MS_MOVE, None::<&str>))
    });
    result.is_ok()
}

/// Runs `work` with a tmpfs on a directory that `kept` does not lie in, and takes it away again.
fn with_staging(kept: &Path, work: impl FnOnce(&Path) -> Result<(), MountError>) -> Result<(), MountError> {
    let staging = STAGING
        .iter()
        .map(Path::new)
        .find(|directory| directory.is_dir() && !directory.is_symlink() && !kept.starts_with(directory))
        .ok_or(MountError::NoStaging)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("netferry"), staging, Some("tmpfs"), flags, Some("mode=0755,size=64k"));
    step(format!("mount a tmpfs on {}", staging.display()), mounted)?;
    let result = work(staging);
    // Detached with all that was mounted in it and not moved or bound elsewhere.
    let detached = step(format!("unmount {}", staging.display()), umount2(staging, MntFlags::MNT_DETACH));
    result.and(detached)
}

fn bind(from: &Path, to: &Path, extra: MsFlags) -> Result<(), MountError> {
    let result = mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | extra, None::<&str>);
    step(format!("mount over {}", to.display()), result)
}

/// The uppermost mount points below `directory`, each once (proc_pid_mountinfo(5)).
fn mount_points_below(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> =
        mount_points(mountinfo).filter(|point| point.starts_with(directory) && point != directory).collect();
    points.sort();
    // In order, whatever lies below a point follows it.
    points.dedup_by(|later, earlier| later.starts_with(earlier));
    points
}

/// Every mount point, in the kernel's order.
pub(super) fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)))
}

/// The kernel writes blanks and backslashes in paths as three octal digits.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_string(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_mounts_below_a_directory_are_found_once() {
        let mountinfo = "\
            21 1 0:19 / / rw - ext4 /dev/vda rw\n\
            22 21 0:20 / /sys rw - sysfs sysfs rw\n\
            23 22 0:21 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n\
            24 23 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw\n\
            25 22 0:23 / /sys/kernel/a\\040b rw - debugfs debugfs rw\n\
            26 22 0:23 / /sys/kernel/a\\040b rw - debugfs debugfs rw\n\
            27 21 0:24 / /system rw - tmpfs tmpfs rw\n";
        let found = mount_points_below(mountinfo, Path::new("/sys"));
        assert_eq!(found, [Path::new("/sys/fs/cgroup"), Path::new("/sys/kernel/a b")]);
    }

    #[test]
    fn a_mount_that_merely_begins_alike_is_kept_apart() {
        let mountinfo =
            "1 0 0:1 / /sys/a rw - t t rw\n2 0 0:2 / /sys/ab rw - t t rw\n3 0 0:3 / /sys/a/c rw - t t rw\n";
        let found = mount_points_below(mountinfo, Path::new("/sys"));
        assert_eq!(found, [Path::new("/sys/a"), Path::new("/sys/ab")]);
    }
}
