//! One direction of a bad link: packets that take time, get lost, come twice or overtake others.
//!
//! A packet meets, in this order: loss, duplication, the rate with its queue, and the delay. The rate is that of a wire:
//! it is busy with each packet for as long as its bytes take, and one that would have to wait longer than
//! [`Impairment::queue`] is lost, as in a router's full buffer. Jitter changes how long a packet takes and not the
//! order; only `reorder` lets one overtake.
//!
//! It judges packets, not super-segments: whoever has one cuts it first (`wire::segmentation`), or a loss of one percent
//! would be a loss of forty packets at a time. Chance comes from a seed, time from the caller, so that two runs are the
//! same. What is on its way is bounded in packets and bytes ([`ImpairLimits`]); more than that is lost, and counted.

use std::collections::VecDeque;

use super::boundary::Instant;
use crate::config::limits::ImpairLimits;
use crate::config::rate::{Chance, Impairment};

/// A source of chance: SplitMix64, which is good enough to lose packets by.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `most`, which is not zero, each as likely.
    fn below(&mut self, most: u64) -> u64 {
        let product = u128::from(self.throw()) * u128::from(most);
        (product >> 64) as u64
    }

    fn happens(&mut self, chance: Chance) -> bool {
        !chance.is_never() && self.below(Chance::ALWAYS.millionths().into()) < chance.millionths().into()
    }
}

/// What became of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImpairStats {
    /// Packets that came.
    pub packets: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because they would have waited too long for the rate, or because too much was on its way.
    pub overflowed: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Sent past others.
    pub reordered: u64,
}

/// A packet on its way, with its virtio-net header in front.
#[derive(Debug)]
struct OnTheWay {
    /// In nanoseconds.
    due: u64,
    bytes: Box<[u8]>,
}

/// One direction of a link.
#[derive(Debug)]
pub struct ImpairedWay {
    how: Impairment,
    limits: ImpairLimits,
    dice: Dice,
    /// In the order of their arrival.
    queue: VecDeque<OnTheWay>,
    /// Those that overtake.
    fast: VecDeque<OnTheWay>,
    held_bytes: usize,
    /// When the wire is done with what it has, in nanoseconds.
    busy_until: u64,
    /// When the last of the queue is due.
    last_due: u64,
    stats: ImpairStats,
}

impl ImpairedWay {
    /// A way with nothing on it.
    #[must_use]
    pub fn new(how: Impairment, limits: ImpairLimits, seed: u64) -> ImpairedWay {
        ImpairedWay {
            how,
            limits,
            dice: Dice(seed),
            queue: VecDeque::new(),
            fast: VecDeque::new(),
            held_bytes: 0,
            busy_until: 0,
            last_due: 0,
            stats: ImpairStats::default(),
        }
    }

    /// From now on packets fare otherwise; those on their way arrive when they would have.
    pub fn change(&mut self, how: Impairment) {
        self.how = how;
    }

    /// How packets fare.
    #[must_use]
    pub fn how(&self) -> &Impairment {
        &self.how
    }

    /// What became of packets so far.
    #[must_use]
    pub fn stats(&self) -> ImpairStats {
        self.stats
    }

