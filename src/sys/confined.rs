//! Proof that a process has given up what serving does not need.
//!
//! Two stages, two types, and no way to the second but through the first: [`Sandboxed`] is what
//! [`sandbox::enter`](super::sandbox::enter) answers, [`Confined`] what [`seccomp::install`](super::seccomp::install)
//! makes of it. Whoever reads what the container sends asks for a `Confined`, so that a loop without confinement cannot be
//! written by mistake. Where one is wanted all the same, the [`Waiver`] says who wanted it.

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
#[derive(Debug)]
pub struct Sandboxed(());

impl Sandboxed {
    pub(super) fn entered() -> Sandboxed {
        Sandboxed(())
    }

    /// They are not, and that is meant so.
    #[must_use]
    pub fn waived(_: Waiver) -> Sandboxed {
        Sandboxed(())
    }
}

/// The system calls that are not needed are gone as well, in every thread of the process.
#[derive(Debug, Clone, Copy)]
pub struct Confined(());

impl Confined {
    pub(super) fn filtered(_: Sandboxed) -> Confined {
        Confined(())
    }

    /// They are not, and that is meant so.
    #[must_use]
    pub fn waived(_: Sandboxed, _: Waiver) -> Confined {
        Confined(())
    }
}
