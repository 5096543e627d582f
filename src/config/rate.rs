//! Rates, probabilities and short times, and the two wishes that are made of them: how much a container may carry
//! ([`RateLimits`]), and how bad its link is to be ([`Impairments`]).
//!
//! Both are written as lists of `NAME=VALUE`, by the command line and by requests alike, and told in the same words.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bits a second, at least [`Rate::LEAST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

/// Names of units by their bits, as tc(8) has them.
const RATE_UNITS: [(&str, u64); 4] =
    [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

impl Rate {
    /// One packet of an ordinary link in ten seconds and more is no network.
    pub const LEAST: Rate = Rate(8_000);
    /// More than any link of ours carries.
    pub const MOST: Rate = Rate(1_000_000_000_000);

    /// A rate within the bounds.
    #[must_use]
    pub fn from_bits(bits_per_second: u64) -> Rate {
        Rate(bits_per_second.clamp(Self::LEAST.0, Self::MOST.0))
    }

    /// Bits a second.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// How long so many bytes take.
    #[must_use]
    pub fn time_for(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Bytes that pass in so much time.
    #[must_use]
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl FromStr for Rate {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Rate, SpecError> {
        let not_a_rate = || SpecError::NotARate(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let (unit_at, factor) = RATE_UNITS
            .iter()
            .find_map(|(unit, factor)| lower.strip_suffix(unit).map(|number| (number.len(), *factor)))
            .ok_or_else(not_a_rate)?;
        let bits = decimal(&lower[..unit_at], factor).ok_or_else(not_a_rate)?;
        if !(Self::LEAST.0..=Self::MOST.0).contains(&bits) {
            return Err(SpecError::RateOutOfRange(text.to_owned()));
        }
        Ok(Rate(bits))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            RATE_UNITS.into_iter().find(|(_, factor)| self.0.is_multiple_of(*factor)).unwrap_or(("bit", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A number with up to six decimals, times `factor`; `None` if it is none, or too large.
fn decimal(text: &str, factor: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(part) || part.len() > 6 || text.ends_with('.') {
        return None;
    }
    let millionths = format!("{part:0<6}").parse::<u64>().ok()?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let part = u128::from(millionths) * u128::from(factor) / 1_000_000;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// How often something happens, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Chance(u32);

impl Chance {
    /// Always.
    pub const ALWAYS: Chance = Chance(1_000_000);

    /// In millionths; a million at most.
    #[must_use]
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Whether it never happens.
    #[must_use]
    pub fn is_never(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Chance {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Chance, SpecError> {
        let not_a_chance = || SpecError::NotAChance(text.to_owned());
        let number = text.strip_suffix('%').ok_or_else(not_a_chance)?;
        let millionths = decimal(number, 10_000).ok_or_else(not_a_chance)?;
        let millionths = u32::try_from(millionths).ok().filter(|share| *share <= Self::ALWAYS.0);
        millionths.map(Chance).ok_or_else(not_a_chance)
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 10_000, self.0 % 10_000);
        let part = format!("{part:04}");
        match part.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            part => write!(f, "{whole}.{part}%"),
        }
    }
}

/// The longest delay.
const LONGEST: Duration = Duration::from_secs(60);

fn short_time(text: &str) -> Result<Duration, SpecError> {
    let not_a_time = || SpecError::NotATime(text.to_owned());
    let (number, nanos) = [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)]
        .iter()
        .find_map(|(unit, nanos)| text.strip_suffix(unit).map(|number| (number, *nanos)))
        .ok_or_else(not_a_time)?;
    let time = Duration::from_nanos(decimal(number, nanos).ok_or_else(not_a_time)?);
    if time > LONGEST { Err(SpecError::TimeOutOfRange(text.to_owned())) } else { Ok(time) }
}

struct ShortTime(Duration);

impl fmt::Display for ShortTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match (micros.is_multiple_of(1_000_000), micros.is_multiple_of(1_000)) {
            (true, _) => write!(f, "{}s", micros / 1_000_000),
            (false, true) => write!(f, "{}ms", micros / 1_000),
            (false, false) => write!(f, "{micros}us"),
        }
    }
}

/// What is wrong with a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A part of it is not of the form.
    #[error("{0:?} is not of the form NAME=VALUE; write it as in {1}")]
    Malformed(String, &'static str),
    /// No such name.
    #[error("there is no {0:?}; there are {1}")]
    Unknown(String, &'static str),
    /// Not a rate.
    #[error("{0:?} is not a rate; write it as in 10mbit, 1.5mbit or 500kbit")]
    NotARate(String),
    /// Too low or too high.
    #[error("{0:?} is out of range; give 8kbit to 1000gbit")]
    RateOutOfRange(String),
    /// Not a share of a hundred.
    #[error("{0:?} is not a share; write it as in 1% or 0.5%, at most 100%")]
    NotAChance(String),
    /// Not a time.
    #[error("{0:?} is not a time; write it as in 50ms, 1.5s or 250us")]
    NotATime(String),
    /// Too long.
    #[error("{0:?} is out of range; give 60s at most")]
    TimeOutOfRange(String),
}

/// How many bits of payload a second a container, or what a rule names, may carry in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// From the container.
    pub up: Option<Rate>,
    /// To the container.
    pub down: Option<Rate>,
}

impl RateLimits {
    /// Whether there is none.
    #[must_use]
    pub fn is_off(&self) -> bool {
        *self == RateLimits::default()
    }
}

impl FromStr for RateLimits {
    type Err = SpecError;

    /// `up=10mbit,down=50mbit`; one rate alone is both; `off`.
    fn from_str(text: &str) -> Result<RateLimits, SpecError> {
        if text == "off" {
            return Ok(RateLimits::default());
        }
        if !text.contains('=') {
            let rate = Some(text.parse()?);
            return Ok(RateLimits { up: rate, down: rate });
        }
        let mut limits = RateLimits::default();
        for part in text.split(',') {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| SpecError::Malformed(part.to_owned(), "up=10mbit,down=50mbit"))?;
            let rate = if value == "off" { None } else { Some(value.parse()?) };
            match name {
                "up" => limits.up = rate,
                "down" => limits.down = rate,
                _ => return Err(SpecError::Unknown(name.to_owned(), "up and down")),
            }
        }
        Ok(limits)
    }
}

impl fmt::Display for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.up, self.down) {
            (None, None) => f.write_str("off"),
            (Some(up), None) => write!(f, "up={up}"),
            (None, Some(down)) => write!(f, "down={down}"),
            (Some(up), Some(down)) => write!(f, "up={up},down={down}"),
        }
    }
}

/// How bad one direction of a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impairment {
    /// What each packet takes.
    pub delay: Duration,
    /// How much more or less than that, any of it as likely. The order stays.
    pub jitter: Duration,
    /// Packets that are lost.
    pub loss: Chance,
    /// Packets that come twice.
    pub duplicate: Chance,
    /// Packets that overtake all that are on their way: they are not delayed.
    pub reorder: Chance,
    /// Bits of frames a second.
    pub rate: Option<Rate>,
    /// How long a packet may wait for the rate; one that would wait longer is lost.
    pub queue: Duration,
}

impl Default for Impairment {
    fn default() -> Impairment {
        Impairment {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Chance::default(),
            duplicate: Chance::default(),
            reorder: Chance::default(),
            rate: None,
            queue: Duration::from_millis(200),
        }
    }
}

/// Names that a user knows the properties by.
const NAMES: &str = "delay, jitter, loss, duplicate, reorder, rate and queue, each with up. or down. in front for one direction";

impl Impairment {
    /// Whether packets pass as they come.
    #[must_use]
    pub fn is_off(&self) -> bool {
        let Impairment { delay, jitter, loss, duplicate, reorder: _, rate, queue: _ } = self;
        delay.is_zero() && jitter.is_zero() && loss.is_never() && duplicate.is_never() && rate.is_none()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), SpecError> {
        match name {
            "delay" => self.delay = short_time(value)?,
            "jitter" => self.jitter = short_time(value)?,
            "loss" => self.loss = value.parse()?,
            "duplicate" => self.duplicate = value.parse()?,
            "reorder" => self.reorder = value.parse()?,
            "rate" => self.rate = Some(value.parse()?),
            "queue" => self.queue = short_time(value)?,
            _ => return Err(SpecError::Unknown(name.to_owned(), NAMES)),
        }
        Ok(())
    }

    fn tell(&self, prefix: &str, parts: &mut Vec<String>) {
        let usual = Impairment::default();
        let mut tell = |name: &str, is_told: bool, value: &dyn fmt::Display| {
            if is_told {
                parts.push(format!("{prefix}{name}={value}"));
            }
        };
        tell("delay", self.delay != usual.delay, &ShortTime(self.delay));
        tell("jitter", self.jitter != usual.jitter, &ShortTime(self.jitter));
        tell("loss", self.loss != usual.loss, &self.loss);
        tell("duplicate", self.duplicate != usual.duplicate, &self.duplicate);
        tell("reorder", self.reorder != usual.reorder, &self.reorder);
        if let Some(rate) = self.rate {
            tell("rate", true, &rate);
        }
        tell("queue", self.queue != usual.queue, &ShortTime(self.queue));
    }
}

/// How bad a link is, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Impairments {
    /// From the container.
    pub up: Impairment,
    /// To the container.
    pub down: Impairment,
}

