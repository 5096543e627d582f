//! Children: how they end, and how they become other programs.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netferry::sys::descriptor::{pair, receive_descriptor, send_descriptor};
use netferry::sys::process::{
    Child, ExitKind, Signal, SignalMask, SignalOrigin, Signals, block_signals, exec, fork_child,
    set_parent_death_signal, watch_process,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Case;

pub const CASES: &[Case] = &[
    ("children_end_with_the_status_they_return", status),
    ("children_that_panic_end_with_101_and_never_run_our_code", panicking),
    ("children_killed_are_told_by_their_signal", killed),
    ("children_make_their_descriptor_readable_by_ending", readable),
    ("children_end_with_their_parent", end_with_parent),
    ("children_status_is_told_even_if_we_were_started_with_sigchld_ignored", ignored_sigchld),
    ("children_become_programs_with_the_signals_they_are_born_with", born_with),
    ("children_that_cannot_become_a_program_know_why", cannot_become),
    ("signals_of_the_kernel_and_of_processes_are_told_apart", origins),
];

fn words(command: &[&str]) -> Vec<OsString> {
    command.iter().map(OsString::from).collect()
}

fn running(command: &'static [&'static str], mask: SignalMask) -> Child {
    fork_child(move || match exec(&words(command), &mask) {
        Ok(never) => match never {},
        Err(error) => error.shell_status(),
    })
    .unwrap()
}

fn is_readable(descriptor: impl AsFd, within: Duration) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(within).unwrap()).unwrap() == 1
}

fn status() {
    for status in [0, 1, 42, 255] {
        let child = fork_child(|| status).unwrap();
        assert_eq!(child.wait().unwrap(), ExitKind::Exited(status));
    }
}

fn panicking() {
    let child = fork_child(|| panic!("on purpose")).unwrap();
    assert_eq!(child.wait().unwrap(), ExitKind::Exited(101));
}

fn killed() {
    let child = running(&["sleep", "60"], SignalMask::current().unwrap());
    assert_eq!(child.try_wait().unwrap(), None);
    child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap(), ExitKind::Signaled(libc::SIGTERM));
    assert_eq!(child.signal(Signal::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    let child = running(&["sleep", "60"], SignalMask::current().unwrap());
    assert_eq!(child.kill_and_wait().unwrap(), ExitKind::Signaled(libc::SIGKILL));
}

fn readable() {
    let (near, far) = pair().unwrap();
    let child = fork_child(move || {
        drop(near);
        receive_descriptor(&far, &mut [0; 8]).unwrap();
        7
    });
    // Both ends went with the closure, so its wait is over at once.
    let child = child.unwrap();
    let watch = watch_process(child.pid()).unwrap();
    assert!(is_readable(&child, Duration::from_secs(5)));
    assert!(is_readable(&watch, Duration::from_secs(5)));
    assert_eq!(child.try_wait().unwrap(), Some(ExitKind::Exited(7)));
}

fn end_with_parent() {
    let (near, far) = pair().unwrap();
    let parent = fork_child(|| {
        let own = i32::try_from(std::process::id()).unwrap();
        let grandchild = fork_child(|| {
            set_parent_death_signal(Signal::SIGKILL, own).unwrap();
            let pid = std::process::id().to_string();
            send_descriptor(&far, None, pid.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        grandchild.unwrap().wait().unwrap().shell_status()
    })
    .unwrap();
    let mut buffer = [0; 16];
    let (len, _) = receive_descriptor(&near, &mut buffer).unwrap();
    let grandchild: i32 = std::str::from_utf8(&buffer[..len]).unwrap().parse().unwrap();
    let watch = watch_process(grandchild).unwrap();
    assert!(!is_readable(&watch, Duration::ZERO));
    parent.kill_and_wait().unwrap();
    assert!(is_readable(&watch, Duration::from_secs(5)));
    let stranger = set_parent_death_signal(Signal::SIGKILL, i32::MAX).unwrap_err();
    assert_eq!(stranger.kind(), io::ErrorKind::NotFound);
}

/// A set of signals of this process, as proc_pid_status(5) shows it.
fn signal_set(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(set.trim_start_matches(':').trim(), 16).unwrap()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

fn ignored_sigchld() {
    if signal_set("SigIgn") & bit(Signal::SIGCHLD) == 0 {
        // Once more, ignoring it. The assertion keeps that from going on for ever.
        const AGAIN: &str = "NETFERRY_SYS_KERNEL_AGAIN";
        assert!(std::env::var_os(AGAIN).is_none(), "env(1) does not ignore SIGCHLD");
        let own = std::env::current_exe().unwrap();
        let again = words(&["env", "--ignore-signal=CHLD", &format!("{AGAIN}=1"), own.to_str().unwrap()]);
        match exec(&again, &SignalMask::current().unwrap()) {
            Ok(never) => match never {},
            Err(error) => panic!("{error}"),
        }
    }
    let child = fork_child(|| 3).unwrap();
    assert_eq!(child.wait().unwrap(), ExitKind::Exited(3));
}

fn born_with() {
    let before = block_signals(&[Signal::SIGTERM, Signal::SIGINT]).unwrap();
    // Whoever started this test may ignore signals, and so will everybody below: all but these two, of which
    // Rust's start-up code ignores the first.
    let spared = [Signal::SIGPIPE, Signal::SIGCHLD].iter().fold(0, |set, signal| set | bit(*signal));
    let ignored = signal_set("SigIgn") & !spared;
    // A shell would not do: it may clear the mask for its own children.
    let pattern = format!("SigBlk:\\t0+\\nSigIgn:\\t{ignored:016x}\\n");
    let command = ["grep", "--quiet", "--null-data", "--perl-regexp", pattern.leak(), "/proc/self/status"];
    let command: &'static [&'static str] = Vec::from(command).leak();
    assert_eq!(running(command, before).wait().unwrap(), ExitKind::Exited(0));
    // The mask asked for is the one it has.
    let blocked = SignalMask::current().unwrap();
    assert_eq!(running(command, blocked).wait().unwrap(), ExitKind::Exited(1));
}

fn cannot_become() {
    let mask = SignalMask::current().unwrap();
    assert_eq!(running(&["no-such-program"], mask).wait().unwrap(), ExitKind::Exited(127));
    assert_eq!(running(&["/etc/passwd"], mask).wait().unwrap(), ExitKind::Exited(126));
    let error = exec(&words(&["no-such-program"]), &mask).unwrap_err();
    assert!(error.to_string().starts_with("cannot run no-such-program: No such file"), "{error}");
}

fn origins() {
    block_signals(&[Signal::SIGTERM, Signal::SIGALRM]).unwrap();
    let signals = Signals::open(&[Signal::SIGTERM, Signal::SIGALRM]).unwrap();
    let own = nix::unistd::getpid();
    let sender = fork_child(|| nix::sys::signal::kill(own, Signal::SIGTERM).map_or(1, |()| 0)).unwrap();
    sender.wait().unwrap();
    let received = signals.next().unwrap().unwrap();
    assert_eq!((received.signal, received.origin), (Signal::SIGTERM, SignalOrigin::Process(sender.pid())));
    nix::unistd::alarm::set(1);
    assert!(is_readable(&signals, Duration::from_secs(5)));
    let received = signals.next().unwrap().unwrap();
    assert_eq!((received.signal, received.origin), (Signal::SIGALRM, SignalOrigin::Kernel));
    assert_eq!(signals.next().unwrap(), None);
}
