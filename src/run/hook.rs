//! The user's hook (`--hook`), started while programs can be.

use std::io;
use std::path::PathBuf;

use super::{Doing, RunError};
use crate::cli::Plan;
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

/// Starts it, if the plan has one. What is forked after this would keep it from hearing of our end.
pub fn start(plan: &Plan) -> Result<Option<Hook>, HookError> {
    let Some(hook) = &plan.hook else { return Ok(None) };
    let failed = |source| HookError { program: hook.program.clone(), source };
    let stream = companion::start(hook.program.as_os_str()).map_err(failed)?;
    Ok(Some(Hook::new(hook.program.display().to_string(), stream, hook.settings)))
}

/// Has the worker ask it.
pub fn join(worker: Worker, hook: Option<Hook>) -> Result<Worker, RunError> {
    match hook {
        Some(hook) => worker.with_hook(hook).doing("watch the hook"),
        None => Ok(worker),
    }
}
