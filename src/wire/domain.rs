//! Domain names as DHCP, DHCPv6 and router advertisements carry them: labels, uncompressed (RFC 1035 §3.1,
//! RFC 8415 §10).

/// A domain name, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainName {
    labels: Box<[u8]>,
}

impl DomainName {
    /// Bytes of the longest one on the wire, its root label included.
    pub const MAX_LEN: usize = 255;
    /// Bytes of the longest label.
    const MAX_LABEL_LEN: usize = 63;

    /// The name written with dots, with or without one at its end; `None` where that is no name, or only the root.
    #[must_use]
    pub fn new(text: &str) -> Option<DomainName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut labels = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            let is_label = (1..=Self::MAX_LABEL_LEN).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_label {
                return None;
            }
            labels.push(label.len() as u8);
            labels.extend_from_slice(label.as_bytes());
        }
        labels.push(0);
        (labels.len() <= Self::MAX_LEN).then(|| DomainName { labels: labels.into() })
    }

    /// Its labels, each behind its length, the root's last; at most [`Self::MAX_LEN`] bytes.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The name with dots, none at its end.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.labels.len());
        let mut rest = &*self.labels;
        while let Some((&len, behind)) = rest.split_first().filter(|(len, _)| **len > 0) {
            let (label, behind) = behind.split_at(usize::from(len));
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().copied().map(char::from));
            rest = behind;
        }
        text
    }
}

/// The labels of the first names, as many whole ones as make no more than `room` bytes.
#[must_use]
pub fn list(names: &[DomainName], room: usize) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        if list.len() + name.labels.len() > room {
            break;
        }
        list.extend_from_slice(&name.labels);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::v6::DhcpOption;
    use dhcproto::{Encodable, Name};

    #[test]
    fn names_are_the_labels_that_an_independent_writer_writes() {
        for text in ["example.org", "a", "x-1._tcp.Example.org"] {
            let name = DomainName::new(text).unwrap();
            let independent = Name::from_ascii(format!("{text}.")).unwrap();
            let option = DhcpOption::DomainSearchList(vec![independent]).to_vec().unwrap();
            assert_eq!(name.labels(), &option[4..]);
            assert_eq!(name.text(), text);
            assert_eq!(DomainName::new(&format!("{text}.")), Some(name));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let (longest, too_long) = ("a".repeat(63), "a".repeat(64));
        assert!(DomainName::new(&longest).is_some());
        let full = [&longest[..], &longest, &longest, &longest[..61]].join(".");
        assert_eq!(DomainName::new(&full).unwrap().labels().len(), DomainName::MAX_LEN);
        let over = [&longest[..], &longest, &longest, &longest[..62]].join(".");
        for text in ["", ".", "a..b", ".a", "a..", "a b", "ä.example", &too_long, &over] {
            assert_eq!(DomainName::new(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_has_as_many_whole_names_as_fit() {
        let names = ["a.example", "b.example", "c"].map(|text| DomainName::new(text).unwrap());
        assert_eq!(list(&names, 100), b"\x01a\x07example\0\x01b\x07example\0\x01c\0");
        assert_eq!(list(&names, 21), names[0].labels(), "not the third, though that would fit");
        assert!(list(&names, 10).is_empty());
    }
}
