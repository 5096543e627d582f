//! Landlock: what is left to be done with files, whatever the mounts say.
//!
//! Reading below the root, which is the sandbox's own by now. Everything else that the running kernel can forbid is
//! forbidden: writing, making, removing, executing, device ioctls. From Linux 6.12 on also signals to processes
//! outside, and abstract Unix sockets made outside, which no mount namespace hides. Files that are open stay as they are.
//! A kernel without Landlock leaves it to the mounts and the filter of system calls. Reference: landlock(7).

use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use tracing::debug;

/// The newest that this was thought through for; an older kernel does what it can.
const ABI_KNOWN: ABI = ABI::V6;

/// Restricts the calling thread and what it starts, for good. Wants no new privileges given up before.
pub(super) fn restrict() -> io::Result<()> {
    // A root that cannot be opened holds nothing that could be read.
    let root = PathFd::new("/").ok();
    let status = (|| {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI_KNOWN))?
            .scope(Scope::from_all(ABI_KNOWN))?
            .create()?;
        Ok::<_, landlock::RulesetError>(match root {
            Some(root) => ruleset
                .add_rule(PathBeneath::new(root, AccessFs::ReadFile | AccessFs::ReadDir))?
                .restrict_self()?,
            None => ruleset.restrict_self()?,
        })
    })();
    let status = status.map_err(io::Error::other)?;
    debug!(landlock = ?status.ruleset, "files");
    Ok(())
}
