//! The sealed ground every case stands on, and how a case gets there.
//!
//! A case runs in a process of its own, started again from this very test binary inside fresh, anonymous
//! namespaces: network (the OUTER one, which plays the host), mount and PID, below a user namespace when the
//! suite is not run by root. It is PID 1 there, so whatever it started dies with it, and it dies with the test
//! thread that started it. A second network namespace, `world`, plays the internet:
//!
//! ```text
//! container (made by netferry)  --TAP-->  host: host0 203.0.113.1, 2001:db8:1::1
//!                                          |  default routes via 203.0.113.2 and fe80::1
//!                                         world: world0 203.0.113.2, 2001:db8:1::2, fe80::1
//!                                                lo     198.51.100.7, 2001:db8:2::7
//! ```
//!
//! Neither has another way out: no packet of a case can leave the machine.

#[path = "mounts.rs"]
mod mounts;

use std::any::type_name;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

pub use self::mounts::bind;
use self::mounts::{enter_root, mount_private_files};

/// Set in the process that already stands on the ground; its value says how it got there.
const SEALED: &str = "NETFERRY_SEALED";
/// Names the program to test; the one that cargo built otherwise.
const BIN: &str = "NETFERRY_BIN";
/// Permits a case that cannot run to be passed over, loudly. Never honoured when `CI` is set.
const ALLOW_SKIP: &str = "NETFERRY_ALLOW_SKIP";
/// Exit status of a case that cannot run here.
const CANNOT_RUN: i32 = 77;
/// A case that takes longer hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the program under test and the scratch files are mounted.
const MOUNT_POINT: &str = "/mnt";
/// The program under test, as everyone on the ground may run it.
pub const SUBJECT: &str = "/mnt/netferry";
/// A directory everyone may write to.
pub const SCRATCH: &str = "/mnt/scratch";
/// The unprivileged user of a suite run by root.
pub const USER: &str = "nf";
/// What programs on the ground are searched in.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A python that an unprivileged user may run.
pub const PYTHON: &str = "/usr/bin/python3";

/// The host's addresses on its one real link.
pub const HOST4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// See [`HOST4`].
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The world's nearest addresses.
pub const WORLD4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// See [`WORLD4`].
pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
const HOST_MAC: &str = "02:00:cb:00:71:01";
const WORLD_MAC: &str = "02:00:cb:00:71:02";
/// Addresses of the world that only the default route leads to.
pub const FAR4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// See [`FAR4`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
/// Destinations the host knows it cannot reach.
pub const UNREACHABLE4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// See [`UNREACHABLE4`].
pub const UNREACHABLE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1);

/// The near addresses of the world, one of each family.
pub const WORLDS: [IpAddr; 2] = [IpAddr::V4(WORLD4), IpAddr::V6(WORLD6)];

/// The kernel's own limits for TCP buffers; a new namespace would inherit what the machine was tuned to.
pub const TCP_BUFFERS: [(&str, &str); 2] =
    [("net/ipv4/tcp_rmem", "4096 131072 6291456"), ("net/ipv4/tcp_wmem", "4096 16384 4194304")];

/// Who may do what on the ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    /// Started by root: there is a real unprivileged user beside it.
    Root,
    /// Started by a user, who plays the host's root; the host's user is the same identity in a user namespace
    /// below, where it is not root and has no capability.
    User,
}

/// Host and world, as seen by the case that stands on them.
pub struct Ground {
    privilege: Privilege,
    world: File,
    /// The user namespace of the host's user, unless it is the host's own.
    user: Option<File>,
}

/// Runs `case` on a ground of its own, and fails as it fails. To be called by a `#[test]`, with a closure.
pub fn sealed<F: FnOnce(&Ground)>(case: F) {
    sealed_as::<F>(None, case);
}

