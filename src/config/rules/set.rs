//! Sets of addresses and of names, made for questions: the cost of one does not grow with what is in them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses, as ranges that do not overlap, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressSet {
    ipv4: Vec<(u32, u32)>,
    ipv6: Vec<(u128, u128)>,
}

impl AddressSet {
    /// All addresses of these networks.
    #[must_use]
    pub fn of(networks: impl IntoIterator<Item = IpNet>) -> AddressSet {
        let mut set = AddressSet::default();
        for network in networks {
            match network {
                IpNet::V4(v4) => set.ipv4.push((v4.network().to_bits(), v4.broadcast().to_bits())),
                IpNet::V6(v6) => set.ipv6.push((v6.network().to_bits(), v6.broadcast().to_bits())),
            }
        }
        merge(&mut set.ipv4);
        merge(&mut set.ipv6);
        set
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => has(&self.ipv4, v4.to_bits()),
            IpAddr::V6(v6) => has(&self.ipv6, v6.to_bits()),
        }
    }
}

fn merge<N: Ord + Copy>(ranges: &mut Vec<(N, N)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let overlaps = next.0 <= before.1;
        if overlaps {
            before.1 = before.1.max(next.1);
        }
        overlaps
    });
}

fn has<N: Ord>(ranges: &[(N, N)], number: N) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= number);
    behind > 0 && ranges[behind - 1].1 >= number
}

/// Names: each alone, or all below one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameSet {
    exact: BTreeSet<String>,
    below: BTreeSet<String>,
}

impl NameSet {
    /// Adds a name, or with `*.` in front of it all that are below it; whether it is one.
    pub fn add(&mut self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        let (set, name) = match text.strip_prefix("*.") {
            Some(name) => (&mut self.below, name),
            None => (&mut self.exact, text.as_str()),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_one = is_name(name);
        if is_one {
            set.insert(name.to_owned());
        }
        is_one
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// Whether this one, in lower case and without a dot at its end, is among them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        if self.exact.contains(name) {
            return true;
        }
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.') {
            if self.below.contains(above) {
                return true;
            }
            rest = above;
        }
        false
    }
}

/// Host names only, as the reader of the DNS's messages has them; a number at the end would be an address that is
/// none.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let ends_in_number = last.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !ends_in_number
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_for_all_below_and_not_for_the_name_itself() {
        let mut names = NameSet::default();
        assert!(names.add("*.Crates.io") && names.add("example.org."));
        for name in ["static.crates.io", "a.b.crates.io", "example.org"] {
            assert!(names.contains(name), "{name}");
        }
        for name in ["crates.io", "io", "xcrates.io", "www.example.org", ""] {
            assert!(!names.contains(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_none() {
        let long = format!("{}.example", "a".repeat(64));
        for text in
            ["", ".", "*", "*.", "a..b", "a b", "*.*.org", "a.*.org", "1.2.3.4", "1.2.3", "ä.org", &long]
        {
            assert!(!NameSet::default().add(text), "{text}");
        }
    }

    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u8>(), 0u8..=32)
            .prop_map(|(bits, len)| IpNet::new(IpAddr::from([10, 0, 0, bits]), len).unwrap());
        let v6 = (any::<u8>(), 112u8..=128).prop_map(|(bits, len)| {
            IpNet::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, bits.into()]), len).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        /// The model asks each network by itself.
        #[test]
        fn a_set_has_what_one_of_its_networks_has(
            networks in prop::collection::vec(network(), 0..12),
            last in any::<u8>(),
        ) {
            let set = AddressSet::of(networks.iter().copied());
            for address in [IpAddr::from([10, 0, 0, last]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()])] {
                let expected = networks.iter().any(|network| network.contains(&address));
                prop_assert_eq!(set.contains(address), expected, "{} in {:?}", address, &set);
            }
        }
    }
}
