//! The hook that all of them ask, if there is one.

use mio::Token;

use super::Members;
use crate::run::network::hook::Hub;

impl Members {
    /// The same, whose workers ask a hook.
    #[must_use]
    pub fn with_hook(mut self, hook: Option<Hub>) -> Members {
        self.hook = hook;
        self
    }

    /// Something has happened at a stream of the hook's; false if the token is of none.
    pub fn note_hook(&mut self, token: Token) -> bool {
        self.hook.as_mut().is_some_and(|hook| hook.note(token))
    }

    /// Whether the hook or who asks it may have more at once.
    #[must_use]
    pub fn has_hook_to_serve(&self) -> bool {
        self.hook.as_ref().is_some_and(Hub::is_ready)
    }

    /// Passes on what the hook and who asks it have said.
    pub fn serve_hook(&mut self) {
        if let Some(hook) = &mut self.hook {
            hook.serve();
        }
    }
}
