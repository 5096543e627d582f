//! Facts about the host: limits, addresses, randomness. For its resolvers see [`crate::sys::resolv_conf`].

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of descriptors this process may have open to the most it may grant itself, and returns
/// what then holds. Children inherit it: those that are to become other programs are better forked before.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= hard {
        return Ok(soft);
    }
    // Refused only by a security module; what we have then remains.
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => Ok(hard),
        Err(_) => Ok(soft),
    }
}

/// Processors that this process may use, one where that cannot be told.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// 256 bits nobody can guess, for keyed hashes and sequence numbers.
pub fn random_secret() -> io::Result<[u64; 4]> {
    const LEN: usize = 32;
    let mut bytes = [0_u8; LEN];
    let filled = loop {
        // SAFETY: writes at most `LEN` bytes to `bytes`, which has as many and outlives the call.
        let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), LEN, 0) };
        match Errno::result(filled) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    // random(4): requests of up to 256 bytes are never cut short.
    if usize::try_from(filled) != Ok(LEN) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut words = bytes
        .chunks_exact(8)
        .map(|chunk| chunk.iter().fold(0_u64, |word, &byte| (word << 8) | u64::from(byte)));
    Ok(std::array::from_fn(|_| words.next().unwrap_or_default()))
}

/// Every address of every interface in the current network namespace, loopback and link-local included, each
/// once.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        if let Some(address) = v4.or(v6)
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    Ok(found)
}

/// Ports that clients are given by the kernel (`net.ipv4.ip_local_port_range`, ip(7)).
#[must_use]
pub fn ephemeral_ports() -> std::ops::RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        // The kernel's own default.
        _ => 32_768..=60_999,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ() {
        let (first, second) = (random_secret().unwrap(), random_secret().unwrap());
        assert_ne!(first, second);
        assert!(first.iter().all(|&word| word != 0), "{first:x?}");
    }

    #[test]
    fn the_descriptor_limit_ends_at_the_hard_one() {
        let limit = raise_descriptor_limit().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(limit, soft);
        assert_eq!(soft, hard);
    }
}
