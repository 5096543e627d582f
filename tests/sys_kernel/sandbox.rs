//! The sandbox: what is left of the file system, and what still works.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use netferry::sys::descriptor::{pair, receive_descriptor, send_descriptor};
use netferry::sys::process::{
    Child, ExitKind, Signal, SignalMask, exec, fork_child, set_parent_death_signal,
};
use netferry::sys::resolv_conf::{self, ResolvConfWatch};
use netferry::sys::sandbox::{SandboxPlan, enter};
use nix::mount::{MsFlags, mount};

use crate::Case;
use crate::container::contained;

pub const CASES: &[Case] = &[
    ("sandbox_of_a_root_of_its_namespace_shows_only_what_is_needed", of_root),
    ("sandbox_of_a_plain_user_shows_only_what_is_needed", of_user),
    ("sandbox_joins_the_container_where_no_user_namespace_may_be_made", of_container),
    ("sandbox_without_any_namespace_says_so", of_nothing),
    ("sandbox_shows_nothing_where_nothing_is_needed", of_no_files),
    ("sandbox_keeps_the_low_ports_of_a_root_of_its_network", low_ports),
    ("sandbox_is_refused_to_a_process_of_several_threads", of_threads),
    ("sandbox_reaches_no_process_and_no_abstract_socket_outside", landlock),
];

/// Set once the case runs without capabilities; its value is the number of the container's process.
const BARE: &str = "NETFERRY_SYS_KERNEL_BARE";
const RESOLV_CONF: &str = resolv_conf::PATH;

fn tmpfs(target: &str) {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=0777")).unwrap();
}

fn of_threads() {
    contained(|| {
        let end = child_of_this(|| {
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            let other = std::thread::spawn(move || receiver.recv());
            let error = enter(&SandboxPlan::default()).unwrap_err().to_string();
            assert!(error.contains("there are 2 threads"), "{error}");
            drop(sender);
            drop(other.join());
        });
        assert_eq!(end.wait().unwrap(), ExitKind::Exited(0));
    });
}

/// So that a test that fails leaves nobody waiting.
fn child_of_this(body: impl FnOnce()) -> Child {
    let parent = i32::try_from(std::process::id()).unwrap();
    let child = fork_child(|| {
        set_parent_death_signal(Signal::SIGKILL, parent).unwrap();
        body();
        0
    });
    child.unwrap()
}

/// A host as systemd-resolved has it, with more than the relay should see.
fn furnish() {
    for target in ["/etc", "/run", "/home"] {
        tmpfs(target);
    }
    fs::create_dir_all("/run/service/resolve").unwrap();
    fs::write("/run/secret", "x").unwrap();
    fs::write("/home/secret", "x").unwrap();
    fs::write("/run/service/resolve/stub.conf", "nameserver 192.0.2.1\n").unwrap();
    // An ordinary user plays the host as well.
    for path in ["/run/service/resolve", "/run/service/resolve/stub.conf"] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    symlink("../run/service/resolve/stub.conf", RESOLV_CONF).unwrap();
}

fn entries(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn plan<'a>() -> SandboxPlan<'a> {
    SandboxPlan { files: vec![Path::new(RESOLV_CONF)], ..SandboxPlan::default() }
}

fn server() -> String {
    resolv_conf::read(Path::new(RESOLV_CONF)).unwrap().servers[0].ip().to_string()
}

fn hear(socket: &OwnedFd) -> bool {
    receive_descriptor(socket, &mut [0; 16]).unwrap().0 > 0
}

/// A relay that enters the sandbox and lives in it, and what the host does meanwhile.
fn confined(plan: SandboxPlan<'_>) {
    let (near, far) = pair().unwrap();
    // As a careless parent would leave them behind: a way out, and a file that is none.
    let root = fs::File::open("/").unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    // What it takes with it is closed here, so that its end is heard.
    let child = child_of_this(move || {
        let mut watch = ResolvConfWatch::open(Path::new(RESOLV_CONF)).unwrap();
        enter(&plan).unwrap();
        assert!(nix::sys::stat::fstat(root.as_fd()).is_err(), "a descriptor leads out");
        std::mem::forget(root);
        nix::sys::stat::fstat(null.as_fd()).unwrap();
        assert_eq!(entries("/"), ["etc", "run"]);
        assert_eq!(entries("/etc"), ["resolv.conf"]);
        assert_eq!(entries("/run"), ["service"]);
        assert_eq!(entries("/run/service"), ["resolve"]);
        assert_eq!(fs::canonicalize(".").unwrap(), Path::new("/"));
        assert_eq!(fs::canonicalize("/../..").unwrap(), Path::new("/"));
        for path in ["/new", "/etc/new", "/run/service/resolve/new", "/run/service/resolve/stub.conf"] {
            let error = fs::write(path, "x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{path}");
        }
        assert_eq!(server(), "192.0.2.1");
        send_descriptor(&far, None, b"confined").unwrap();
        for expected in ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"] {
            assert!(hear(&far));
            assert!(watch.drain(), "{expected}");
            assert_eq!(server(), expected);
            send_descriptor(&far, None, b"seen").unwrap();
        }
    });
    assert!(hear(&near), "{:?}", child.wait());
    assert_confined(&child);
    let stub = "/run/service/resolve/stub.conf";
    let changes: [&dyn Fn(); 4] = [
        &|| fs::write(stub, "nameserver 192.0.2.2\n").unwrap(),
        &|| {
            fs::write("/run/service/resolve/new", "nameserver 192.0.2.3\n").unwrap();
            fs::rename("/run/service/resolve/new", stub).unwrap();
        },
        &|| {
            fs::write("/run/service/resolve/other", "nameserver 192.0.2.4\n").unwrap();
            symlink("/run/service/resolve/other", "/etc/new").unwrap();
            fs::rename("/etc/new", RESOLV_CONF).unwrap();
        },
        &|| {
            fs::write("/etc/new", "nameserver 192.0.2.5\n").unwrap();
            fs::rename("/etc/new", RESOLV_CONF).unwrap();
        },
    ];
    for change in changes {
        change();
        send_descriptor(&near, None, b"changed").unwrap();
        assert!(hear(&near), "{:?}", child.wait());
    }
    assert_eq!(child.wait().unwrap(), ExitKind::Exited(0));
}

