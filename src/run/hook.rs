//! The user's hook (`--hook`), started while programs can be.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use super::{Doing, RunError};
use crate::cli::HookPlan;
use crate::config::HookSettings;
use crate::sys::companion;
use crate::worker::Worker;
use crate::worker::hook::Hook;

/// Why there is no hook.
#[derive(Debug, thiserror::Error)]
#[error("--hook: cannot run {}: {source}; name a program that you may run, without arguments", program.display())]
pub struct HookError {
    program: PathBuf,
    source: io::Error,
}

/// A program that runs, and our end of the stream to it.
pub struct Started {
    /// What it is called, for those who ask.
    pub program: String,
    /// Our end.
    pub stream: UnixStream,
    /// How it is asked.
    pub settings: HookSettings,
}

/// Starts it, if there is one. What is forked after this would keep it from hearing of our end.
pub fn start(plan: Option<&HookPlan>, errors: Stdio) -> Result<Option<Started>, HookError> {
    let Some(hook) = plan else { return Ok(None) };
    let failed = |source| HookError { program: hook.program.clone(), source };
    let stream = companion::start(hook.program.as_os_str(), errors).map_err(failed)?;
    Ok(Some(Started { program: hook.program.display().to_string(), stream, settings: hook.settings }))
}

/// Has the worker ask it.
pub fn join(worker: Worker, started: Option<Started>) -> Result<Worker, RunError> {
    match started {
        Some(Started { program, stream, settings }) => {
            worker.with_hook(Hook::new(program, stream, settings)).doing("watch the hook")
        }
        None => Ok(worker),
    }
}