/// The same with another root file system than the machine's, of which nothing is changed. `Named` is the type of a
/// closure of the `#[test]`, which it is found again by.
pub fn sealed_as<Named>(root: Option<&Path>, case: impl FnOnce(&Ground)) {
    if is_sealed() {
        if let Some(root) = root {
            enter_root(root);
        }
        let ground = Ground::build();
        case(&ground);
        return;
    }
    // "netns::http::a_page_is_fetched::{{closure}}" names the test as the harness knows it.
    let path = type_name::<Named>();
    let name =
        path.split("::").skip(1).take_while(|part| !part.starts_with('{')).collect::<Vec<_>>().join("::");
    let arguments = ["--exact", &name, "--nocapture", "--test-threads=1"];
    let mut child = seal(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv and unshare (util-linux) start");
    let stdout = drain(child.stdout.take().expect("piped"));
    let stderr = drain(child.stderr.take().expect("piped"));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("child can be waited for") {
            break Some(status);
        }
        if started.elapsed() > CASE_TIMEOUT + extra_time() {
            child.kill().expect("own child can be killed");
            child.wait().expect("own child can be waited for");
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = format!("{}\n{}", stdout.join().expect("reader"), stderr.join().expect("reader"));
    match status {
        Some(status) if status.success() => {
            // `--exact` with a wrong name would be a case that cannot fail.
            assert!(output.contains("1 passed"), "the case {name} was not found again:\n{output}");
            // For whoever reads what cases measure (`--nocapture`).
            let figures = output.lines().filter_map(|line| line.split_once("figures: "));
            figures.for_each(|(_, figures)| println!("{figures}"));
        }
        Some(status) if status.code() == Some(CANNOT_RUN) => pass_over(&name, &output),
        Some(status) => panic!("{name} ended with {status} on its ground:\n{output}"),
        None => panic!("{name} took more than {CASE_TIMEOUT:?}:\n{output}"),
    }
}

/// What a case that was asked to take longer may take in addition (docs/testing.md).
fn extra_time() -> Duration {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds: u64 =
        ["NETFERRY_FLOOD_SECONDS", "NETFERRY_PAUSE_SECONDS"].into_iter().filter_map(number).sum();
    // Every step of a start, some of which take seconds on a busy machine.
    let steps = number("NETFERRY_DEATH_STEPS").map_or(0, |_| 7_200);
    Duration::from_secs(seconds + steps)
}

/// This program again, with `arguments`, as PID 1 of its own namespaces, which die with the calling thread.
pub fn seal<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let privilege = privilege();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if privilege == Privilege::User {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
    command.arg(env::current_exe().expect("the test binary has a path")).args(arguments);
    command.env(SEALED, format!("{privilege:?}")).env("RUST_BACKTRACE", "0");
    command
}

/// Whether this process has been through [`seal`].
pub fn is_sealed() -> bool {
    env::var_os(SEALED).is_some()
}

/// Root may lack the capabilities (a container): then it is treated as the user it really is.
fn privilege() -> Privilege {
    static PRIVILEGE: OnceLock<Privilege> = OnceLock::new();
    *PRIVILEGE.get_or_init(|| {
        let namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"];
        let able = nix::unistd::geteuid().is_root()
            && Command::new("unshare").args(namespaces).output().is_ok_and(|output| output.status.success());
        if able { Privilege::Root } else { Privilege::User }
    })
}

/// The exit status of a whole program that ran on its ground.
#[allow(dead_code, reason = "only the target that is one case asks")]
pub fn verdict_of(name: &str, status: std::process::ExitStatus) -> std::process::ExitCode {
    if status.code() == Some(CANNOT_RUN) {
        pass_over(name, "CANNOT RUN: see above");
        return std::process::ExitCode::SUCCESS;
    }
    if status.success() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn pass_over(name: &str, output: &str) {
    // The harness may have begun the line with the name of the case.
    let said = output.lines().find_map(|line| line.find("CANNOT RUN").map(|at| &line[at..]));
    let reason = said.map_or_else(|| format!("CANNOT RUN: no reason in\n{output}"), str::to_owned);
    let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    let allowed = env::var_os(ALLOW_SKIP).is_some_and(|value| value == "1");
    assert!(allowed && !in_ci, "{name}: {reason}\n({ALLOW_SKIP}=1 passes over it outside CI)");
    // Past the harness's capture, which would hide it.
    writeln!(io::stderr(), "\nSKIPPED {name}: {reason}").expect("stderr is open");
}

/// Ends the case as one that cannot run here.
pub fn cannot_run(reason: &str) -> ! {
    println!("CANNOT RUN: {reason}");
    std::process::exit(CANNOT_RUN);
}

fn drain<R: Read + Send + 'static>(mut from: R) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A reader that fails keeps what it has; the status tells the rest.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Writes a sysctl of the network namespace the calling thread is in.
pub fn sysctl(name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Path of `program` in [`PATH`].
pub fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    PATH.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

impl Ground {
    /// Builds host and world around this process, which [`seal`] started.
    pub fn build() -> Ground {
        let is_ours = std::process::id() == 1 || nix::unistd::getppid().as_raw() == 1;
        assert!(is_ours, "the ground is only built in its own PID namespace");
        let privilege = match env::var(SEALED).as_deref() {
            Ok("Root") => Privilege::Root,
            _ => Privilege::User,
        };
        if !Path::new("/dev/net/tun").exists() {
            cannot_run("/dev/net/tun is missing: load the module tun (modprobe tun) or pass the device in");
        }
        if privilege == Privilege::Root && nix::unistd::User::from_name(USER).ok().flatten().is_none() {
            cannot_run("there is no unprivileged user: useradd --create-home nf");
        }
        for program in ["ip", "nsenter", "setpriv", "unshare", PYTHON] {
            if find_program(program).is_none() {
                cannot_run(&format!("{program} is missing: tests/run installs it, or says how"));
            }
        }
        mount_private_files();
        let ground =
            Ground { privilege, world: make_world(), user: (privilege == Privilege::User).then(make_user) };
        ground.set_up_host();
        ground.set_resolvers(&[WORLD4.into()]);
        ground
    }

    /// Fails the case, as one that cannot run here, unless all of `programs` are installed.
    pub fn needs(&self, programs: &[&str]) {
        let missing: Vec<_> =
            programs.iter().filter(|program| find_program(program).is_none()).copied().collect();
        if !missing.is_empty() {
            cannot_run(&format!("missing programs: {} (tests/run installs them)", missing.join(" ")));
        }
    }

    /// Whether the unprivileged user is one of the machine's, with identities of its own.
    #[allow(dead_code, reason = "only some of the targets that share this file ask")]
    pub fn is_built_by_root(&self) -> bool {
        self.privilege == Privilege::Root
    }

    /// The two know each other: now and then the kernel leaves the first neighbor solicitation over a new link
    /// unanswered, and what waits for the next one arrives a second late.
    fn set_up_host(&self) {
        set_up_namespace();
        let world = path_of(&self.world);
        ip_batch(&format!(
            "link set lo up\n\
             link add host0 address {HOST_MAC} type veth peer name world0 address {WORLD_MAC} netns {world}\n\
             address add {HOST4}/24 dev host0\n\
             address add {HOST6}/64 dev host0 nodad\n\
             link set host0 up\n\
             neighbor add fe80::1 lladdr {WORLD_MAC} dev host0 nud permanent\n\
             neighbor add {WORLD6} lladdr {WORLD_MAC} dev host0 nud permanent\n\
             route add default via {WORLD4}\n\
             route add unreachable {UNREACHABLE4}/32\n\
             route add unreachable {UNREACHABLE6}/128\n"
        ));
        self.in_world(|| {
            ip_batch(&format!(
                "link set lo up\n\
                 address add {FAR4}/32 dev lo\n\
                 address add {FAR6}/128 dev lo nodad\n\
                 address add {WORLD4}/24 dev world0\n\
                 address add {WORLD6}/64 dev world0 nodad\n\
                 address add fe80::1/64 dev world0 nodad\n\
                 link set world0 up\n\
                 neighbor add {HOST6} lladdr {HOST_MAC} dev world0 nud permanent\n"
            ));
        });
        ip_batch("route add default via fe80::1 dev host0\n");
    }

    /// Opens the host's ping sockets to everyone. They are closed until then, as the kernel has it.
    pub fn allow_ping(&self) {
        let groups = match self.privilege {
            Privilege::Root => "0 2147483647",
            // Only one group exists here, and the kernel refuses the names of others.
            Privilege::User => "0 0",
        };
        sysctl("net/ipv4/ping_group_range", groups);
    }

    /// Calls `f` on a thread that lives in the world: what it opens or starts stays there.
    pub fn in_world<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        within(&self.world, f)
    }

    /// `program`, to be run on the host by the unprivileged user.
    pub fn user(&self, program: &str) -> Command {
        let mut command = match &self.user {
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", USER, "--regid", USER, "--init-groups"]);
                command
            }
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--user={}", path_of(namespace))).arg("--preserve-credentials");
                command
            }
        };
        command.arg(program);
        plain_environment(&mut command);
        command.env("USER", USER);
        command
    }

    /// `program`, to be run on the host by its root.
    pub fn root(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        plain_environment(&mut command);
        command
    }

    /// The program under test with `arguments`, as the unprivileged user starts it. `NETFERRY_WORKERS` has all of its own
    /// instances served by so many threads, to see every test under several.
    pub fn netferry(&self, arguments: &[&str]) -> Command {
        let mut command = self.user(SUBJECT);
        let workers = std::env::var("NETFERRY_WORKERS").ok();
        match (arguments, &workers) {
            ([verb @ ("run" | "attach"), rest @ ..], Some(workers)) => {
                command.args([verb, "--workers", workers]).args(rest)
            }
            (arguments, _) => command.args(arguments),
        };
        command
    }

    /// Rewrites the host's `/etc/resolv.conf` in place.
    pub fn set_resolvers(&self, resolvers: &[IpAddr]) {
        fs::write("/etc/resolv.conf", resolv_conf(resolvers)).expect("resolv.conf is ours");
    }

    /// Puts a copy in place of `/etc`, so that files in it can be replaced by renaming as real tools do.
    pub fn make_etc_private(&self) {
        let copy = Path::new(MOUNT_POINT).join("etc");
        // Unreadable files (shadow, when not root) are not needed.
        let _ = Command::new("cp").args(["--archive", "/etc"]).arg(&copy).stderr(Stdio::null()).status();
        bind(&copy, Path::new("/etc"));
    }

    /// Replaces the host's `/etc/resolv.conf` by renaming; `make_etc_private` comes first.
    pub fn replace_resolvers(&self, resolvers: &[IpAddr]) {
        fs::write("/etc/resolv.conf.new", resolv_conf(resolvers)).expect("etc is private");
        fs::rename("/etc/resolv.conf.new", "/etc/resolv.conf").expect("etc is private");
    }

    /// What could be left behind by the program under test, to be compared before and after.
    pub fn belongings(&self) -> Belongings {
        Belongings {
            processes: processes(),
            links: self.text_of("ip", &["-brief", "link"]),
            namespaces: fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines().count(),
            files: files_below(&["/tmp", SCRATCH]),
        }
    }

    /// Waits a moment for the last children to go, then fails unless all is as it was in `before`.
    pub fn assert_nothing_left(&self, before: &Belongings) {
        let now = self.belongings_after(before);
        assert_eq!(&now, before, "something was left behind (left: now, right: before)");
        let text = self.text_of("ss", &["--no-header", "--listening", "--tcp", "--udp", "--numeric"]);
        let listening: Vec<_> = text.lines().filter(|line| line.contains("netferry")).collect();
        assert!(listening.is_empty(), "sockets left behind: {listening:?}");
    }

    /// What there is when the last children have had a moment to go.
    pub fn belongings_after(&self, before: &Belongings) -> Belongings {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut now = self.belongings();
        while now != *before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
            now = self.belongings();
        }
        now
    }

    /// Standard output of a short host command.
    pub fn text_of(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.root(program).args(arguments).output().expect("program starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// See [`Ground::belongings`].
#[derive(Debug, PartialEq, Eq)]
pub struct Belongings {
    processes: Vec<String>,
    links: String,
    namespaces: usize,
    files: Vec<PathBuf>,
}

/// Living processes of this PID namespace but PID 1 and the calling one, as "pid command".
pub fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        let command = stat.split_once(' ').and_then(|(_, rest)| rest.rsplit_once(") ")).map(|(name, _)| name);
        if ![1, std::process::id()].contains(&pid) && state != Some('Z') {
            found.push(format!("{pid} {})", command.unwrap_or_default()));
        }
    }
    found.sort();
    found
}

fn files_below(directories: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("directory").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
                // Where instances of a user meet stays; what they have there does not.
                if entry.file_name().to_string_lossy().starts_with("netferry-") {
                    continue;
                }
            }
            found.push(entry.path());
        }
    }
    // A user's directory of control sockets stays; what lies in it does not.
    found.retain(|path| !(path.is_dir() && path.to_string_lossy().starts_with("/tmp/netferry-")));
    found.sort();
    found
}

