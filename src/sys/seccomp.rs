//! A filter of system calls: what the loop needs, and nothing else.
//!
//! An *allow list*, [`ALLOWED`], with a reason for each entry: what nobody thought of is forbidden. The original forbids a
//! list of what is known to be dangerous; such a list is out of date with the next kernel. [`install`] comes last,
//! when everything is open, so that the list needs nothing of start-up: no program can be started, no
//! process or thread made, no file opened but for reading, no memory made executable, no other process touched,
//! nothing mounted, no socket made but of TCP, UDP and ping.
//!
//! **What happens to a call that is not on the list.** The process ends, with one line on standard error that names
//! the call, by `SIGSYS`. An error returned to the caller instead would hide what is missing from the list behind
//! some flow that fails, and let an intruder go on trying. The kernel could kill without us
//! (`SECCOMP_RET_KILL_PROCESS`), but then nobody would know why the network is gone; so it traps
//! (`SECCOMP_RET_TRAP`), the call is not carried out, and our handler tells and ends. An intruder who has
//! replaced the handler gains nothing by it: the call still is not carried out. Calls of a foreign architecture are
//! killed by the kernel.
//!
//! A call that is new in the loop needs its line here. `tests/netns/sandbox.rs` moves every kind of traffic under
//! the filter. The list knows glibc's way to each call on x86_64 and aarch64.
//! References: seccomp(2), the kernel's `Documentation/userspace-api/seccomp_filter.rst`.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_long, c_void};
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// What is asked of an argument of a call, counted from zero: the bits of `mask` are those of `value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    index: u8,
    mask: u32,
    value: u32,
}

/// A system call that the loop makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Its name.
    pub name: &'static str,
    number: c_long,
    /// Why it is needed, and what is asked of its arguments.
    pub reason: &'static str,
    /// Each alternative lists what is asked of the arguments; none at all means anything goes.
    alternatives: &'static [&'static [Argument]],
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The list cannot be translated.
    #[error("cannot build the filter for --enable-seccomp: {0}; this is a bug, please report it")]
    Build(#[from] seccompiler::BackendError),
    /// No translation for this machine.
    #[error("--enable-seccomp has no list for this processor; leave it out")]
    Architecture,
    /// The kernel did not take it.
    #[error(
        "cannot install the filter for --enable-seccomp: {0}; if this kernel has no seccomp, leave it out"
    )]
    Install(seccompiler::Error),
    /// The handler of violations.
    #[error("cannot watch the filter of --enable-seccomp: {0}")]
    Handler(io::Error),
}

const fn any(name: &'static str, number: c_long, reason: &'static str) -> Allowed {
    Allowed { name, number, reason, alternatives: &[] }
}

const fn only(
    name: &'static str,
    number: c_long,
    reason: &'static str,
    alternatives: &'static [&'static [Argument]],
) -> Allowed {
    Allowed { name, number, reason, alternatives }
}

const fn is(index: u8, value: c_int) -> Argument {
    Argument { index, mask: u32::MAX, value: value as u32 }
}

const fn masked(index: u8, mask: c_int, value: c_int) -> Argument {
    Argument { index, mask: mask as u32, value: value as u32 }
}

