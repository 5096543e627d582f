//! Proof that a process has given up what serving does not need.
//!
//! Two stages, two types, and no way to the second but through the first: [`Sandboxed`] is what
//! [`sandbox::enter`](super::sandbox::enter) answers, [`Confined`] what [`seccomp::install`](super::seccomp::install)
//! makes of it. Whoever reads what the container sends asks for a `Confined`, so that a loop without confinement cannot be
//! written by mistake. Where one is wanted all the same, the [`Waiver`] says who wanted it.
//!
//! **Threads.** Capabilities, Landlock's rules and the place in the file system belong to a thread. One that is made after the
//! confinement inherits all of it, the filter included (clone(2), capabilities(7), landlock(7), seccomp(2)); one that was
//! there before keeps what it had. So neither proof leaves the thread that it was made in, and another thread has one only by
//! being made with it: [`Confined::spawn`].

use std::io;
use std::marker::PhantomData;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Keeps a proof in its thread: a pointer is not sent.
type OfThisThread = PhantomData<*const ()>;

/// Why a stage is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiver {
    /// The user asked for it.
    OfUser,
    /// The process is there for what the stage would take away.
    OfTask,
    /// The flags of another program's face do not ask for the stage.
    OfFace,
    /// A test, or a measurement of the parts.
    OfTest,
}

/// The files and the capabilities are gone.
///
/// ```compile_fail
/// # use netferry::sys::confined::{Sandboxed, Waiver};
/// let sandboxed = Sandboxed::waived(Waiver::OfTest);
/// std::thread::spawn(move || drop(sandboxed));
/// ```
#[derive(Debug)]
pub struct Sandboxed(OfThisThread);

impl Sandboxed {
    pub(super) fn entered() -> Sandboxed {
        Sandboxed(PhantomData)
    }

    /// They are not, and that is meant so.
    #[must_use]
    pub fn waived(_: Waiver) -> Sandboxed {
        Sandboxed(PhantomData)
    }
}

/// The system calls that are not needed are gone as well, in every thread of the process.
///
/// ```compile_fail
/// # use netferry::sys::confined::{Confined, Sandboxed, Waiver};
/// let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
/// std::thread::spawn(move || drop(confined));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Confined(OfThisThread);

impl Confined {
    pub(super) fn filtered(_: Sandboxed) -> Confined {
        Confined(PhantomData)
    }

    /// They are not, and that is meant so.
    #[must_use]
    pub fn waived(_: Sandboxed, _: Waiver) -> Confined {
        Confined(PhantomData)
    }

    /// Makes a thread, which is confined as its maker is. The filter must be one that lets threads be made
    /// ([`Calls::Workers`](super::seccomp::Calls::Workers)). It has no name: giving it one takes prctl(2).
    pub fn spawn<T: Send + 'static>(
        self,
        body: impl FnOnce(Confined) -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        Builder::new().spawn(move || body(Confined(PhantomData)))
    }

    /// The same for a thread that ends before `scope` does and may borrow what outlives it.
    pub fn spawn_scoped<'scope, T: Send + 'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        body: impl FnOnce(Confined) -> T + Send + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        Builder::new().spawn_scoped(scope, move || body(Confined(PhantomData)))
    }
}
