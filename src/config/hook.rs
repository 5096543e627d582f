//! How a program of the user's is asked about what begins, before any rule (docs/rules.md).

use std::time::Duration;

/// How long it may think, and what is done where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookSettings {
    /// An answer that comes later is none.
    pub patience: Duration,
    /// What becomes of what it gave no answer about.
    pub on_failure: OnFailure,
}

impl Default for HookSettings {
    fn default() -> HookSettings {
        HookSettings { patience: Duration::from_secs(1), on_failure: OnFailure::default() }
    }
}

/// What becomes of what the hook has given no answer about: none in time, one that makes no sense, or it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It is dropped, in silence.
    #[default]
    Deny,
    /// The rules decide alone.
    Pass,
}

/// What the hook may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookVerdict {
    /// It may pass, whatever the rules say.
    Allow,
    /// It is dropped, in silence.
    Deny,
    /// It is dropped, and its sender told.
    Reject,
    /// The rules decide.
    Pass,
}

impl HookVerdict {
    /// All of them.
    pub const ALL: [HookVerdict; 4] =
        [HookVerdict::Allow, HookVerdict::Deny, HookVerdict::Reject, HookVerdict::Pass];

    /// As the hook writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HookVerdict::Allow => "allow",
            HookVerdict::Deny => "deny",
            HookVerdict::Reject => "reject",
            HookVerdict::Pass => "pass",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<HookVerdict> {
        HookVerdict::ALL.into_iter().find(|verdict| verdict.name() == name)
    }
}
