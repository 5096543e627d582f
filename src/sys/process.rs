//! Children, signals and exit statuses.
//!
//! Children are forked while the process has one thread, do their work in namespaces of their own, and either
//! become another program or end. They are held by a pidfd, which a poll loop can wait on and which cannot
//! mean another process by mistake. Signals are blocked and read from a descriptor, never handled
//! asynchronously. `SIGTSTP` and its like are left alone, so that job control stops us with our child.
//! References: pidfd_open(2), signalfd(2), sigaction(2), PR_SET_PDEATHSIG(2const).

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString, c_int};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execvp, fork, getppid};

pub use nix::sys::signal::Signal;

/// The status of a child that panicked; as the standard library has it.
const PANICKED: i32 = 101;

/// What one process passes on to the program it stands for. Not those of job control, and not `SIGCHLD`.
pub const FORWARDED_SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// What ends us in an orderly way.
pub const ENDING_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl ExitKind {
    /// What a shell makes of it, and what a process that stands for another exits with.
    pub fn shell_status(self) -> i32 {
        match self {
            ExitKind::Exited(status) => status,
            ExitKind::Signaled(signal) => 128 + signal,
        }
    }
}

/// A child process. Dropping it neither ends nor waits for it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// Forks a child that runs `body` and ends with the status it returns. Only while this process has a single
/// thread: a lock held by another would stay locked for ever in the child. `SIGCHLD` is set back to its
/// default, since whoever started us may have left it ignored, and then no status would ever be told.
pub fn fork_child(body: impl FnOnce() -> i32) -> io::Result<Child> {
    match fork_on()? {
        Some(child) => Ok(child),
        None => {
            // A panic must not unwind into the caller's code, which is the parent's.
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED);
            let _ = io::stdout().flush();
            // SAFETY: ends the process at once; exit handlers are the parent's to run.
            unsafe { libc::_exit(status) }
        }
    }
}

/// The same for a child that goes on in the caller's code: there it returns nothing.
pub(super) fn fork_on() -> io::Result<Option<Child>> {
    debug_assert_eq!(thread_count(), 1, "fork_child is for single-threaded processes");
    // What stands in the buffer would be written by both.
    io::stdout().flush()?;
    set_default(Signal::SIGCHLD)?;
    // SAFETY: the process is single-threaded (asserted above), so the child's copy of it is in order.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(None),
        ForkResult::Parent { child } => match open_pidfd(child) {
            Ok(pidfd) => Ok(Some(Child { pid: child, pidfd })),
            Err(error) => {
                let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
                Err(error)
            }
        },
    }
}