impl Impairments {
    /// Whether packets pass as they come.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.up.is_off() && self.down.is_off()
    }
}

impl FromStr for Impairments {
    type Err = SpecError;

    /// `delay=50ms,jitter=5ms,loss=1%,down.rate=10mbit`; what names no direction holds for each; `off`.
    fn from_str(text: &str) -> Result<Impairments, SpecError> {
        let mut both = Impairments::default();
        if text == "off" {
            return Ok(both);
        }
        for part in text.split(',') {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| SpecError::Malformed(part.to_owned(), "delay=50ms,jitter=5ms,loss=1%"))?;
            if let Some(name) = name.strip_prefix("up.") {
                both.up.set(name, value)?;
            } else if let Some(name) = name.strip_prefix("down.") {
                both.down.set(name, value)?;
            } else {
                both.up.set(name, value)?;
                both.down.set(name, value)?;
            }
        }
        Ok(both)
    }
}

impl fmt::Display for Impairments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.up == self.down {
            self.up.tell("", &mut parts);
        } else {
            self.up.tell("up.", &mut parts);
            self.down.tell("down.", &mut parts);
        }
        if parts.is_empty() { f.write_str("off") } else { f.write_str(&parts.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_with_units() {
        for (text, bits) in
            [("10mbit", 10_000_000), ("1.5Mbit", 1_500_000), ("500kbit", 500_000), ("1gbit", 1_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Rate(bits)), "{text}");
        }
        for text in ["", "10", "mbit", "10mb", "10mbps", "-1mbit", "1.mbit", "1.1234567mbit", "1e6bit"] {
            assert_eq!(text.parse::<Rate>(), Err(SpecError::NotARate(text.to_owned())), "{text}");
        }
        for text in ["1bit", "7.9kbit", "1001gbit"] {
            assert_eq!(text.parse::<Rate>(), Err(SpecError::RateOutOfRange(text.to_owned())), "{text}");
        }
        assert_eq!(Rate::from_bits(8_000_000).time_for(1_000), Duration::from_millis(1));
        assert_eq!(Rate::from_bits(8_000_000).bytes_in(Duration::from_millis(2)), 2_000);
    }

    #[test]
    fn limits_are_told_as_they_are_given() {
        for text in ["off", "up=10mbit", "down=1500kbit", "up=10mbit,down=50mbit"] {
            assert_eq!(text.parse::<RateLimits>().unwrap().to_string(), text);
        }
        assert_eq!("5mbit".parse::<RateLimits>().unwrap().to_string(), "up=5mbit,down=5mbit");
        assert_eq!("up=5mbit,down=off".parse::<RateLimits>().unwrap().to_string(), "up=5mbit");
        for text in ["up", "up=1mbit,", "left=1mbit", "up=1"] {
            assert!(text.parse::<RateLimits>().is_err(), "{text}");
        }
    }

    #[test]
    fn impairments_are_told_as_they_are_given() {
        for text in [
            "off",
            "delay=50ms,jitter=5ms,loss=1%,rate=10mbit",
            "up.delay=20ms,down.delay=1500us,down.loss=0.25%,down.rate=3mbit",
            "delay=1s,duplicate=100%,reorder=0.0001%,queue=50ms",
        ] {
            assert_eq!(text.parse::<Impairments>().unwrap().to_string(), text);
        }
        let phone = "delay=50ms,down.delay=60ms".parse::<Impairments>().unwrap();
        assert_eq!((phone.up.delay.as_millis(), phone.down.delay.as_millis()), (50, 60));
        for text in ["delay", "delay=", "delay=5", "delay=61s", "loss=1", "loss=101%", "loss=-1%", "speed=1"]
        {
            assert!(text.parse::<Impairments>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_changes_no_packet_is_off() {
        assert!("off".parse::<Impairments>().unwrap().is_off());
        assert!("queue=5ms,reorder=50%".parse::<Impairments>().unwrap().is_off(), "nothing to overtake");
        assert!(!"up.loss=0.0001%".parse::<Impairments>().unwrap().is_off());
    }
}
