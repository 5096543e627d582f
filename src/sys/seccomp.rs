//! A filter of system calls: what a process needs from now on, and nothing else.
//!
//! *Allow lists*, one for each kind of process ([`Calls`], [`list`]), with a reason for each entry: what nobody thought
//! of is forbidden. The original forbids a list of what is known to be dangerous; such a list is out of date with the
//! next kernel. [`install`] comes last, when everything is open, so that the lists need nothing of start-up: no program
//! can be started, no process made and no thread but where several workers are asked for, no file opened but for reading, no memory made executable, no other
//! process touched, nothing mounted, no socket made but of TCP, UDP and ping. It is what makes a [`Confined`], without
//! which nothing is served.
//!
//! **What happens to a call that is not on the list.** The process ends, with one line on standard error that names
//! the call, by `SIGSYS`. An error returned to the caller instead would hide what is missing from the list behind
//! some flow that fails, and let an intruder go on trying. The kernel could kill without us
//! (`SECCOMP_RET_KILL_PROCESS`), but then nobody would know why the network is gone; so it traps
//! (`SECCOMP_RET_TRAP`), the call is not carried out, and our handler tells and ends. An intruder who has
//! replaced the handler gains nothing by it: the call still is not carried out. Calls of a foreign architecture are
//! killed by the kernel.
//!
//! A call that is new in the loop needs its line in the list. `tests/netns/sandbox.rs` moves every kind of traffic under
//! the filter. The lists know glibc's way to each call on x86_64 and aarch64.
//! References: seccomp(2), the kernel's `Documentation/userspace-api/seccomp_filter.rst`.

pub mod list;

use std::collections::BTreeMap;
use std::ffi::{c_int, c_long, c_void};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::confined::{Confined, Sandboxed};
use super::outlet;

/// What is asked of an argument of a call, counted from zero: the bits of `mask` are those of `value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    index: u8,
    mask: u32,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Fixed(u32),
    /// The number of the process that is filtered.
    OwnProcess,
}

/// Who is filtered: each kind of process has a list of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// The loop.
    Relay,
    /// The loop, and several of it in threads of one process.
    Workers,
    /// The process of a network, which makes workers as containers come.
    Network,
    /// The process in the container that opens sockets.
    Inner,
    /// The process that passes signals on.
    Messenger,
    /// The process that removes a file at the end.
    Janitor,
}

impl Calls {
    /// What it may call: all of some lists.
    fn lists(self) -> &'static [&'static [Allowed]] {
        match self {
            Calls::Relay => &[list::RELAY],
            Calls::Workers => &[list::RELAY, list::WORKERS],
            Calls::Network => &[list::RELAY, list::WORKERS, list::NETWORK],
            Calls::Inner => &[list::INNER],
            Calls::Messenger => &[list::MESSENGER],
            Calls::Janitor => &[list::JANITOR],
        }
    }

    /// What it may call.
    pub fn list(self) -> impl Iterator<Item = &'static Allowed> {
        self.lists().iter().copied().flatten()
    }

    /// Whether it may make threads.
    fn makes_threads(self) -> bool {
        match self {
            Calls::Workers | Calls::Network => true,
            Calls::Relay | Calls::Inner | Calls::Messenger | Calls::Janitor => false,
        }
    }
}

/// A system call that may be made.
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

/// How to do without, by face.
const WITHOUT: &str = "give --no-sandbox, or as slirp4netns leave --enable-seccomp out";

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The list cannot be translated.
    #[error("cannot build the filter of system calls: {0}; this is a bug, please report it")]
    Build(#[from] seccompiler::BackendError),
    /// No translation for this machine.
    #[error("there is no list of system calls for this processor; {WITHOUT}")]
    Architecture,
    /// The kernel did not take it.
    #[error("cannot install the filter of system calls: {0}; if this kernel has no seccomp, {WITHOUT}")]
    Install(seccompiler::Error),
    /// The handler of violations.
    #[error("cannot watch the filter of system calls: {0}")]
    Handler(io::Error),
}

