//! A user of rootless containers on the sealed ground: directories, settings, a delegated control group.
//!
//! Everything that a client would find on a machine with a login session is made by hand, and everything it would
//! change there is private to the case: `/dev` (with the lock file of podman in `/dev/shm` and the log socket of
//! aardvark-dns), the home directory, the runtime directory. The control group is the one thing outside; it goes
//! with the session.

use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::{Pid, User};

use crate::FACE;
use crate::ground::{Ground, PATH, SUBJECT, USER, bind, cannot_run};
use crate::process::{Outcome, start};

/// A directory with nothing but the program under test, under the name that clients look for.
pub const DIRECTORY: &str = "/mnt/bin";
const HOME: &str = "/tmp/home";
const RUNTIME: &str = "/tmp/runtime";
/// Settings that leave the program under test to the search path.
const NAMELESS: &str = "/tmp/home/.config/containers/nameless.conf";
const CGROUPS: &str = "/sys/fs/cgroup";
/// What a client may take for one command.
const LIMIT: Duration = Duration::from_secs(60);

/// What the program under test stands for.
pub struct Face {
    /// The name that clients look for.
    pub name: &'static str,
    /// The environment variable that names another program to be run in its place.
    pub other: &'static str,
    /// The line of containers.conf that has podman find it.
    pub setting: &'static str,
}

/// See the module.
pub struct Session<'a> {
    pub ground: &'a Ground,
    /// The program under test.
    pub subject: Subject,
    cgroup: PathBuf,
}

/// The program under test, as a file.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    device: u64,
    inode: u64,
}

impl Subject {
    /// Whether process `pid` executes it.
    pub fn is_run_by(self, pid: u32) -> bool {
        // Followed by the kernel, whatever the process sees of the file system itself.
        fs::metadata(format!("/proc/{pid}/exe"))
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode))
    }
}

impl<'a> Session<'a> {
    /// Logs the unprivileged user in.
    pub fn start(ground: &'a Ground) -> Session<'a> {
        ground.needs(&["ss", "newuidmap", "newgidmap", "bash", "tar", "ldd"]);
        let subject = env::var(FACE.other).unwrap_or_else(|_| SUBJECT.to_owned());
        if !ground.is_built_by_root() {
            cannot_run(
                "clients need a user with subordinate identities beside the one of the suite: run as root",
            );
        }
        let subordinate = |path| fs::read_to_string(path).unwrap_or_default().contains(&format!("{USER}:"));
        if !(subordinate("/etc/subuid") && subordinate("/etc/subgid")) {
            cannot_run("the user nf has no subordinate identities: usermod --add-subuids and --add-subgids");
        }
        let user = User::from_name(USER).ok().flatten().expect("the ground has found it");
        let own = |path: &str, mode| {
            fs::create_dir_all(path).expect("private directory");
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("private directory");
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("private directory");
        };
        own(HOME, 0o755);
        own(RUNTIME, 0o700);
        for (name, content) in settings() {
            let directory = format!("{HOME}/.config/containers");
            fs::create_dir_all(&directory).expect("private directory");
            fs::write(format!("{directory}/{name}"), content).expect("private file");
        }
        own(&format!("{HOME}/.config"), 0o755);
        own(&format!("{HOME}/.config/containers"), 0o755);
        fs::create_dir(DIRECTORY).expect("private directory");
        let link = Path::new(DIRECTORY).join(FACE.name);
        symlink(&subject, &link).expect("private directory");
        let metadata =
            fs::metadata(&link).unwrap_or_else(|error| panic!("{} {subject}: {error}", FACE.other));
        make_dev_private();
        // As it is on a machine that was booted: what a client mounts into a namespace of its own comes and goes.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
            .expect("mounts are ours");
        let cgroup = enter_cgroup(&user);
        let subject = Subject { device: metadata.dev(), inode: metadata.ino() };
        Session { ground, subject, cgroup }
    }

    /// `program`, to be run by the user with the settings of the session.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // What the harness was started with (the jobs of cargo) is none of the client's business.
        let script = r#"for fd in /proc/self/fd/*; do
            if [ "${fd##*/}" -gt 2 ]; then eval "exec ${fd##*/}>&-"; fi
        done
        exec "$@""#;
        let mut command = self.ground.user("bash");
        command.args(["-c", script, "bash", program]).args(arguments);
        command.env("HOME", HOME).env("XDG_RUNTIME_DIR", RUNTIME).env("TMPDIR", "/tmp").current_dir(HOME);
        command
    }

    /// The same, where no setting names the program under test but it is the first of its name in the search path.
    pub fn command_by_path(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(program, arguments);
        command.env("PATH", format!("{DIRECTORY}:{PATH}")).env("CONTAINERS_CONF", NAMELESS);
        command
    }

    /// Runs podman to its end.
    #[track_caller]
    pub fn podman(&self, arguments: &[&str]) -> Outcome {
        finish(self.command("podman", arguments))
    }

