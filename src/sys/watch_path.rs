//! Being told when the file goes that a network namespace is known by.
//!
//! A namespace lives as long as somebody holds it, and we may do so ourselves; what its maker takes away is its
//! file. A file of a directory is watched by inotify(7); procfs has no such events, but its files go with the
//! process whose directory they are in, which is watched as one (pidfd_open(2)).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::process::watch_process;

/// Watches one path.
#[derive(Debug)]
pub enum PathWatch {
    /// A file of this name, in the directory that is watched.
    File {
        /// The watch on the directory.
        events: Inotify,
        /// The name.
        name: OsString,
    },
    /// The process that the path is about.
    Process(OwnedFd),
}

impl PathWatch {
    /// Watches `path`, which is there.
    pub fn open(path: &Path) -> io::Result<PathWatch> {
        if let Some(pid) = process_of(path) {
            return watch_process(pid).map(PathWatch::Process);
        }
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        let name = path.file_name().ok_or_else(missing)?.to_owned();
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let events = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE_SELF;
        events.add_watch(directory, what)?;
        // It may have gone before it was watched.
        match std::fs::symlink_metadata(path) {
            Ok(_) => Ok(PathWatch::File { events, name }),
            Err(error) => Err(error),
        }
    }

    /// Takes what has happened, and tells whether the file is gone. To be called when the descriptor is readable.
    pub fn is_gone(&self) -> bool {
        let PathWatch::File { events, name } = self else { return true };
        let mut gone = false;
        loop {
            match events.read_events() {
                Ok(read) => {
                    gone |= read.iter().any(|event| {
                        let is_directory = event.mask.intersects(
                            AddWatchFlags::IN_DELETE_SELF
                                | AddWatchFlags::IN_IGNORED
                                | AddWatchFlags::IN_Q_OVERFLOW,
                        );
                        is_directory || event.name.as_ref() == Some(name)
                    });
                }
                Err(Errno::EINTR) => {}
                Err(_) => return gone,
            }
        }
    }
}

impl AsFd for PathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            PathWatch::File { events, .. } => events.as_fd(),
            PathWatch::Process(pidfd) => pidfd.as_fd(),
        }
    }
}

/// The process whose directory in procfs holds `path` directly, as `/proc/PID/ns/net`. What lies below its `root`
/// are files as others are.
fn process_of(path: &Path) -> Option<i32> {
    let mut components = path.components().skip_while(|component| *component == Component::RootDir);
    if components.next()?.as_os_str() != "proc" {
        return None;
    }
    let pid = components.next()?.as_os_str().to_str()?.parse().ok().filter(|pid| *pid > 0)?;
    let next = components.next()?.as_os_str();
    (next == "ns" || next == "task" || next == "fd").then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_procfs_is_about_its_process() {
        assert_eq!(process_of(Path::new("/proc/42/ns/net")), Some(42));
        assert_eq!(process_of(Path::new("/proc/42/root/run/netns")), None);
        assert_eq!(process_of(Path::new("/proc/self/ns/net")), None);
        assert_eq!(process_of(Path::new("/run/netns/name")), None);
    }

    #[test]
    fn only_the_end_of_the_file_itself_is_told() {
        let directory = std::env::temp_dir().join(format!("netferry-watch-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let (file, other) = (directory.join("netns"), directory.join("other"));
        for path in [&file, &other] {
            std::fs::write(path, "").unwrap();
        }
        let watch = PathWatch::open(&file).unwrap();
        std::fs::remove_file(&other).unwrap();
        assert!(!watch.is_gone());
        std::fs::remove_file(&file).unwrap();
        assert!(watch.is_gone());
        assert!(PathWatch::open(&file).is_err());
        std::fs::remove_dir(&directory).unwrap();
    }
}