/// Filters the system calls of the calling process, of all its threads, for good. Gives up new privileges, which the
/// kernel wants first.
pub fn install(calls: Calls, sandboxed: Sandboxed) -> Result<Confined, SeccompError> {
    let program = build(calls)?;
    tell_violations().map_err(|errno| SeccompError::Handler(errno.into()))?;
    seccompiler::apply_filter_all_threads(&program).map_err(SeccompError::Install)?;
    Ok(Confined::filtered(sandboxed))
}

fn build(calls: Calls) -> Result<BpfProgram, SeccompError> {
    let target: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_: seccompiler::BackendError| SeccompError::Architecture)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for allowed in calls.list() {
        let alternatives: Result<Vec<_>, _> = allowed.alternatives.iter().map(|asked| rule(asked)).collect();
        // What two lists ask of one call are alternatives, unless one asks nothing.
        rules.entry(allowed.number).or_default().extend(alternatives?);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, target)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(if calls.makes_threads() { deny_clone3(program) } else { program })
}

/// The flags of clone3(2) lie in memory, where a filter does not see them. The C library asks it first, and clone(2), whose
/// flags are seen, where a kernel does not know it: so this one does not. The number is the same on every architecture.
fn deny_clone3(program: BpfProgram) -> BpfProgram {
    let number_offset = u32::try_from(std::mem::offset_of!(libc::seccomp_data, nr)).unwrap_or(0);
    let answer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    let mut denying = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), number_offset),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (0, 1), clone3),
        instruction(libc::BPF_RET | libc::BPF_K, (0, 0), answer),
    ];
    // All its jumps are relative.
    denying.extend(program);
    denying
}

/// `(jt, jf)` are the instructions to leave out where a comparison holds and where it does not.
fn instruction(code: u32, (jt, jf): (u8, u8), k: u32) -> seccompiler::sock_filter {
    seccompiler::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}

fn rule(asked: &[Argument]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions: Result<Vec<_>, _> = asked
        .iter()
        .map(|argument| {
            let value = match argument.value {
                Value::Fixed(value) => value,
                Value::OwnProcess => std::process::id(),
            };
            let (mask, value) = (u64::from(argument.mask), u64::from(value));
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

extern "C" fn on_violation(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo_t, which is larger than these first members of it, and aligned alike.
    let number = unsafe { (*info.cast::<ViolationInfo>()).number };
    // SAFETY: with SA_SIGINFO, which `SigHandler::SigAction` sets, the kernel passes a ucontext_t.
    let arguments = arguments(unsafe { &*context.cast::<libc::ucontext_t>() });
    let mut line = [0; MAX_LINE];
    let len = violation_line(number.unsigned_abs(), arguments, &mut line);
    // A message that cannot be written is lost: nobody is to be waited for here.
    // SAFETY: a number; where nothing is open by it, writing fails.
    let _ = outlet::write_now(unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }, &line[..len]);
    loop {
        // Forbidden as well, with SIGSYS blocked now: the kernel ends the process by that signal.
        // SAFETY: takes numbers only, and is not carried out.
        unsafe { libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0) };
    }
}

/// The lower halves of the first three, which are those that lists ask about.
#[cfg(target_arch = "x86_64")]
fn arguments(context: &libc::ucontext_t) -> [u32; 3] {
    [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX]
        .map(|register| context.uc_mcontext.gregs[register as usize] as u32)
}

/// The lower halves of the first three, which are those that lists ask about.
#[cfg(target_arch = "aarch64")]
fn arguments(context: &libc::ucontext_t) -> [u32; 3] {
    [0, 1, 2].map(|register: usize| context.uc_mcontext.regs[register] as u32)
}

/// No list is translated for it either.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn arguments(_context: &libc::ucontext_t) -> [u32; 3] {
    [0; 3]
}

const MAX_LINE: usize = 200;

