//! What may be called, by whom, and why. `docs/security.md` has the same tables, and a test compares them.

use std::ffi::{c_int, c_long};

use super::{Allowed, Argument, Value};

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
    Argument { index, mask: u32::MAX, value: Value::Fixed(value as u32) }
}

const fn masked(index: u8, mask: c_int, value: c_int) -> Argument {
    Argument { index, mask: mask as u32, value: Value::Fixed(value as u32) }
}

const fn own_process(index: u8) -> Argument {
    Argument { index, mask: u32::MAX, value: Value::OwnProcess }
}

/// `socket(2)`: the type without its flags.
const SOCKET_TYPE: c_int = 0xf;
/// `open(2)`: what makes, empties or changes a file. `O_TMPFILE` without the bit it shares with `O_DIRECTORY`.
const CHANGING: c_int =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

const SOCKET_REASON: &str =
    "a flow begins: AF_INET and AF_INET6; SOCK_STREAM of TCP, SOCK_DGRAM of UDP and ping";

/// The last argument of 0 is the standard library's and the kernel's default: TCP or UDP.
const SOCKETS: &[&[Argument]] = &[
    &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_STREAM), is(2, libc::IPPROTO_TCP)],
    &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_STREAM), is(2, 0)],
    &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM), is(2, libc::IPPROTO_UDP)],
    &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM), is(2, libc::IPPROTO_ICMP)],
    &[is(0, libc::AF_INET), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM), is(2, 0)],
    &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_STREAM), is(2, libc::IPPROTO_TCP)],
    &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_STREAM), is(2, 0)],
    &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM), is(2, libc::IPPROTO_UDP)],
    &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM), is(2, libc::IPPROTO_ICMPV6)],
    &[is(0, libc::AF_INET6), masked(1, SOCKET_TYPE, libc::SOCK_DGRAM), is(2, 0)],
];

const OPTION_REASON: &str = "SOL_SOCKET: SO_BINDTODEVICE, SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE, SO_RCVBUF, SO_REUSEADDR, SO_REUSEPORT; IPPROTO_TCP: \
                             TCP_CONGESTION, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_NODELAY; IPPROTO_IP: IP_BIND_ADDRESS_NO_PORT, IP_FREEBIND, \
                             IP_MTU_DISCOVER, IP_PKTINFO, IP_RECVERR, IP_RECVTOS, IP_RECVTTL, IP_TOS, IP_TTL; \
                             IPPROTO_IPV6: IPV6_MTU_DISCOVER, IPV6_RECVERR, IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO, \
                             IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_UNICAST_HOPS, IPV6_V6ONLY; SOL_UDP: UDP_GRO";

/// By level and name.
const OPTIONS: &[&[Argument]] = &[
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_BINDTODEVICE)],
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_KEEPALIVE)],
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_LINGER)],
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_OOBINLINE)],
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_RCVBUF)],
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_REUSEADDR)],
    &[is(1, libc::SOL_SOCKET), is(2, libc::SO_REUSEPORT)],
    &[is(1, libc::IPPROTO_TCP), is(2, libc::TCP_CONGESTION)],
    &[is(1, libc::IPPROTO_TCP), is(2, libc::TCP_KEEPCNT)],
    &[is(1, libc::IPPROTO_TCP), is(2, libc::TCP_KEEPIDLE)],
    &[is(1, libc::IPPROTO_TCP), is(2, libc::TCP_KEEPINTVL)],
    &[is(1, libc::IPPROTO_TCP), is(2, libc::TCP_NODELAY)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_BIND_ADDRESS_NO_PORT)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_FREEBIND)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_MTU_DISCOVER)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_PKTINFO)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_RECVERR)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_RECVTOS)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_RECVTTL)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_TOS)],
    &[is(1, libc::IPPROTO_IP), is(2, libc::IP_TTL)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_MTU_DISCOVER)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_RECVERR)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_RECVHOPLIMIT)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_RECVPKTINFO)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_RECVTCLASS)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_TCLASS)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_UNICAST_HOPS)],
    &[is(1, libc::IPPROTO_IPV6), is(2, libc::IPV6_V6ONLY)],
    &[is(1, libc::SOL_UDP), is(2, libc::UDP_GRO)],
];

/// `futex(2)`: the operation without its flags.
const FUTEX_OPERATION: c_int = !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);

/// `clone(2)`: what the C library gives a thread, and no process: all is shared.
pub const THREAD_FLAGS: c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

