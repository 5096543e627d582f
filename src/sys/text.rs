//! The text of the program and its libraries: what only the start has needed of it is given back.
//!
//! Reading a command line and looking at a machine runs through most of the program once, and the kernel maps what is
//! around each page of it too. What serves packets is a small part, and comes back with a few page faults.
//! References: madvise(2), `MADV_DONTNEED` of a private mapping of a file that nobody has written to; `dl_iterate_phdr`(3); elf(5).

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use nix::unistd::{SysconfVar, sysconf};

/// Pages of one object that are read or run, and never written to.
#[derive(Debug, Clone, Copy)]
struct Segment {
    start: usize,
    len: usize,
}

/// Unmaps every page of the program and its libraries that nobody may write to; each is mapped again when it is used.
pub fn forget_start() {
    for Segment { start, len } in segments() {
        // SAFETY: these pages of a file are mapped privately by the loader, which has neither given leave to write to them nor
        // written to them itself: the kernel reads the same bytes again. Failure changes nothing.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), len, libc::MADV_DONTNEED) };
    }
}

/// All of what is loaded. What the loader relocates and protects only then (`PT_GNU_RELRO`) lies in segments that may be
/// written to, and is none of them.
fn segments() -> Vec<Segment> {
    let mut found = Vec::new();
    // SAFETY: `note` is called before this returns only, with the pointer that it is given here, to a vector that nobody else has.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut found).cast()) };
    found
}

/// Takes what is wanted of one loaded object.
///
/// # Safety
/// `object` is what `dl_iterate_phdr` gives, and `found` points to a `Vec<Segment>` that nobody else has.
unsafe extern "C" fn note(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: by the contract above both are valid, and the headers and the name are as long as the object says.
    let (object, found, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (object, &mut *found.cast::<Vec<Segment>>(), headers)
    };
    // SAFETY: where there is a name, it is a string of C.
    let name = NonNull::new(object.dlpi_name.cast_mut()).map(|name| unsafe { CStr::from_ptr(name.as_ptr()) });
    // The kernel's own object is no file.
    if name.is_some_and(|name| name.to_bytes().starts_with(b"linux-")) {
        return 0;
    }
    let Some(page) =
        sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok())
    else {
        return 0;
    };
    let is_wanted =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(is_wanted) {
        let numbers = (usize::try_from(object.dlpi_addr + header.p_vaddr), usize::try_from(header.p_memsz));
        let (Ok(start), Ok(len)) = numbers else { continue };
        // Whole pages: the first and last may be shared with another segment.
        let (first, last) = (start.next_multiple_of(page), (start + len) / page * page);
        if first < last {
            found.push(Segment { start: first, len: last - first });
        }
    }
    0
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

    /// A sum over all its pages.
    fn sum(segment: &Segment) -> u64 {
        // SAFETY: bytes of a loaded object, which nobody writes to.
        let text = unsafe {
            std::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(segment.start), segment.len)
        };
        text.iter().step_by(512).fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
    }

    #[test]
    fn what_the_start_has_used_is_resident_no_more_and_still_runs() {
        // A process of its own: other tests would map what is being unmapped.
        in_private_network(
            "sys::text::tests::what_the_start_has_used_is_resident_no_more_and_still_runs",
            || {
                let segments = segments();
                let of = |segment: &Segment, address: usize| {
                    (segment.start..segment.start + segment.len).contains(&address)
                };
                // Ours and the C library's.
                for address in
                    [sum as fn(&Segment) -> u64 as *const () as usize, libc::getpid as *const () as usize]
                {
                    assert!(segments.iter().any(|segment| of(segment, address)), "{segments:x?}");
                }
                let len: usize = segments.iter().map(|segment| segment.len).sum();
                // Every page is read, so that all of it is there.
                let read = || segments.iter().map(sum).collect::<Vec<_>>();
                let (sums, before) = (read(), resident_of_files());
                forget_start();
                let after = resident_of_files();
                let text_kib = u64::try_from(len >> 10).unwrap();
                assert!(after + text_kib / 2 < before, "{before} KiB, then {after}, of {text_kib} of text");
                assert_eq!(read(), sums);
            },
        );
    }
}
