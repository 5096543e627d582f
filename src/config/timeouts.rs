//! How long silence is tolerated, and how a user says so.
//!
//! The defaults are those that the standards ask of a NAT; a shorter one is the user's own choice.

use std::str::FromStr;
use std::time::Duration;

/// How long silence is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Handshake of a TCP flow, either side (RFC 5382 REQ-5: at least 4 minutes).
    pub tcp_handshake: Duration,
    /// Established TCP flow without a byte: then both sides are asked whether they are still there, and the flow ends when
    /// one is not (RFC 5382 REQ-5: never below 2 h 4 min; REQ-6 names the questions).
    pub tcp_established: Duration,
    /// From one such question to the next.
    pub tcp_probe: Duration,
    /// Container that owes an acknowledgement, of data or of a FIN.
    pub tcp_closing: Duration,
    /// TIME-WAIT after the host closed first.
    pub tcp_time_wait: Duration,
    /// UDP mapping (RFC 4787 REQ-5 recommends five minutes).
    pub udp: Duration,
    /// Echo flow (RFC 5508 REQ-2: at least 60 s).
    pub icmp: Duration,
    /// A resolver that has not answered by then is passed over.
    pub dns_try: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_handshake: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7_440),
            tcp_probe: Duration::from_secs(75),
            tcp_closing: Duration::from_secs(240),
            tcp_time_wait: Duration::from_secs(10),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            dns_try: Duration::from_millis(1_500),
        }
    }
}

/// Least that may be asked for.
const LEAST: Duration = Duration::from_millis(100);
/// Most that may be asked for: thirty days.
const MOST: Duration = Duration::from_secs(30 * 86_400);

/// Names that a user knows the timeouts by.
const NAMES: &str = "tcp-handshake, tcp-established, tcp-probe, tcp-closing, tcp-time-wait, udp, icmp, dns";

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutError {
    /// Not of the form.
    #[error("not of the form NAME=TIME; write it as in udp=5m or tcp-established=3h,icmp=90s")]
    Malformed,
    /// No such timeout.
    #[error("there is no timeout {0:?}; there are {NAMES}")]
    Unknown(String),
    /// Not a time.
    #[error("{0:?} is not a time; write it as in 90s, 5m, 2h4m or 1500ms")]
    NotATime(String),
    /// Too short or too long.
    #[error("{0:?} is out of range; give 100ms to 30d")]
    OutOfRange(String),
}

impl Timeouts {
    /// Changes what a list as in `udp=5m,icmp=90s` names.
    pub fn apply(&mut self, list: &str) -> Result<(), TimeoutError> {
        for setting in list.split(',') {
            let (name, time) = setting.split_once('=').ok_or(TimeoutError::Malformed)?;
            let timeout = match name {
                "tcp-handshake" => &mut self.tcp_handshake,
                "tcp-established" => &mut self.tcp_established,
                "tcp-probe" => &mut self.tcp_probe,
                "tcp-closing" => &mut self.tcp_closing,
                "tcp-time-wait" => &mut self.tcp_time_wait,
                "udp" => &mut self.udp,
                "icmp" => &mut self.icmp,
                "dns" => &mut self.dns_try,
                _ => return Err(TimeoutError::Unknown(name.to_owned())),
            };
            *timeout = self::time(time)?;
        }
        Ok(())
    }
}

/// A time as a user writes it.
///
/// # Errors
/// It is none, or below 100 ms.
pub fn time(text: &str) -> Result<Duration, TimeoutError> {
    let Time(asked) = text.parse()?;
    if (LEAST..=MOST).contains(&asked) { Ok(asked) } else { Err(TimeoutError::OutOfRange(text.to_owned())) }
}

/// A time as a user writes it: numbers with units, the largest first; a number alone is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Time(Duration);

/// Units by their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Time {
    type Err = TimeoutError;

    fn from_str(text: &str) -> Result<Time, TimeoutError> {
        let not_a_time = || TimeoutError::NotATime(text.to_owned());
        let (mut rest, mut total_millis, mut larger) = (text, 0u64, u64::MAX);
        while !rest.is_empty() {
            let digits =
                rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
            let (number, behind) = rest.split_at(digits);
            let letters = behind.find(|character: char| character.is_ascii_digit()).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(letters);
            let unit = if unit.is_empty() && number == text { "s" } else { unit };
            let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(not_a_time)?;
            if *millis >= larger || number.is_empty() {
                return Err(not_a_time());
            }
            // What is too large for a number is out of range, too.
            let count: u64 = number.parse().unwrap_or(u64::MAX);
            total_millis = total_millis.saturating_add(count.saturating_mul(*millis));
            (rest, larger) = (behind, *millis);
        }
        if text.is_empty() { Err(not_a_time()) } else { Ok(Time(Duration::from_millis(total_millis))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_units_in_their_order() {
        for (text, millis) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("2h4m", 7_440_000),
            ("1m30s", 90_000),
            ("1500ms", 1_500),
            ("1s500ms", 1_500),
            ("3d", 259_200_000),
        ] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "s", "5x", "4m2h", "5m5m", "1.5h", "-1s", " 5s", "5m30"] {
            assert_eq!(text.parse::<Time>(), Err(TimeoutError::NotATime(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_list_changes_what_it_names_and_nothing_else() {
        let mut timeouts = Timeouts::default();
        timeouts.apply("tcp-established=3h,udp=30,dns=500ms").unwrap();
        let expected = Timeouts {
            tcp_established: Duration::from_secs(10_800),
            udp: Duration::from_secs(30),
            dns_try: Duration::from_millis(500),
            ..Timeouts::default()
        };
        assert_eq!(timeouts, expected);
    }

    #[test]
    fn a_mistake_is_told_by_what_it_is() {
        let mut timeouts = Timeouts::default();
        assert_eq!(timeouts.apply("udp"), Err(TimeoutError::Malformed));
        assert_eq!(timeouts.apply("udp=5m,"), Err(TimeoutError::Malformed));
        assert_eq!(timeouts.apply("tcp=5m"), Err(TimeoutError::Unknown("tcp".to_owned())));
        for text in ["0", "99ms", "31d", "99999999999999999999d"] {
            assert_eq!(
                timeouts.apply(&format!("icmp={text}")),
                Err(TimeoutError::OutOfRange(text.to_owned()))
            );
        }
    }

    #[test]
    fn no_default_is_below_what_the_standards_ask() {
        let timeouts = Timeouts::default();
        assert!(timeouts.tcp_established >= Duration::from_secs(2 * 3_600 + 4 * 60), "RFC 5382 REQ-5");
        assert!(timeouts.tcp_handshake >= Duration::from_secs(240), "RFC 5382 REQ-5");
        assert!(timeouts.tcp_closing >= Duration::from_secs(240), "RFC 5382 REQ-5");
        assert!(timeouts.udp >= Duration::from_secs(300), "RFC 4787 REQ-5");
        assert!(timeouts.icmp >= Duration::from_secs(60), "RFC 5508 REQ-2");
    }
}