    /// Processes that execute the program under test.
    pub fn relays(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").expect("proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| self.subject.is_run_by(pid)).collect()
    }

    /// The one process that executes the program under test, but for those that it has made itself.
    #[track_caller]
    pub fn relay(&self) -> u32 {
        let all = self.relays();
        let is_made_by_another = |pid: &u32| parent_of(*pid).is_some_and(|parent| all.contains(&parent));
        let relays: Vec<u32> = all.iter().copied().filter(|pid| !is_made_by_another(pid)).collect();
        assert_eq!(relays.len(), 1, "there is to be one relay: {relays:?} of {all:?}");
        relays[0]
    }

    /// Fails the case unless the last process of the program under test goes now.
    #[track_caller]
    pub fn assert_relays_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.relays().is_empty() {
            assert!(Instant::now() < deadline, "still running: {:?}", self.ground.text_of("ps", &["-ef"]));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Runs a client to its end.
#[track_caller]
pub fn finish(command: Command) -> Outcome {
    start(command).finish(LIMIT)
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            print_logs(Path::new(RUNTIME));
        }
        // All there is in this PID namespace but its first process, which is this one.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        while wait() != Err(Errno::ECHILD) {}
        let _ = fs::write(format!("{CGROUPS}/cgroup.procs"), "0");
        remove_cgroup(&self.cgroup);
    }
}

/// What relays have said before they failed; clients tell only some of it.
fn print_logs(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            print_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log")
            && !path.ends_with("events.log")
        {
            println!("--- {}\n{}---", path.display(), fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

fn settings() -> [(&'static str, String); 5] {
    let containers = "[containers]\n\
         log_driver = \"k8s-file\"\n\
         [network]\n\
         network_backend = \"netavark\"\n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         runtime = \"crun\"\n";
    [
        ("containers.conf", format!("{containers}{}\n", FACE.setting)),
        ("nameless.conf", containers.to_owned()),
        ("storage.conf", "[storage]\ndriver = \"overlay\"\n".to_owned()),
        ("policy.json", "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}\n".to_owned()),
        ("registries.conf", "unqualified-search-registries = []\n".to_owned()),
    ]
}

/// A `/dev` with what a user's programs need, and a log that swallows everything.
fn make_dev_private() {
    let dev = Path::new("/mnt/dev");
    fs::create_dir(dev).expect("private directory");
    let mode = Some("mode=0755");
    mount(Some("tmpfs"), dev, Some("tmpfs"), MsFlags::empty(), mode).expect("a private directory");
    for name in ["null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun"] {
        let (device, place) = (Path::new("/dev").join(name), dev.join(name));
        if device.exists() {
            fs::create_dir_all(place.parent().expect("below /mnt/dev")).expect("private directory");
            File::create(&place).expect("private directory");
            bind(&device, &place);
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name)).expect("private directory");
    }
    for (kind, place, options) in
        [("tmpfs", "shm", "mode=1777"), ("devpts", "pts", "newinstance,ptmxmode=0666,mode=0620")]
    {
        let place = dev.join(place);
        fs::create_dir(&place).expect("private directory");
        mount(Some(kind), &place, Some(kind), MsFlags::empty(), Some(options)).expect("a private directory");
    }
    bind(dev, Path::new("/dev"));
    let log = UnixDatagram::bind("/dev/log").expect("no other log here");
    fs::set_permissions("/dev/log", Permissions::from_mode(0o666)).expect("private file");
    thread::spawn(move || while log.recv(&mut [0; 4096]).is_ok() {});
}

/// Moves this process into a new group that belongs to `user`, below the one it was started in.
fn enter_cgroup(user: &User) -> PathBuf {
    mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .unwrap_or_else(|error| cannot_run(&format!("cgroup2 on {CGROUPS}: {error}")));
    let current = fs::read_to_string("/proc/self/cgroup").expect("proc");
    let current = current.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // Unique on the machine: PIDs of other cases are not seen here.
    let namespace = fs::metadata("/proc/self/ns/pid").expect("proc").ino();
    // The number of a namespace that has just gone is soon given again, while its group is still being removed.
    let names =
        (0..).map(|round| Path::new(CGROUPS).join(current).join(format!("netferry-{namespace}-{round}")));
    let mut made = names.map(|group| (fs::create_dir(&group), group));
    let (made, group) = made.find(|(made, _)| !is_taken(made)).expect("there is always another name");
    let leaf = group.join("clients");
    made.and_then(|()| fs::create_dir(&leaf)).unwrap_or_else(|error| {
        cannot_run(&format!("a control group at {}: {error}", group.display()));
    });
    for directory in [&group, &leaf] {
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(directory.join(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("own group");
        }
    }
    fs::write(leaf.join("cgroup.procs"), "0").expect("own group");
    group
}

fn is_taken(made: &std::io::Result<()>) -> bool {
    made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
}

fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // The kernel may still be taking leave of the dead.
    let deadline = Instant::now() + Duration::from_secs(2);
    while fs::remove_dir(group).is_err_and(|error| error.raw_os_error() == Some(Errno::EBUSY as i32))
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(5));
    }
}
