//! The options about a program of the user's that is asked before any rule.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::HookPlan;
use crate::cli::values::{ValueError, malformed, unusable};
use crate::config::timeouts::{self, TimeoutError};
use crate::config::{HookSettings, OnFailure, UdpMapping};

/// Options of `run`, `attach` and `network create`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct HookOptions {
    /// Ask this program about everything that begins, before any rule.
    ///
    /// It is started once, outside of the container, and reads a line of JSON for each connection, exchange of datagrams and ping on its
    /// standard input; it answers with one on its standard output: allow, deny, reject, or pass to leave it to the rules.
    /// docs/rules.md has the lines. What begins waits for the answer, and nothing else does.
    #[arg(long, value_name = "PROGRAM", help_heading = "Rules")]
    hook: Option<PathBuf>,

    /// How long --hook may think, from 100ms [default: 1s].
    #[arg(long, value_name = "TIME", requires = "hook", help_heading = "Rules")]
    hook_timeout: Option<String>,

    /// What becomes of what --hook gives no answer about [default: deny].
    #[arg(long, value_name = "WHAT", value_enum, requires = "hook", help_heading = "Rules")]
    hook_failure: Option<HookFailure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HookFailure {
    /// It is dropped, in silence.
    Deny,
    /// The rules decide alone.
    Pass,
}

impl HookOptions {
    /// What they ask for.
    pub(super) fn resolve(&self, mapping: UdpMapping) -> Result<Option<HookPlan>, ValueError> {
        let Some(program) = self.hook.clone() else { return Ok(None) };
        if mapping == UdpMapping::EndpointIndependent {
            let message = "--hook: with --udp-mapping endpoint-independent one exchange is for all peers, and cannot wait for an \
                           answer about one of them; leave one of the two out";
            return Err(ValueError::Unusable(message.to_owned()));
        }
        let mut settings = HookSettings::default();
        if let Some(text) = &self.hook_timeout {
            settings.patience = timeouts::time(text).map_err(|error| match error {
                TimeoutError::OutOfRange(_) => unusable("--hook-timeout", text, error),
                TimeoutError::Malformed | TimeoutError::Unknown(_) | TimeoutError::NotATime(_) => {
                    malformed("--hook-timeout", text, error)
                }
            })?;
        }
        settings.on_failure = match self.hook_failure {
            Some(HookFailure::Pass) => OnFailure::Pass,
            Some(HookFailure::Deny) | None => OnFailure::Deny,
        };
        Ok(Some(HookPlan { program, settings }))
    }
}