impl Child {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits until it ends. Stopping is not ending.
    pub fn wait(&self) -> io::Result<ExitKind> {
        loop {
            match waitpid(self.pid, None) {
                Ok(status) => {
                    if let Some(kind) = exit_kind(status) {
                        return Ok(kind);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// How it ended, if it has; to be asked when the descriptor is readable.
    pub fn try_wait(&self) -> io::Result<Option<ExitKind>> {
        Ok(exit_kind(waitpid(self.pid, Some(WaitPidFlag::WNOHANG))?))
    }

    /// Sends it a signal. ESRCH once it has been waited for.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: takes two numbers, a null pointer (allowed: the kernel fills in what kill(2) would) and flags.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// Ends it by force, and waits.
    pub fn kill_and_wait(self) -> io::Result<ExitKind> {
        match self.signal(Signal::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
        self.wait()
    }
}

/// Readable once the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A descriptor that is readable once the process `pid`, ours or not, has ended. ESRCH if there is none.
pub fn watch_process(pid: i32) -> io::Result<OwnedFd> {
    open_pidfd(Pid::from_raw(pid))
}

/// Has the kernel send us `signal` when the thread that forked us ends, so that nothing is left behind. To be
/// called in the child after it entered its namespaces (a change of identity clears it); `parent` is the
/// number of the process that forked us. An error if that has ended already.
pub fn set_parent_death_signal(signal: Signal, parent: i32) -> io::Result<()> {
    prctl::set_pdeathsig(signal)?;
    // It may have ended before the request, and then no signal would come.
    if getppid().as_raw() != parent {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process that started us has ended"));
    }
    Ok(())
}

/// Undoes [`set_parent_death_signal`].
pub fn clear_parent_death_signal() -> io::Result<()> {
    prctl::set_pdeathsig(None)?;
    Ok(())
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {}: {source}", program.display())]
pub struct ExecError {
    program: OsString,
    source: io::Error,
}

impl ExecError {
    /// What a shell exits with in its place: 127 when there is no such program, 126 when it cannot be run.
    pub fn shell_status(&self) -> i32 {
        if self.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

/// Becomes another program, found along `PATH`, with the signals it is to be born with: those of `mask`
/// blocked, and `SIGPIPE` deadly again (Rust's start-up code ignores it). Returns only on failure.
pub fn exec(command: &[OsString], mask: &SignalMask) -> Result<Infallible, ExecError> {
    let program = command.first().cloned().unwrap_or_default();
    let failed = |source: io::Error| ExecError { program: program.clone(), source };
    if program.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let arguments: Result<Vec<CString>, _> =
        command.iter().map(|argument| CString::new(argument.as_bytes())).collect();
    let arguments = arguments.map_err(|error| failed(error.into()))?;
    set_default(Signal::SIGPIPE).map_err(failed)?;
    mask.restore().map_err(failed)?;
    execvp(&arguments[0], &arguments).map_err(|errno| match errno {
        // It came to a directory that it may not search, and that decided although nothing was found at all.
        Errno::EACCES if !is_on_path(&program, std::env::var_os("PATH")) => failed(Errno::ENOENT.into()),
        other => failed(other.into()),
    })
}

/// Whether there is a file of this name, whatever it may be, where `execvp` looks for it.
fn is_on_path(program: &OsStr, path: Option<OsString>) -> bool {
    if program.as_bytes().contains(&b'/') {
        return true;
    }
    // execvp(3): what is searched without PATH.
    let path = path.unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// A thread's set of blocked signals, to be restored.
#[derive(Debug, Clone, Copy)]
pub struct SignalMask(SigSet);

impl SignalMask {
    /// The current one.
    pub fn current() -> io::Result<SignalMask> {
        Ok(SignalMask(SigSet::thread_get_mask()?))
    }

    /// Makes it the current one again.
    pub fn restore(&self) -> io::Result<()> {
        Ok(self.0.thread_set_mask()?)
    }
}

/// Blocks signals in this thread, and in those it starts later; returns what was blocked before.
pub fn block_signals(signals: &[Signal]) -> io::Result<SignalMask> {
    Ok(SignalMask(set_of(signals).thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
}

/// Unblocks signals in this thread.
pub fn unblock_signals(signals: &[Signal]) -> io::Result<()> {
    Ok(set_of(signals).thread_unblock()?)
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalOrigin {
    /// The kernel: a key on the terminal, or its end. The whole foreground process group got it too.
    Kernel,
    /// A process (0 when it is not of our process namespace); it meant us.
    Process(i32),
}

/// A signal read from [`Signals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedSignal {
    /// Which.
    pub signal: Signal,
    /// From whom.
    pub origin: SignalOrigin,
}

/// Blocked signals, read from a non-blocking descriptor.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Will read these signals, which the caller has blocked ([`block_signals`]).
    pub fn open(signals: &[Signal]) -> io::Result<Signals> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Signals(SignalFd::with_flags(&set_of(signals), flags)?))
    }

    /// The next pending signal, if there is one.
    pub fn next(&self) -> io::Result<Option<ReceivedSignal>> {
        let Some(info) = self.0.read_signal()? else { return Ok(None) };
        let number = c_int::try_from(info.ssi_signo).unwrap_or_default();
        let signal = Signal::try_from(number)?;
        // siginfo(2): codes of processes (kill, sigqueue, tgkill) are zero or negative, the kernel's positive.
        let origin = if info.ssi_code > 0 {
            SignalOrigin::Kernel
        } else {
            SignalOrigin::Process(i32::try_from(info.ssi_pid).unwrap_or_default())
        };
        Ok(Some(ReceivedSignal { signal, origin }))
    }
}

/// Readable when a signal is pending.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

fn set_default(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours, and no Rust code relies on a handler for this signal.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

fn exit_kind(status: WaitStatus) -> Option<ExitKind> {
    match status {
        WaitStatus::Exited(_, status) => Some(ExitKind::Exited(status)),
        WaitStatus::Signaled(_, signal, _) => Some(ExitKind::Signaled(signal as i32)),
        _ => None,
    }
}

fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers; answers with a new descriptor (close-on-exec) or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = c_int::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn thread_count() -> usize {
    // Where /proc is not to be had the assertion has nothing to say.
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(ExitKind::Exited(3).shell_status(), 3);
        assert_eq!(ExitKind::Signaled(libc::SIGKILL).shell_status(), 137);
    }

    #[test]
    fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
        let mask = SignalMask::current().unwrap();
        let status = |program: &str| exec(&[OsString::from(program)], &mask).unwrap_err().shell_status();
        assert_eq!(status("no-such-program-anywhere"), 127);
        assert_eq!(status(""), 127);
        assert_eq!(status("/etc/passwd"), 126);
        assert_eq!(status("/etc"), 126);
        assert_eq!(status("nul\0inside"), 126);
    }

    #[test]
    fn a_program_is_on_the_path_if_a_file_of_its_name_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("there"), "").unwrap();
        let path = std::env::join_paths([Path::new("/no-such-directory"), directory.path()]).unwrap();
        assert!(is_on_path(OsStr::new("there"), Some(path.clone())));
        assert!(!is_on_path(OsStr::new("elsewhere"), Some(path.clone())));
        assert!(is_on_path(OsStr::new("./elsewhere"), Some(path)), "not searched for");
        assert!(is_on_path(OsStr::new("sh"), None));
    }

    #[test]
    fn a_missing_process_cannot_be_watched() {
        assert_eq!(watch_process(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_signal_of_a_process_is_read_with_its_sender() {
        // Blocked in this thread alone, hence sent to it alone.
        let before = block_signals(&[Signal::SIGUSR1]).unwrap();
        let signals = Signals::open(&[Signal::SIGUSR1]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        let received = signals.next().unwrap().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let expected = ReceivedSignal { signal: Signal::SIGUSR1, origin: SignalOrigin::Process(own) };
        assert_eq!(received, expected);
        assert_eq!(signals.next().unwrap(), None);
        before.restore().unwrap();
    }
}
