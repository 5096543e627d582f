//! Locks on single bytes of a file: as many as there are numbers, and one file for all of them.
//!
//! They are locks of the open file (`F_OFD_SETLKW`), so that they end with whoever has it open, however that ends, and a copy of
//! the descriptor in a child holds them too. Reference: fcntl_locking(2).

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Waits until nobody else has the lock on the byte at `place`, which need not be there, and takes it until `file` is closed.
/// `file` is open for writing.
pub fn lock(file: &File, place: u32) -> io::Result<()> {
    let wanted = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: place.into(),
        l_len: 1,
        // To be zero with locks of open files.
        l_pid: 0,
    };
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&wanted)) {
            Err(Errno::EINTR) => {}
            outcome => return Ok(outcome.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_byte_is_locked_by_one_until_his_file_is_closed() {
        let path = std::env::temp_dir().join(format!("netferry-byte-lock-{}", std::process::id()));
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let first = open();
        lock(&first, 7).unwrap();
        // Another byte is another lock.
        lock(&open(), u32::MAX).unwrap();
        let (locked, hears) = channel();
        let second = open();
        let waits = std::thread::spawn(move || {
            lock(&second, 7).unwrap();
            locked.send(()).unwrap();
        });
        assert!(hears.recv_timeout(Duration::from_millis(50)).is_err(), "two have the same lock");
        drop(first);
        hears.recv_timeout(Duration::from_secs(30)).unwrap();
        waits.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