    /// Whether a packet would pass untouched, and none is on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.how.is_off() && self.queue.is_empty() && self.fast.is_empty()
    }

    /// Bytes on their way.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Sets one packet on its way: its virtio-net header and its frame.
    pub fn admit(&mut self, header: &[u8], frame: &[u8], now: Instant) {
        self.stats.packets += 1;
        if self.dice.happens(self.how.loss) {
            self.stats.lost += 1;
            return;
        }
        let is_twice = self.dice.happens(self.how.duplicate);
        self.set_out(header, frame, now);
        if is_twice {
            self.stats.duplicated += 1;
            self.set_out(header, frame, now);
        }
    }

    fn set_out(&mut self, header: &[u8], frame: &[u8], now: Instant) {
        let len = header.len() + frame.len();
        let on_the_way = self.queue.len() + self.fast.len();
        let is_full = on_the_way >= self.limits.packets || self.held_bytes + len > self.limits.bytes;
        let now = nanos(now);
        let starts = self.busy_until.max(now);
        let waits_too_long = self.how.rate.is_some() && starts - now > as_nanos(self.how.queue);
        if is_full || waits_too_long {
            self.stats.overflowed += 1;
            return;
        }
        let left = match self.how.rate {
            Some(rate) => starts + as_nanos(rate.time_for(frame.len())),
            None => starts.min(now),
        };
        self.busy_until = left;
        let bytes: Box<[u8]> = [header, frame].concat().into();
        self.held_bytes += len;
        if self.dice.happens(self.how.reorder) && !self.how.delay.is_zero() {
            self.stats.reordered += 1;
            self.fast.push_back(OnTheWay { due: left, bytes });
            return;
        }
        let due = (left + self.time_on_the_way()).max(self.last_due);
        self.last_due = due;
        self.queue.push_back(OnTheWay { due, bytes });
    }

    fn time_on_the_way(&mut self) -> u64 {
        let (delay, jitter) = (as_nanos(self.how.delay), as_nanos(self.how.jitter));
        if jitter == 0 { delay } else { (delay + self.dice.below(2 * jitter + 1)).saturating_sub(jitter) }
    }

    /// Takes the next packet that has arrived by now, as one block of virtio-net header and frame.
    pub fn poll(&mut self, now: Instant) -> Option<Box<[u8]>> {
        let now = nanos(now);
        let due = |queue: &VecDeque<OnTheWay>| queue.front().map(|packet| packet.due);
        let from = match (due(&self.queue), due(&self.fast)) {
            (Some(slow), Some(fast)) if fast < slow => &mut self.fast,
            (None, Some(_)) => &mut self.fast,
            _ => &mut self.queue,
        };
        if from.front()?.due > now {
            return None;
        }
        let packet = from.pop_front()?;
        self.held_bytes -= packet.bytes.len();
        Some(packet.bytes)
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let fronts = [self.queue.front(), self.fast.front()];
        let due = fronts.into_iter().flatten().map(|packet| packet.due).min()?;
        Some(Instant::from_micros(i64::try_from(due.div_ceil(1_000)).unwrap_or(i64::MAX)))
    }
}

fn nanos(at: Instant) -> u64 {
    u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000)
}

