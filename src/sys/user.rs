//! Who we are, who asks us, and becoming another user, for those who are started as root and need not stay so.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Gid, Group, Uid, User, geteuid, seteuid, setgid, setgroups, setuid};

/// Why the user could not be changed. The text is one line.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Not of the form, or nobody has the name.
    #[error(
        "there is no user or group {0}; give a number or a name that `getent passwd` shows, as in nobody or 1000:1000"
    )]
    Unknown(String),
    /// The kernel refused.
    #[error("cannot become {who}: {source}; only root can change its user")]
    Refused {
        /// As asked.
        who: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Becomes `UID[:GID]` or `LOGIN[:GROUP]`, for good and with no further groups; nothing where we are that user already.
pub fn become_user(who: &str) -> Result<(), UserError> {
    let (uid, gid) = resolve(who)?;
    if geteuid() == uid {
        return Ok(());
    }
    let changed = setgroups(&[]).and_then(|()| setgid(gid)).and_then(|()| setuid(uid));
    changed.map_err(|errno| UserError::Refused { who: who.to_owned(), source: errno.into() })
}

/// The user whom this process acts as.
#[must_use]
pub fn own() -> u32 {
    geteuid().as_raw()
}

/// Does `work` as another user, if we are root: what is made or asked then is that user's.
pub fn acting_as<T>(user: u32, work: impl FnOnce() -> T) -> T {
    let changed = geteuid().is_root() && user != 0 && seteuid(Uid::from_raw(user)).is_ok();
    let outcome = work();
    if changed {
        // From a user back to root there is always a way, as root is still the real user.
        let _ = seteuid(Uid::from_raw(0));
    }
    outcome
}

/// The user who connected to a Unix socket, as our user namespace names it.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&socket, PeerCredentials)?.uid())
}

fn resolve(who: &str) -> Result<(Uid, Gid), UserError> {
    let unknown = || UserError::Unknown(who.escape_debug().to_string());
    let (user, group) = match who.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (who, None),
    };
    let known = match user.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(user),
    };
    let known = known.ok().flatten();
    let uid = match (&known, user.parse()) {
        (Some(known), _) => known.uid,
        (None, Ok(uid)) => Uid::from_raw(uid),
        (None, Err(_)) => return Err(unknown()),
    };
    let gid = match group {
        Some(group) => match group.parse() {
            Ok(gid) => Gid::from_raw(gid),
            Err(_) => Group::from_name(group).ok().flatten().ok_or_else(unknown)?.gid,
        },
        // A number that nobody has: the group of the same number, as for a user without a name it usually is.
        None => known.map_or_else(|| Gid::from_raw(uid.as_raw()), |known| known.gid),
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_number_and_by_name() {
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        for who in ["root", "0", "root:root", "0:0", "root:0"] {
            assert_eq!(resolve(who).unwrap(), root, "{who}");
        }
        assert_eq!(resolve("4000000:7").unwrap(), (Uid::from_raw(4_000_000), Gid::from_raw(7)));
        assert_eq!(resolve("4000000").unwrap().1, Gid::from_raw(4_000_000));
    }

    #[test]
    fn nobody_of_the_name_is_told() {
        for who in ["no-such-user", "", "root:no-such-group", ":0"] {
            assert!(matches!(resolve(who), Err(UserError::Unknown(_))), "{who}");
        }
    }
}