/// `socket(2)`: the type without its flags.
const SOCKET_TYPE: c_int = 0xf;
/// `open(2)`: what makes, empties or changes a file. `O_TMPFILE` without the bit it shares with `O_DIRECTORY`.
const CHANGING: c_int =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Everything that may be called once the filter is installed.
pub const ALLOWED: &[Allowed] = &[
    // The loop.
    #[cfg(target_arch = "x86_64")]
    any("epoll_wait", libc::SYS_epoll_wait, "the loop waits"),
    any("epoll_pwait", libc::SYS_epoll_pwait, "the loop waits (aarch64)"),
    any("epoll_ctl", libc::SYS_epoll_ctl, "each flow's socket is watched"),
    any("clock_gettime", libc::SYS_clock_gettime, "the time, where the vDSO cannot tell it"),
    any("restart_syscall", libc::SYS_restart_syscall, "a wait goes on after SIGSTOP and SIGCONT"),
    // Descriptors that are open.
    any("read", libc::SYS_read, "frames of the TAP, signals, changes of resolv.conf, API requests"),
    any("write", libc::SYS_write, "frames to the TAP, --ready-fd, API replies, messages"),
    any("writev", libc::SYS_writev, "frames and messages in several parts"),
    any("close", libc::SYS_close, "a flow ends"),
    only(
        "fcntl",
        libc::SYS_fcntl,
        "the loop's duplicates of what it watches, and their flags: F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL; the \
         size of a pipe: F_GETPIPE_SZ, F_SETPIPE_SZ",
        &[
            &[is(1, libc::F_DUPFD_CLOEXEC)],
            &[is(1, libc::F_GETFD)],
            &[is(1, libc::F_SETFD)],
            &[is(1, libc::F_GETFL)],
            &[is(1, libc::F_SETFL)],
            &[is(1, libc::F_GETPIPE_SZ)],
            &[is(1, libc::F_SETPIPE_SZ)],
        ],
    ),
    // Sockets.
    only(
        "socket",
        libc::SYS_socket,
        "a flow begins: AF_INET and AF_INET6, SOCK_STREAM and SOCK_DGRAM (UDP, ping)",
        &[
            &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_STREAM)],
            &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM)],
            &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_STREAM)],
            &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM)],
        ],
    ),
    any("connect", libc::SYS_connect, "a flow to the host or beyond"),
    any("bind", libc::SYS_bind, "source ports, --outbound-addr, ports published through the API"),
    any("listen", libc::SYS_listen, "ports published through the API"),
    any("accept4", libc::SYS_accept4, "connections to published ports and to the API"),
    any("shutdown", libc::SYS_shutdown, "one direction of a connection ends"),
    any("getsockname", libc::SYS_getsockname, "which address a client came to"),
    any("getsockopt", libc::SYS_getsockopt, "the outcome of a connect"),
    any("setsockopt", libc::SYS_setsockopt, "TTL, TOS, segmentation, lingering of a socket"),
    any("recvfrom", libc::SYS_recvfrom, "bytes from a host's peer, frames of a BESS guest"),
    any("sendto", libc::SYS_sendto, "bytes to a host's peer, frames to a BESS guest"),
    any("recvmsg", libc::SYS_recvmsg, "datagrams with their TTL, TOS and segment size, ICMP errors"),
    any("sendmsg", libc::SYS_sendmsg, "datagrams with their source address and segment size"),
    #[cfg(target_arch = "x86_64")]
    any("ftruncate", libc::SYS_ftruncate, "the older half of a log file goes"),
    any("splice", libc::SYS_splice, "bytes from loopback to loopback"),
    any("pipe2", libc::SYS_pipe2, "what carries them"),
    any("poll", libc::SYS_poll, "a BESS guest that reads slowly is waited for"),
    any("ppoll", libc::SYS_ppoll, "the same (aarch64)"),
    // /etc/resolv.conf.
    only(
        "openat",
        libc::SYS_openat,
        "resolv.conf is read again: only for reading (no O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE)",
        &[&[masked(2, CHANGING, libc::O_RDONLY)]],
    ),
    any("statx", libc::SYS_statx, "its size"),
    any("newfstatat", libc::SYS_newfstatat, "the same, before Linux 4.11"),
    any("fstat", libc::SYS_fstat, "the same"),
    any("lseek", libc::SYS_lseek, "how much of it is left to read"),
    #[cfg(target_arch = "x86_64")]
    any("readlink", libc::SYS_readlink, "where its link leads"),
    any("readlinkat", libc::SYS_readlinkat, "the same (aarch64)"),
    any("inotify_add_watch", libc::SYS_inotify_add_watch, "its link leads elsewhere now"),
    any("inotify_rm_watch", libc::SYS_inotify_rm_watch, "the former place is not watched any more"),
    only(
        "ioctl",
        libc::SYS_ioctl,
        "the number of an interface, for a link-local resolver: SIOCGIFINDEX; FIONBIO",
        &[&[is(1, libc::SIOCGIFINDEX as c_int)], &[is(1, libc::FIONBIO as c_int)]],
    ),
    // Memory.
    any("brk", libc::SYS_brk, "memory of flows"),
    only("mmap", libc::SYS_mmap, "memory of flows: without PROT_EXEC", &[&[masked(2, libc::PROT_EXEC, 0)]]),
    only(
        "mprotect",
        libc::SYS_mprotect,
        "the allocator's heaps: without PROT_EXEC",
        &[&[masked(2, libc::PROT_EXEC, 0)]],
    ),
    any("mremap", libc::SYS_mremap, "a table grows"),
    any("munmap", libc::SYS_munmap, "memory of flows is given back"),
    any("madvise", libc::SYS_madvise, "the same"),
    any(
        "futex",
        libc::SYS_futex,
        "locks of the standard library (standard error's), should they ever be contended",
    ),
    any("getrandom", libc::SYS_getrandom, "keys of hash tables; identifiers"),
    // The end, in order or not.
    any("exit_group", libc::SYS_exit_group, "the end"),
    any("exit", libc::SYS_exit, "the end of the thread"),
    any("sigaltstack", libc::SYS_sigaltstack, "the standard library tidies up at the end"),
    any("rt_sigaction", libc::SYS_rt_sigaction, "abort and stack overflow set signals back to their default"),
    any("rt_sigprocmask", libc::SYS_rt_sigprocmask, "abort unblocks its signal"),
    any("rt_sigreturn", libc::SYS_rt_sigreturn, "the standard library's handler of stack overflow returns"),
    any("gettid", libc::SYS_gettid, "abort signals this very thread"),
    any("getpid", libc::SYS_getpid, "the same"),
    only("tgkill", libc::SYS_tgkill, "the same: SIGABRT alone", &[&[is(2, libc::SIGABRT)]]),
    any("getcwd", libc::SYS_getcwd, "the report of a panic with RUST_BACKTRACE set"),
];

