//! The program's own text: what only the start has needed of it is given back.
//!
//! Reading a command line and looking at a machine runs through most of the program once, and the kernel maps what is
//! around each page of it too. What serves packets is a small part, and comes back with a few page faults.
//! Reference: madvise(2), `MADV_DONTNEED` of a private mapping of a file that nobody has written to; end(3) for the symbols.

use std::ptr;

unsafe extern "C" {
    /// The program's first byte in memory, from the linker.
    static __executable_start: u8;
    /// The end of its text. What is written to (relocations, data) lies behind it.
    static etext: u8;
}

/// Unmaps every page of the program from its start to the end of its text; each is mapped again when it is used.
pub fn forget_start() {
    let page = usize::try_from(
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4_096),
    )
    .unwrap_or(4_096);
    let start = (&raw const __executable_start).addr();
    // The last page may hold the beginning of what is written to.
    let end = (&raw const etext).addr() / page * page;
    if start.is_multiple_of(page) && start < end {
        // SAFETY: from `start` to `end` lie only pages of the program's file that are mapped privately, without leave to
        // write, and have never been written: the kernel reads the same bytes again. Failure changes nothing.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::tests::in_private_network;

    /// What is resident of files, in KiB: this program and its libraries.
    fn resident_of_files() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_the_start_has_used_is_resident_no_more_and_still_runs() {
        // A process of its own: other tests would map what is being unmapped.
        in_private_network(
            "sys::text::tests::what_the_start_has_used_is_resident_no_more_and_still_runs",
            || {
                // Every page of the text is read, so that all of it is there.
                let start = (&raw const __executable_start).addr();
                let len = (&raw const etext).addr() - start;
                let read = || {
                    // SAFETY: the program's own bytes, which nobody writes to.
                    let text = unsafe { std::slice::from_raw_parts(&raw const __executable_start, len) };
                    text.iter()
                        .step_by(512)
                        .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
                };
                let (sum, before) = (read(), resident_of_files());
                forget_start();
                let after = resident_of_files();
                let text_kib = u64::try_from(len >> 10).unwrap();
                assert!(after + text_kib / 2 < before, "{before} KiB, then {after}, of {text_kib} of text");
                assert_eq!(read(), sum);
            },
        );
    }
}
