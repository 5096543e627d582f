//! A program beside us, spoken to over its standard input and output, which are both ends of one stream.
//!
//! It is the user's own, with the user's environment, in the namespaces that we were started in, and
//! in a process group of its own, so that an interrupt at the terminal is not meant for it. Started before we are confined,
//! because afterwards nothing can be. It finds the end of its input when we end, and is sent `SIGTERM` besides.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::process::{Signal, set_parent_death_signal};

/// Starts it, found along `PATH` and without arguments; our end of the stream. What it has to say beside goes to `errors`. The
/// kernel takes it for the child of the calling thread.
pub fn start(program: &OsStr, errors: Stdio) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let parent = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let mut command = Command::new(program);
    command.stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs)).stderr(errors);
    command.process_group(0);
    // SAFETY: between fork and exec only prctl(2) and getppid(2) are called, and nothing is allocated unless we have ended
    // meanwhile, of which nobody hears.
    unsafe { command.pre_exec(move || set_parent_death_signal(Signal::SIGTERM, parent)) };
    // It is not waited for: its end is the end of the stream.
    command.spawn().map(|_| ours)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn what_it_is_told_it_may_answer() {
        let mut stream = start(OsStr::new("cat"), Stdio::inherit()).unwrap();
        stream.write_all(b"one\ntwo\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "one\ntwo\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_at_once() {
        let missing = start(OsStr::new("/nowhere/hook"), Stdio::inherit()).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
