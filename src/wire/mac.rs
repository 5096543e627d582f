//! The link-layer address of an Ethernet interface.

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether this address names one interface: the group bit is clear and it is not all zeroes.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a usable interface address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MacAddrError {
    /// Not six colon-separated pairs of hexadecimal digits.
    #[error("expected six pairs of hexadecimal digits such as 02:00:00:00:00:01")]
    Syntax,
    /// A group or all-zero address cannot belong to an interface.
    #[error("not a unicast address: the first byte must be even and the whole not zero")]
    NotUnicast,
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError::Syntax)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MacAddrError::Syntax);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError::Syntax)?;
        }
        if parts.next().is_some() {
            return Err(MacAddrError::Syntax);
        }
        let address = MacAddr(bytes);
        if address.is_unicast() { Ok(address) } else { Err(MacAddrError::NotUnicast) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let address = MacAddr([0x52, 0x55, 0x0a, 0, 2, 0xff]);
        assert_eq!("52:55:0a:00:02:ff".parse(), Ok(address));
        assert_eq!(address.to_string(), "52:55:0a:00:02:ff");
    }

    #[test]
    fn group_zero_and_malformed_addresses_are_refused() {
        assert_eq!("01:00:5e:00:00:01".parse::<MacAddr>(), Err(MacAddrError::NotUnicast));
        assert_eq!("00:00:00:00:00:00".parse::<MacAddr>(), Err(MacAddrError::NotUnicast));
        for text in [
            "",
            "52:55:0a:00:02",
            "52:55:0a:00:02:ff:00",
            "52-55-0a-00-02-ff",
            "5:55:0a:00:02:ff",
            "+2:55:0a:00:02:ff",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError::Syntax), "{text}");
        }
    }
}