/// Calls `f` on a thread that lives in this network namespace.
pub fn within<T: Send>(namespace: &File, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            f()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn plain_environment(command: &mut Command) {
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").env("HOME", SCRATCH).env("SHELL", "/bin/sh");
    command.env("TERM", "dumb").current_dir("/").stdin(Stdio::null());
}

fn resolv_conf(resolvers: &[IpAddr]) -> String {
    resolvers.iter().map(|address| format!("nameserver {address}\n")).collect()
}

/// Runs these lines of `ip` in the namespace the calling thread is in.
pub fn ip_batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ip (iproute2) starts");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("ip reads its batch");
    let output = child.wait_with_output().expect("ip can be waited for");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip -batch said {complaint}of:\n{lines}");
}

/// What both host and world have, whatever the machine outside is tuned to.
fn set_up_namespace() {
    sysctl("net/ipv4/tcp_congestion_control", "reno");
    for (name, value) in TCP_BUFFERS {
        sysctl(name, value);
    }
    for which in ["all", "default"] {
        sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0");
        sysctl(&format!("net/ipv6/conf/{which}/disable_ipv6"), "0");
    }
    // A thousand connections from one test are no attack.
    sysctl("net/core/somaxconn", "4096");
}

/// One more network namespace, with nothing in it.
pub fn make_world() -> File {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
        set_up_namespace();
        File::open("/proc/thread-self/ns/net").expect("a namespace can be held open")
    })
    .join()
    .expect("the world is made")
}

/// A user namespace in which this identity is an ordinary user.
fn make_user() -> File {
    let mut holder = Command::new("unshare")
        .args(["--user", "--map-user=1000", "--map-group=1000", "sh", "-c", "echo up; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare (util-linux) starts");
    holder.stdout.take().expect("piped").read_exact(&mut [0; 3]).expect("the namespace is made");
    let namespace =
        File::open(format!("/proc/{}/ns/user", holder.id())).expect("a namespace can be held open");
    holder.kill().expect("own child");
    holder.wait().expect("own child");
    namespace
}

/// Where other programs of this PID namespace find what PID 1 holds open.
pub fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