/// Filters the system calls of the calling, single-threaded process for good. Gives up new privileges, which the kernel
/// wants first.
pub fn install() -> Result<(), SeccompError> {
    let program = build()?;
    tell_violations().map_err(|errno| SeccompError::Handler(errno.into()))?;
    seccompiler::apply_filter(&program).map_err(SeccompError::Install)
}

fn build() -> Result<BpfProgram, SeccompError> {
    let target: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_: seccompiler::BackendError| SeccompError::Architecture)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for allowed in ALLOWED {
        let alternatives: Result<Vec<_>, _> = allowed.alternatives.iter().map(|asked| rule(asked)).collect();
        rules.insert(allowed.number, alternatives?);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, target)?;
    Ok(filter.try_into()?)
}

fn rule(asked: &[Argument]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions: Result<Vec<_>, _> = asked
        .iter()
        .map(|argument| {
            let (mask, value) = (u64::from(argument.mask), u64::from(argument.value));
            let operator = SeccompCmpOp::MaskedEq(mask);
            // All of them are C's `int`, of which the kernel takes the lower half of the register.
            SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, operator, value)
        })
        .collect();
    SeccompRule::new(conditions?)
}

fn tell_violations() -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::SigAction(on_violation), SaFlags::empty(), SigSet::all());
    // SAFETY: the handler does nothing but system calls on its own stack, which is safe in any place; nobody else
    // in this process relies on SIGSYS.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

/// `siginfo_t` as the kernel fills it in for SIGSYS; libc has no name for these members.
#[repr(C)]
struct ViolationInfo {
    signal: c_int,
    errno: c_int,
    code: c_int,
    address: *const c_void,
    number: c_int,
    architecture: u32,
}

extern "C" fn on_violation(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo_t, which is larger than these first members of it, and aligned alike.
    let number = unsafe { (*info.cast::<ViolationInfo>()).number };
    let mut line = [0; MAX_LINE];
    let len = violation_line(number.unsigned_abs(), &mut line);
    // SAFETY: reads `len` bytes of `line`, which has as many. A message that cannot be written is lost.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), len) };
    loop {
        // Forbidden as well, with SIGSYS blocked now: the kernel ends the process by that signal.
        // SAFETY: takes numbers only, and is not carried out.
        unsafe { libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0) };
    }
}

const MAX_LINE: usize = 160;

/// Without allocating, as a handler must. The length of the line.
fn violation_line(number: u32, line: &mut [u8; MAX_LINE]) -> usize {
    const MAX_DIGITS: usize = 10;
    let mut digits = [0; MAX_DIGITS];
    let mut rest = number;
    let mut first = MAX_DIGITS;
    loop {
        first -= 1;
        // Below ten.
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let parts: [&[u8]; 3] = [
        b"netferry: system call ",
        &digits[first..],
        b" is not among those that --enable-seccomp allows: ended (please report it)\n",
    ];
    let mut len = 0;
    for part in parts {
        for (to, from) in line[len..].iter_mut().zip(part) {
            *to = *from;
        }
        len = MAX_LINE.min(len + part.len());
    }
    len
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_call_is_listed_once_with_its_reason() {
        let numbers: BTreeSet<c_long> = ALLOWED.iter().map(|allowed| allowed.number).collect();
        assert_eq!(numbers.len(), ALLOWED.len());
        assert!(ALLOWED.iter().all(|allowed| !allowed.reason.is_empty()));
    }

    #[test]
    fn nothing_that_starts_or_touches_another_process_is_listed() {
        let forbidden = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_prctl,
            libc::SYS_unlinkat,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
        ];
        assert!(ALLOWED.iter().all(|allowed| !forbidden.contains(&allowed.number)));
    }

    #[test]
    fn list_can_be_translated_and_fits() {
        let program = build().unwrap();
        assert!(program.len() < 4096, "{}", program.len());
    }

    #[test]
    fn documentation_has_the_same_table() {
        let text = include_str!("../../docs/security.md");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> =
            ALLOWED.iter().map(|allowed| format!("| `{}` | {} |", allowed.name, allowed.reason)).collect();
        // The other architecture has a row less.
        let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(&row.as_str())).collect();
        assert!(missing.is_empty(), "docs/security.md lacks\n{missing:#?}");
        if cfg!(target_arch = "x86_64") {
            assert_eq!(
                rows.len(),
                expected.len(),
                "docs/security.md has rows for calls that are not allowed"
            );
        }
    }

    #[test]
    fn violation_is_told_by_its_number() {
        let mut line = [0; MAX_LINE];
        for (number, text) in [(0, "call 0 is"), (59, "call 59 is"), (u32::MAX, "call 4294967295 is")] {
            let len = violation_line(number, &mut line);
            let told = std::str::from_utf8(&line[..len]).unwrap();
            assert!(told.contains(text) && told.ends_with(")\n"), "{told}");
        }
    }
}