const CLOSING_REASON: &str = "debug builds look at what they close: F_GETFD";

/// Of the relay: everything that the loop does.
pub const RELAY: &[Allowed] = &[
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
    only(
        "pwritev2",
        libc::SYS_pwritev2,
        "messages to a pipe that nobody may be reading: RWF_NOWAIT",
        &[&[is(5, libc::RWF_NOWAIT)]],
    ),
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
    only("socket", libc::SYS_socket, SOCKET_REASON, SOCKETS),
    any("connect", libc::SYS_connect, "a flow to the host or beyond"),
    any("bind", libc::SYS_bind, "source ports, --outbound-addr, ports published through the API"),
    any("listen", libc::SYS_listen, "ports published through the API"),
    any("accept4", libc::SYS_accept4, "connections to published ports and to the control sockets"),
    any("shutdown", libc::SYS_shutdown, "one direction of a connection ends"),
    any("getsockname", libc::SYS_getsockname, "which address a client came to"),
    any(
        "getpeername",
        libc::SYS_getpeername,
        "whom a socket is connected to, for captures and `netferry flows`",
    ),
    any(
        "getsockopt",
        libc::SYS_getsockopt,
        "the outcome of a connect; who asks; TCP_INFO for `netferry flows`",
    ),
    only("setsockopt", libc::SYS_setsockopt, OPTION_REASON, OPTIONS),
    any(
        "recvfrom",
        libc::SYS_recvfrom,
        "bytes from a host's peer, frames of a BESS guest, changes of the host's addresses",
    ),
    any("sendto", libc::SYS_sendto, "bytes to a host's peer, frames to a BESS guest"),
    any("recvmsg", libc::SYS_recvmsg, "datagrams with their TTL, TOS and segment size, ICMP errors"),
    any("sendmsg", libc::SYS_sendmsg, "datagrams with their source address and segment size"),
    any("ftruncate", libc::SYS_ftruncate, "the older half of a log file goes"),
    any("splice", libc::SYS_splice, "bytes from loopback to loopback"),
    any("pipe2", libc::SYS_pipe2, "what carries them"),
    #[cfg(target_arch = "x86_64")]
    any(
        "poll",
        libc::SYS_poll,
        "a BESS guest that reads slowly is waited for; whether a terminal has room for messages",
    ),
    any("ppoll", libc::SYS_ppoll, "the same (aarch64)"),
    any("wait4", libc::SYS_wait4, "the end of the command of `run`"),
    // /etc/resolv.conf.
    only(
        "openat",
        libc::SYS_openat,
        "resolv.conf is read again: only for reading (no O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE)",
        &[&[masked(2, CHANGING, libc::O_RDONLY)]],
    ),
    any("statx", libc::SYS_statx, "its size"),
    any("newfstatat", libc::SYS_newfstatat, "the same, before Linux 4.11"),
    any("fstat", libc::SYS_fstat, "the same; what standard error is"),
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
    only(
        "futex",
        libc::SYS_futex,
        "locks of the standard library (standard error's), should they ever be contended: FUTEX_WAIT, FUTEX_WAKE, \
         FUTEX_WAIT_BITSET",
        &[
            &[masked(1, FUTEX_OPERATION, libc::FUTEX_WAIT)],
            &[masked(1, FUTEX_OPERATION, libc::FUTEX_WAKE)],
            &[masked(1, FUTEX_OPERATION, libc::FUTEX_WAIT_BITSET)],
        ],
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
    only(
        "tgkill",
        libc::SYS_tgkill,
        "the same: itself and SIGABRT alone",
        &[&[own_process(0), is(2, libc::SIGABRT)]],
    ),
    any("getcwd", libc::SYS_getcwd, "the report of a panic with RUST_BACKTRACE set"),
];

/// Of a relay with several workers, beside what each of them does.
pub const WORKERS: &[Allowed] = &[
    only(
        "clone",
        libc::SYS_clone,
        "a worker is a thread: with all the flags that the C library gives one, and no others; clone3, whose flags cannot \
         be looked at, is answered as by a kernel without it",
        &[&[is(0, THREAD_FLAGS)]],
    ),
    any("set_robust_list", libc::SYS_set_robust_list, "the C library begins a thread"),
    any("rseq", libc::SYS_rseq, "the same"),
    any(
        "sched_getaffinity",
        libc::SYS_sched_getaffinity,
        "the same, and its allocator counts the processors",
    ),
    any("sched_yield", libc::SYS_sched_yield, "the standard library waits for another thread"),
    only(
        "epoll_create1",
        libc::SYS_epoll_create1,
        "a worker that begins later has a poll of its own: EPOLL_CLOEXEC",
        &[&[is(0, libc::EPOLL_CLOEXEC)]],
    ),
    only(
        "eventfd2",
        libc::SYS_eventfd2,
        "and something to be woken by: EFD_CLOEXEC, EFD_NONBLOCK",
        &[&[is(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)]],
    ),
];

/// Of the process of a network, beside what several workers do.
pub const NETWORK: &[Allowed] = &[
    only(
        "ioctl",
        libc::SYS_ioctl,
        "a container's interface that was handed over is what it should be, with all offloads: TUNGETIFF, TUNSETVNETHDRSZ, \
         TUNSETOFFLOAD",
        &[
            &[is(1, libc::TUNGETIFF as c_int)],
            &[is(1, libc::TUNSETVNETHDRSZ as c_int)],
            &[is(1, libc::TUNSETOFFLOAD as c_int)],
        ],
    ),
    only(
        "socketpair",
        libc::SYS_socketpair,
        "a container's way to the network's hook: AF_UNIX, SOCK_STREAM",
        &[&[is(0, libc::AF_UNIX), masked(1, SOCKET_TYPE, libc::SOCK_STREAM)]],
    ),
];

/// Of the process in the container that opens sockets for us (`crate::sys::socket::inner`).
pub const INNER: &[Allowed] = &[
    any("recvmsg", libc::SYS_recvmsg, "the next request, on the line to the relay"),
    any("sendmsg", libc::SYS_sendmsg, "its answer, with the socket"),
    only("socket", libc::SYS_socket, SOCKET_REASON, SOCKETS),
    only("setsockopt", libc::SYS_setsockopt, OPTION_REASON, OPTIONS),
    any("bind", libc::SYS_bind, "a socket of the container's loopback"),
    any("listen", libc::SYS_listen, "the same"),
    any("connect", libc::SYS_connect, "a connection to a server in the container is begun"),
    any("close", libc::SYS_close, "what was handed out, or failed"),
    only("fcntl", libc::SYS_fcntl, CLOSING_REASON, &[&[is(1, libc::F_GETFD)]]),
    any("brk", libc::SYS_brk, "the allocator"),
    only("mmap", libc::SYS_mmap, "the same: without PROT_EXEC", &[&[masked(2, libc::PROT_EXEC, 0)]]),
    only("mprotect", libc::SYS_mprotect, "the same: without PROT_EXEC", &[&[masked(2, libc::PROT_EXEC, 0)]]),
    any("munmap", libc::SYS_munmap, "the same"),
    any("write", libc::SYS_write, "the report of a bug"),
    any("exit_group", libc::SYS_exit_group, "the end, with the line"),
];

/// Of the process that passes signals on to the command (`crate::sys::messenger`).
pub const MESSENGER: &[Allowed] = &[
    any("recvfrom", libc::SYS_recvfrom, "the next signal, on the line to the relay"),
    any(
        "pidfd_send_signal",
        libc::SYS_pidfd_send_signal,
        "to the command, of whose process it has the only pidfd",
    ),
    any("close", libc::SYS_close, "the line, at the end"),
    only("fcntl", libc::SYS_fcntl, CLOSING_REASON, &[&[is(1, libc::F_GETFD)]]),
    any("write", libc::SYS_write, "the report of a bug"),
    any("exit_group", libc::SYS_exit_group, "the end, with the line"),
];

/// Of the process that removes a file at the end (`crate::sys::janitor`).
pub const JANITOR: &[Allowed] = &[
    any("madvise", libc::SYS_madvise, "it gives up what it has of the program"),
    any("recvfrom", libc::SYS_recvfrom, "the end of the line to the relay"),
    any("newfstatat", libc::SYS_newfstatat, "whether the file is still the one it was"),
    any("unlinkat", libc::SYS_unlinkat, "the file goes"),
    any("close", libc::SYS_close, "the line, at the end"),
    only("fcntl", libc::SYS_fcntl, CLOSING_REASON, &[&[is(1, libc::F_GETFD)]]),
    any("write", libc::SYS_write, "the report of a bug"),
    any("exit_group", libc::SYS_exit_group, "the end, with the line"),
];