fn as_nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Impairments;
    use crate::stack::boundary::Duration;

    const HEADER: [u8; 10] = [0; 10];

    fn way(spec: &str) -> ImpairedWay {
        let how = spec.parse::<Impairments>().unwrap().up;
        ImpairedWay::new(how, ImpairLimits::default(), 42)
    }

    fn frame(number: u32, len: usize) -> Vec<u8> {
        let mut frame = vec![0; len];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        frame
    }

    /// Sends `count` packets, one every `gap`, and tells when each arrived, in microseconds from its departure.
    fn journey(way: &mut ImpairedWay, count: u32, len: usize, gap: Duration) -> Vec<(u32, i64)> {
        let mut arrived = Vec::new();
        let mut now = Instant::from_secs(1);
        let mut departures = Vec::new();
        let mut take = |way: &mut ImpairedWay, now: Instant, departures: &[Instant]| {
            while let Some(bytes) = way.poll(now) {
                let number = u32::from_be_bytes(bytes[10..14].try_into().unwrap());
                arrived.push((number, (now - departures[number as usize]).total_micros() as i64));
            }
        };
        for number in 0..count {
            while let Some(due) = way.poll_timeout().filter(|due| *due <= now) {
                take(way, due, &departures);
            }
            departures.push(now);
            way.admit(&HEADER, &frame(number, len), now);
            now += gap;
        }
        while let Some(due) = way.poll_timeout() {
            take(way, due, &departures);
        }
        assert_eq!(way.held_bytes(), 0);
        arrived
    }

    #[test]
    fn a_delay_is_kept_to_the_microsecond() {
        let arrived = journey(&mut way("delay=50ms"), 100, 100, Duration::from_millis(7));
        assert_eq!(arrived, (0..100).map(|number| (number, 50_000)).collect::<Vec<_>>());
    }

    #[test]
    fn jitter_spreads_evenly_and_keeps_the_order() {
        let arrived = journey(&mut way("delay=50ms,jitter=5ms"), 4_000, 100, Duration::from_millis(20));
        assert!(arrived.iter().zip(0..).all(|((number, _), place)| *number == place));
        let times: Vec<i64> = arrived.iter().map(|(_, time)| *time).collect();
        assert!(times.iter().all(|time| (45_000..=55_001).contains(time)));
        let mean = times.iter().sum::<i64>() / 4_000;
        assert!((49_700..50_300).contains(&mean), "{mean}");
        assert!(times.iter().any(|time| *time < 45_500) && times.iter().any(|time| *time > 54_500));
        // Closer together than the jitter, and still none overtakes.
        let arrived = journey(&mut way("delay=50ms,jitter=20ms"), 4_000, 100, Duration::from_micros(50));
        assert!(arrived.iter().zip(0..).all(|((number, _), place)| *number == place));
    }

    #[test]
    fn losses_and_duplicates_are_as_many_as_asked() {
        let mut lossy = way("loss=1%");
        let arrived = journey(&mut lossy, 100_000, 60, Duration::from_micros(10));
        // Five standard deviations of a binomial distribution: 5 * sqrt(100 000 * 0.01 * 0.99).
        assert!((99_000 - 158..=99_000 + 158).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(lossy.stats().lost + arrived.len() as u64, 100_000);
        assert_eq!(journey(&mut way("loss=100%"), 1_000, 60, Duration::from_micros(10)), []);
        let mut twice = way("duplicate=10%");
        let arrived = journey(&mut twice, 10_000, 60, Duration::from_micros(10));
        assert_eq!(arrived.len() as u64, 10_000 + twice.stats().duplicated);
        assert!((850..=1_150).contains(&twice.stats().duplicated));
    }

    #[test]
    fn some_overtake_if_asked() {
        let mut way = way("delay=10ms,reorder=25%");
        let arrived = journey(&mut way, 1_000, 60, Duration::from_millis(1));
        let fast = arrived.iter().filter(|(_, time)| *time == 0).count();
        assert_eq!((arrived.len(), fast as u64), (1_000, way.stats().reordered));
        assert!((180..=320).contains(&fast), "{fast}");
        assert!(arrived.windows(2).any(|pair| pair[0].0 > pair[1].0));
    }

    #[test]
    fn a_rate_is_that_of_a_wire_with_a_queue_in_front() {
        // 1 000 bytes a millisecond, and five times as much offered for two seconds.
        let mut way = way("rate=8mbit,queue=100ms");
        let arrived = journey(&mut way, 10_000, 1_000, Duration::from_micros(200));
        // Two seconds' worth, and what the queue held at the end.
        assert!((2_095..=2_105).contains(&arrived.len()), "{}", arrived.len());
        assert!(arrived.iter().all(|(_, time)| (1_000..=101_000).contains(time)));
        assert_eq!(way.stats().overflowed + arrived.len() as u64, 10_000);
        // Within the rate nobody waits.
        let arrived = journey(&mut super::tests::way("rate=8mbit"), 100, 1_000, Duration::from_millis(2));
        assert!(arrived.iter().all(|(_, time)| *time == 1_000));
    }

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let limits = ImpairLimits { packets: 100, bytes: 20_000 };
        let how = "delay=1s".parse::<Impairments>().unwrap().up;
        let mut many = ImpairedWay::new(how, limits, 1);
        for number in 0..500 {
            many.admit(&HEADER, &frame(number, 60), Instant::ZERO);
        }
        assert_eq!((many.stats().overflowed, many.held_bytes()), (400, 7_000));
        let mut large = ImpairedWay::new(how, limits, 1);
        for number in 0..500 {
            large.admit(&HEADER, &frame(number, 1_500), Instant::ZERO);
        }
        assert!(large.held_bytes() <= 20_000 && large.stats().overflowed > 480);
    }

    #[test]
    fn a_change_leaves_what_is_on_its_way() {
        let mut way = way("delay=50ms");
        way.admit(&HEADER, &frame(0, 60), Instant::ZERO);
        way.change(Impairment::default());
        assert!(!way.is_idle());
        way.admit(&HEADER, &frame(1, 60), Instant::from_millis(10));
        assert_eq!(way.poll(Instant::from_millis(49)), None, "and nothing overtakes it");
        assert_eq!(way.poll_timeout(), Some(Instant::from_millis(50)));
        let at = Instant::from_millis(50);
        assert!(way.poll(at).is_some() && way.poll(at).is_some() && way.poll(at).is_none());
        assert!(way.is_idle());
    }

    #[test]
    fn the_same_seed_is_the_same_fate() {
        let fates = |seed| {
            let how = "loss=30%,delay=5ms,jitter=5ms".parse::<Impairments>().unwrap().up;
            let mut way = ImpairedWay::new(how, ImpairLimits::default(), seed);
            journey(&mut way, 200, 60, Duration::from_millis(1))
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }
}