/// Without allocating, as a handler must. The length of the line.
fn violation_line(number: u32, arguments: [u32; 3], line: &mut [u8; MAX_LINE]) -> usize {
    let mut rest = &mut line[..];
    let [first, second, third] = arguments;
    // A line that does not fit is cut off.
    let _ = writeln!(
        rest,
        "netferry: system call {number} ({first:#x}, {second:#x}, {third:#x}, ...) is not among those that are \
         allowed: ended; please report it (docs/security.md)"
    );
    MAX_LINE - rest.len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: [(&[Calls], &[Allowed], &str); 6] = [
        (&[Calls::Relay, Calls::Workers, Calls::Network], list::RELAY, "The relay"),
        (&[Calls::Workers, Calls::Network], list::WORKERS, "Several workers"),
        (&[Calls::Network], list::NETWORK, "A network"),
        (&[Calls::Inner], list::INNER, "Inside"),
        (&[Calls::Messenger], list::MESSENGER, "The messenger"),
        (&[Calls::Janitor], list::JANITOR, "The janitor"),
    ];
    const EACH: [Calls; 6] =
        [Calls::Relay, Calls::Workers, Calls::Network, Calls::Inner, Calls::Messenger, Calls::Janitor];

    #[test]
    fn each_call_is_listed_once_with_its_reason() {
        for calls in EACH {
            for list in calls.lists() {
                let numbers: BTreeSet<c_long> = list.iter().map(|allowed| allowed.number).collect();
                assert_eq!(numbers.len(), list.len());
            }
            assert!(calls.list().all(|allowed| !allowed.reason.is_empty()));
            // Without any condition a call is allowed whatever another list asks; with one, alternatives add up.
            for allowed in calls.list() {
                let same = calls.list().filter(|other| other.number == allowed.number);
                let has_conditions: Vec<bool> = same.map(|other| !other.alternatives.is_empty()).collect();
                assert!(
                    has_conditions.len() == 1 || has_conditions.iter().all(|has| *has),
                    "{}",
                    allowed.name
                );
            }
        }
    }

    #[test]
    fn nothing_that_starts_or_touches_another_process_is_listed() {
        let forbidden = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_prctl,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
        ];
        for calls in EACH {
            assert!(calls.list().all(|allowed| !forbidden.contains(&allowed.number)));
        }
        let has = |calls: Calls, number| calls.list().any(|allowed| allowed.number == number);
        let may = |number| EACH.into_iter().filter(|calls| has(*calls, number)).collect::<Vec<_>>();
        assert_eq!(may(libc::SYS_pidfd_send_signal), [Calls::Messenger]);
        assert_eq!(may(libc::SYS_unlinkat), [Calls::Janitor]);
        assert_eq!(may(libc::SYS_clone), [Calls::Workers, Calls::Network]);
        let clone = Calls::Workers.list().find(|allowed| allowed.number == libc::SYS_clone).unwrap();
        let shares_everything = Value::Fixed(list::THREAD_FLAGS as u32);
        assert_eq!(
            clone.alternatives.concat(),
            [Argument { index: 0, mask: u32::MAX, value: shares_everything }]
        );
        assert_ne!(list::THREAD_FLAGS & libc::CLONE_THREAD, 0);
    }

    #[test]
    fn lists_can_be_translated_and_fit() {
        for calls in EACH {
            let program = build(calls).unwrap();
            assert!(program.len() < 4096, "{}", program.len());
        }
    }

    #[test]
    fn documentation_has_the_same_tables() {
        let text = include_str!("../../docs/security.md");
        for (users, list, title) in ALL {
            assert!(users.iter().all(|calls| calls.lists().contains(&list)));
            let (_, section) = text.split_once(&format!("\n### {title}")).expect(title);
            let section = section.split("\n##").next().unwrap();
            let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
            let expected: Vec<String> =
                list.iter().map(|allowed| format!("| `{}` | {} |", allowed.name, allowed.reason)).collect();
            // The other architecture has some rows less.
            let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(&row.as_str())).collect();
            assert!(missing.is_empty(), "docs/security.md lacks\n{missing:#?}");
            if cfg!(target_arch = "x86_64") {
                assert_eq!(rows.len(), expected.len(), "{title}: rows for calls that are not allowed");
            }
        }
    }

    #[test]
    fn violation_is_told_by_its_number_and_arguments() {
        let mut line = [0; MAX_LINE];
        for (number, text) in [(0, "call 0 (0x0, 0x6, 0xffffffff, "), (u32::MAX, "call 4294967295 (0x0")] {
            let len = violation_line(number, [0, 6, u32::MAX], &mut line);
            let told = std::str::from_utf8(&line[..len]).unwrap();
            assert!(told.contains(text) && told.ends_with(")\n"), "{told}");
        }
    }
}