fn status_of(child: &Child, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().to_string()
}

fn assert_confined(child: &Child) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_of(child, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_of(child, "NoNewPrivs"), "1");
}

fn of_root() {
    contained(|| {
        furnish();
        confined(plan());
    });
}

/// An ordinary user, there in every container of these tests.
const USER: &str = "1";

/// Runs `body` in a container as an ordinary user, once `prepare` has been called as root, which answers a number for
/// it. This program again, from a place that everyone may run it from.
fn bare(prepare: impl FnOnce() -> i32, body: impl FnOnce(i32)) {
    if let Ok(number) = std::env::var(BARE) {
        body(number.parse().unwrap());
        return;
    }
    contained(|| {
        let number = format!("{BARE}={}", prepare());
        let own = "/home/case";
        fs::copy(std::env::current_exe().unwrap(), own).unwrap();
        let words = ["env", &number, "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", own];
        let mask = SignalMask::current().unwrap();
        match exec(&words.map(Into::into), &mask) {
            Ok(never) => match never {},
            Err(error) => panic!("{error}"),
        }
    });
}

fn of_user() {
    let prepare = || {
        furnish();
        0
    };
    bare(prepare, |_| {
        let before = fs::read_link("/proc/self/ns/user").unwrap();
        let (near, far) = pair().unwrap();
        let child = child_of_this(move || {
            enter(&plan()).unwrap();
            send_descriptor(&far, None, b"confined").unwrap();
            hear(&far);
        });
        assert!(hear(&near));
        assert_confined(&child);
        assert_eq!(fs::read_link("/proc/self/ns/user").unwrap(), before);
        send_descriptor(&near, None, b"end").unwrap();
        assert_eq!(child.wait().unwrap(), ExitKind::Exited(0));
        confined(plan());
    });
}

/// Makes a user namespace that a container might be in, and then forbids to make any more.
fn with_the_last_namespace() -> i32 {
    furnish();
    let (near, far) = pair().unwrap();
    let parent = i32::try_from(std::process::id()).unwrap();
    let container = fork_child(move || {
        let number = USER.parse().unwrap();
        let (user, group) = (nix::unistd::Uid::from_raw(number), nix::unistd::Gid::from_raw(number));
        nix::unistd::setresgid(group, group, group).unwrap();
        nix::unistd::setresuid(user, user, user).unwrap();
        // Else its files in /proc would be root's.
        nix::sys::prctl::set_dumpable(true).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
        fs::write("/proc/self/uid_map", format!("0 {USER} 1")).unwrap();
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/gid_map", format!("0 {USER} 1")).unwrap();
        // Last: a change of identity takes it back.
        set_parent_death_signal(Signal::SIGKILL, parent).unwrap();
        send_descriptor(&far, None, b"made").unwrap();
        nix::unistd::pause();
        0
    });
    let container = container.unwrap();
    assert!(hear(&near));
    fs::write("/proc/sys/user/max_user_namespaces", "1").unwrap();
    container.pid()
}

fn of_container() {
    bare(with_the_last_namespace, |container| {
        let userns = fs::File::open(format!("/proc/{container}/ns/user")).unwrap();
        confined(SandboxPlan { container_userns: Some(userns.into()), ..plan() });
    });
}

fn of_nothing() {
    bare(with_the_last_namespace, |container| {
        assert!(container > 0);
        let error = enter(&plan()).unwrap_err().to_string();
        assert!(error.contains("user.max_user_namespaces") && !error.contains('\n'), "{error}");
    });
}

fn of_no_files() {
    contained(|| {
        let child = fork_child(|| {
            enter(&SandboxPlan::default()).unwrap();
            assert_eq!(entries("/"), Vec::<String>::new());
            0
        });
        assert_eq!(child.unwrap().wait().unwrap(), ExitKind::Exited(0));
    });
}

fn low_ports() {
    contained(|| {
        for (asked, expected) in [(true, true), (false, false)] {
            let child = fork_child(|| {
                enter(&SandboxPlan { low_ports: asked, ..SandboxPlan::default() }).unwrap();
                i32::from(std::net::TcpListener::bind("127.0.0.1:80").is_ok())
            });
            assert_eq!(child.unwrap().wait().unwrap(), ExitKind::Exited(i32::from(expected)));
        }
    });
}

/// Signals and abstract sockets are scoped from Linux 6.12 on; before, the filter of system calls alone keeps them away.
fn has_scopes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 12)
}

fn landlock() {
    contained(|| {
        let path = SocketAddr::from_abstract_name(b"netferry-sandbox").unwrap();
        let _listener = UnixListener::bind_addr(&path).unwrap();
        let has_scopes = has_scopes();
        let child = fork_child(|| {
            let parent = nix::unistd::getppid();
            nix::sys::signal::kill(parent, None).unwrap();
            enter(&SandboxPlan::default()).unwrap();
            let signalled = nix::sys::signal::kill(parent, None);
            let connected = UnixStream::connect_addr(&path);
            if has_scopes {
                assert_eq!(signalled, Err(nix::errno::Errno::EPERM));
                assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            }
            0
        });
        assert_eq!(child.unwrap().wait().unwrap(), ExitKind::Exited(0));
    });
}
