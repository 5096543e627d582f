//! What of our bytes the container has, how much more it may get, and when something is to be sent again.
//!
//! RFC 9293 (windows, probes), RFC 6298 (retransmission timer), RFC 5681 and RFC 6675 (loss recovery by duplicate and
//! selective acknowledgements), RFC 6937 (how much is sent meanwhile). The link is one hop long and has no competitors, so the window begins wide open, unless it is
//! slow on purpose; a loss halves it all the same, because a queue somewhere was too short.

use super::queue::ByteQueue;
use super::sequence::{Ranges, is_at_most, is_before, later};
use crate::stack::boundary::{Duration, Instant};

/// RFC 6298 §2.1: before anything was measured.
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// A container answers at once; its kernel delays acknowledgements by 40 ms at most. As Linux has it.
const LEAST_RTO: Duration = Duration::from_millis(200);
/// RFC 6298 §2.5: no less than 60 seconds.
const LONGEST_RTO: Duration = Duration::from_secs(60);
/// RFC 6298 §5.7: when the SYN had to be sent again, whatever was the reason.
const RTO_AFTER_LOST_SYN: Duration = Duration::from_secs(3);
/// RFC 6928 §2.
const INITIAL_SEGMENTS: u32 = 10;
/// RFC 5681 §3.2, RFC 6675 §2.
const DUPLICATES: u32 = 3;

/// What the next data segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Its first sequence number.
    pub sequence: u32,
    /// Its bytes of data.
    pub len: usize,
    /// Whether our FIN is behind them.
    pub fin: bool,
    /// Whether it fills a gap.
    is_repair: bool,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    /// Bytes from [`Self::unacknowledged`] on, once the SYN is acknowledged.
    pub queue: ByteQueue,
    /// SND.UNA.
    pub unacknowledged: u32,
    /// SND.NXT: what is sent next; behind `highest` after a timeout.
    next: u32,
    /// The number behind everything that was ever sent.
    highest: u32,
    /// SND.WND, in bytes.
    window: u32,
    /// Largest window ever granted.
    most_window: u32,
    /// SND.WL1 and SND.WL2: the segment that granted it.
    granted_by: (u32, u32),
    /// Largest payload of one segment on the wire.
    pub segment_bytes: u32,
    /// What the link holds, if it is slow on purpose.
    pub bottleneck: Option<u32>,
    /// Our half is to end behind the queue.
    pub is_closing: bool,
    /// The number of our FIN, once it was sent.
    fin: Option<u32>,
    congestion_window: u32,
    slow_start_threshold: u32,
    duplicates: u32,
    /// What the container has beyond `unacknowledged`.
    held: Ranges,
    /// While lost segments are repaired: the number behind all that was sent when the loss was found.
    recovery: Option<u32>,
    /// Up to here gaps were repaired in this recovery.
    repaired: u32,
    /// What may be sent in this recovery, as much has arrived.
    credit: u32,
    /// Bytes that had arrived when that was last counted: those acknowledged, and those held beyond.
    arrived: u32,
    smoothed: Option<(Duration, Duration)>,
    rto: Duration,
    backoff: u32,
    /// The timer has run out while nothing on its way would open the window: as little as it takes may be sent into it.
    may_probe: bool,
    /// Number whose acknowledgement ends the measurement that began then.
    measured: Option<(u32, Instant)>,
    timer: Option<Instant>,
    /// Segments that were sent again since the beginning.
    retransmissions: u32,
}

impl Sender {
    /// A sender whose SYN has this number.
    pub fn new(initial: u32, capacity: usize) -> Sender {
        Sender {
            queue: ByteQueue::new(capacity),
            unacknowledged: initial,
            next: initial,
            highest: initial,
            window: 0,
            most_window: 0,
            granted_by: (0, 0),
            segment_bytes: 536,
            bottleneck: None,
            is_closing: false,
            fin: None,
            congestion_window: u32::try_from(capacity).unwrap_or(u32::MAX).max(64 << 10),
            slow_start_threshold: u32::MAX,
            duplicates: 0,
            held: Ranges::default(),
            recovery: None,
            repaired: initial,
            credit: 0,
            arrived: initial,
            smoothed: None,
            rto: INITIAL_RTO,
            backoff: 0,
            may_probe: false,
            measured: None,
            timer: None,
            retransmissions: 0,
        }
    }

    /// Begins as through a bottleneck (RFC 6928), and slowly finds out how much it takes.
    pub fn begin_slowly(&mut self) {
        self.congestion_window = INITIAL_SEGMENTS * self.segment_bytes;
    }

    /// The number behind everything that was sent.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// Whether an acknowledgement can be one of this connection: of nothing that was not sent, and no older than the
    /// largest window ever granted (RFC 5961 §5.2).
    pub fn is_plausible(&self, acknowledgement: u32) -> bool {
        let oldest = self.unacknowledged.wrapping_sub(self.most_window);
        is_at_most(oldest, acknowledgement) && is_at_most(acknowledgement, self.highest)
    }

    /// Whether everything that was sent is acknowledged.
    pub fn is_settled(&self) -> bool {
        self.unacknowledged == self.highest
    }

    /// Our SYN is on its way, first or again.
    pub fn syn_sent(&mut self, now: Instant) {
        let initial = self.unacknowledged;
        self.next = initial.wrapping_add(1);
        // Karn: what was sent twice measures nothing.
        self.measured = (self.highest == initial).then_some((self.next, now));
        self.retransmissions += u32::from(self.highest != initial);
        self.highest = self.next;
        self.timer = Some(now + self.timeout());
    }

    /// The container has our SYN, by an acknowledgement of this number and window.
    pub fn syn_acknowledged(&mut self, acknowledgement: u32, now: Instant) {
        self.measure(acknowledgement, now);
        self.unacknowledged = acknowledgement;
        self.next = acknowledgement;
        self.highest = acknowledgement;
        self.repaired = acknowledgement;
        self.arrived = acknowledgement;
        if self.smoothed.is_none() && self.backoff > 0 {
            self.rto = RTO_AFTER_LOST_SYN;
        }
        self.backoff = 0;
        self.timer = None;
    }

    /// What a round trip takes, once one was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.smoothed.map(|(smoothed, _)| smoothed)
    }

    /// Segments that were sent again since the beginning.
    pub fn retransmissions(&self) -> u32 {
        self.retransmissions
    }

    /// Takes a window for as new as the segment that granted it (RFC 9293 §3.10.7.4). Says whether it has changed.
    pub fn grant(&mut self, sequence: u32, acknowledgement: u32, window: u32) -> bool {
        let (by_sequence, by_acknowledgement) = self.granted_by;
        let is_newer = is_before(by_sequence, sequence)
            || (by_sequence == sequence && is_at_most(by_acknowledgement, acknowledgement));
        if !is_newer {
            return false;
        }
        let has_changed = self.window != window;
        if self.window == 0
            && window > 0
            && acknowledgement == self.unacknowledged
            && (self.backoff > 0 || self.highest.wrapping_sub(self.unacknowledged) <= 1)
        {
            // What the closed window was probed with was refused, and whatever was on its way when it closed.
            self.next = self.unacknowledged;
            self.backoff = 0;
            self.timer = None;
        }
        self.granted_by = (sequence, acknowledgement);
        self.window = window;
        self.most_window = self.most_window.max(window);
        has_changed
    }

    /// The first grant, of a SYN or of what acknowledges ours.
    pub fn first_grant(&mut self, sequence: u32, acknowledgement: u32, window: u32) {
        self.granted_by = (sequence, acknowledgement);
        self.window = window;
        self.most_window = window;
    }

    /// The container has everything before `acknowledgement`, which lies between what it had and what was sent. Says
    /// whether that includes our FIN.
    pub fn acknowledge(&mut self, acknowledgement: u32, now: Instant) -> bool {
        let count = acknowledgement.wrapping_sub(self.unacknowledged);
        if count == 0 {
            return false;
        }
        self.measure(acknowledgement, now);
        let data = (count as usize).min(self.queue.len());
        let is_fin = count as usize > self.queue.len();
        self.queue.consume(data);
        self.unacknowledged = acknowledgement;
        self.next = later(self.next, acknowledgement);
        self.held.advance_to(acknowledgement);
        self.duplicates = 0;
        self.may_probe = false;
        match self.recovery {
            Some(end) if is_before(acknowledgement, end) => {
                // RFC 6582 §3.2: what follows a partial acknowledgement is lost, too.
                if self.held.is_empty() {
                    self.repaired = acknowledgement;
                }
                self.repaired = later(self.repaired, acknowledgement);
                let arrived = self.count_arrived();
                self.earn(arrived);
            }
            Some(_) => {
                self.recovery = None;
                self.congestion_window = self.slow_start_threshold;
            }
            None => self.widen(count),
        }
        self.timer = (!self.is_settled()).then(|| now + self.timeout());
        is_fin
    }

    /// An acknowledgement that acknowledges nothing new, while something is on its way.
    pub fn duplicate(&mut self) {
        // A closed window repeats itself with each probe.
        self.duplicates += u32::from(self.window > 0);
        self.look_for_loss();
    }

    /// The container has this range.
    pub fn hold(&mut self, first: u32, end: u32) {
        let is_sane =
            is_at_most(self.unacknowledged, first) && is_before(first, end) && is_at_most(end, self.highest);
        if is_sane {
            self.held.insert(first, end);
        }
    }

    /// Begins to repair once there is no other explanation. To be called for each acknowledgement.
    pub fn look_for_loss(&mut self) {
        let arrived = self.count_arrived();
        // RFC 6582 §3.2: what is sent again after a timeout may be there already, and is repeated for that.
        if self.recovery.is_none() && !self.is_settled() && self.next == self.highest {
            let is_lost =
                self.duplicates >= DUPLICATES || self.held.total() > DUPLICATES * self.segment_bytes;
            if is_lost {
                self.recovery = Some(self.highest);
                self.repaired = self.unacknowledged;
                self.slow_start_threshold = self.halved();
                self.congestion_window = self.slow_start_threshold;
                self.measured = None;
                self.credit = self.segment_bytes;
            }
        }
        if self.recovery.is_some() {
            self.earn(arrived);
        }
    }

    /// Bytes that have arrived since the last call.
    fn count_arrived(&mut self) -> u32 {
        let now = self.unacknowledged.wrapping_add(self.held.total());
        let arrived = if is_before(self.arrived, now) { now.wrapping_sub(self.arrived) } else { 0 };
        self.arrived = now;
        arrived
    }

    /// RFC 6937 §3: for what has arrived something else may be sent, so that no queue gets longer by it; half as much while
    /// there is more on its way than is to be.
    fn earn(&mut self, arrived: u32) {
        let missing = match self.held.last_end() {
            // What is not held before that is lost, unless it is on its way again.
            Some(end) if is_before(self.repaired, end) => {
                end.wrapping_sub(self.repaired).saturating_sub(self.held.total_after(self.repaired))
            }
            Some(_) | None => 0,
        };
        let sent = self.next.wrapping_sub(self.unacknowledged);
        let on_its_way = sent.saturating_sub(self.held.total()).saturating_sub(missing);
        let earned = if on_its_way > self.slow_start_threshold { arrived / 2 } else { arrived };
        let most = self.slow_start_threshold.max(2 * self.segment_bytes);
        self.credit = self.credit.saturating_add(earned).min(most);
    }

    /// A queue on the way is getting long (RFC 3168 §6.1.2): as after a loss, but nothing is repaired.
    pub fn slow_down(&mut self) {
        if self.recovery.is_none() {
            self.slow_start_threshold = self.halved();
            self.congestion_window = self.slow_start_threshold;
        }
    }

    fn halved(&self) -> u32 {
        (self.highest.wrapping_sub(self.unacknowledged) / 2).max(2 * self.segment_bytes)
    }

    fn widen(&mut self, count: u32) {
        let more = if self.congestion_window < self.slow_start_threshold {
            count
        } else {
            // RFC 5681 §3.1: a segment a round trip.
            let share =
                u64::from(self.segment_bytes) * u64::from(count) / u64::from(self.congestion_window.max(1));
            u32::try_from(share).unwrap_or(u32::MAX).max(1)
        };
        let most = u32::try_from(self.queue.capacity()).unwrap_or(u32::MAX).max(64 << 10);
        self.congestion_window = self.congestion_window.saturating_add(more).min(most);
    }

    fn congestion_limit(&self) -> u32 {
        let held = self.bottleneck.map_or(u32::MAX, |held| held.max(4 * self.segment_bytes));
        self.congestion_window.min(held)
    }

    /// What to send now, in a segment or super-segment of up to `most` bytes; nothing if it is not the time.
    pub fn turn(&self, most: usize) -> Option<Turn> {
        if self.recovery.is_some()
            && let Some(turn) = self.repair(most)
        {
            return Some(turn);
        }
        let offset = self.next.wrapping_sub(self.unacknowledged) as usize;
        let unsent = self.queue.len().saturating_sub(offset);
        // What the container holds is not sent again after a timeout.
        let until_held = match self.held.gap_after(self.next) {
            Some((first, end)) if first == self.next => end.wrapping_sub(first) as usize,
            Some(_) | None => usize::MAX,
        };
        let allowed = match self.recovery {
            Some(_) => (self.window as usize).saturating_sub(offset).min(self.credit as usize),
            None => (self.window.min(self.congestion_limit()) as usize).saturating_sub(offset),
        };
        // A closed window is probed with one byte whenever the timer has said so.
        let allowed = if allowed == 0 && offset == 0 && self.may_probe { 1 } else { allowed };
        let mut len = unsent.min(allowed).min(most).min(until_held);
        let is_last = len == unsent;
        if !is_last && len > self.segment_bytes as usize {
            // Whole segments.
            len -= len % self.segment_bytes as usize;
        }
        let fin = self.is_closing && is_last && !self.has_sent_fin();
        if len == 0 && !fin {
            return None;
        }
        // RFC 9293 §3.8.6.2.1: no crumbs while a larger window may come; but better a crumb than nothing for too long.
        let is_silly =
            !is_last && len < (self.segment_bytes.min(self.most_window / 2) as usize) && until_held > len;
        if is_silly && (offset > 0 || !self.may_probe) {
            return None;
        }
        Some(Turn { sequence: self.next, len, fin, is_repair: false })
    }

    /// The next gap to be filled in this recovery.
    fn repair(&self, most: usize) -> Option<Turn> {
        let (first, end) = match self.held.gap_after(self.repaired) {
            Some(gap) => gap,
            // Without a word of what is held, one segment may be taken for lost.
            None if self.held.is_empty() && self.repaired == self.unacknowledged => {
                let end = self.unacknowledged.wrapping_add(self.segment_bytes);
                (self.unacknowledged, if is_before(end, self.highest) { end } else { self.highest })
            }
            None => return None,
        };
        let offset = first.wrapping_sub(self.unacknowledged) as usize;
        let gap = (end.wrapping_sub(first) as usize).min(self.queue.len().saturating_sub(offset));
        let credit = self.credit as usize;
        // No crumbs: the rest of it will be earned.
        if credit < gap.min(self.segment_bytes as usize) {
            return None;
        }
        let allowed = (self.window as usize).saturating_sub(offset).min(most).min(credit);
        let len = gap.min(allowed);
        let is_last = offset + len == self.queue.len();
        let fin = is_last && self.has_sent_fin();
        (len > 0 || fin).then_some(Turn { sequence: first, len, fin, is_repair: true })
    }

    /// Whether nothing of it was sent before.
    pub fn is_new(&self, turn: &Turn) -> bool {
        turn.sequence == self.highest
    }

    /// Whether our FIN is before what is sent next.
    fn has_sent_fin(&self) -> bool {
        self.fin.is_some_and(|fin| is_before(fin, self.next))
    }

    /// It was sent.
    pub fn sent(&mut self, turn: &Turn, now: Instant) {
        let end = turn.sequence.wrapping_add(turn.len as u32 + u32::from(turn.fin));
        if turn.fin {
            self.fin = Some(end.wrapping_sub(1));
        }
        if self.recovery.is_some() {
            self.credit = self.credit.saturating_sub(turn.len as u32);
        }
        if turn.is_repair || is_before(turn.sequence, self.highest) {
            // Karn: what was sent twice measures nothing.
            self.measured = None;
            self.retransmissions = self.retransmissions.saturating_add(1);
        } else if self.measured.is_none() {
            self.measured = Some((end, now));
        }
        if turn.is_repair {
            self.repaired = later(self.repaired, end);
        } else {
            self.next = self.held.end_around(end);
        }
        self.highest = later(self.highest, end);
        self.may_probe = false;
        if self.timer.is_none() {
            self.timer = Some(now + self.timeout());
        }
    }

    /// When [`Self::handle_timeout`] is due; also while a window keeps bytes back.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timer
    }

    /// Notes whether bytes wait that nothing on its way will let go: the window is closed, or too small to be worth a
    /// segment, and needs to be probed.
    pub fn watch_window(&mut self, now: Instant) {
        let waits = self.timer.is_none() && !self.queue.is_empty();
        if waits && self.turn(self.segment_bytes as usize).is_none() {
            self.timer = Some(now + self.timeout());
        }
    }

    /// Starts over from what is acknowledged when the timer has run out. Says whether it has.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.timer.is_none_or(|due| now < due) {
            return false;
        }
        if self.window > 0 && !self.is_settled() {
            if self.backoff == 0 {
                self.slow_start_threshold = self.halved();
            }
            self.congestion_window = self.segment_bytes;
        }
        self.recovery = None;
        self.duplicates = 0;
        // RFC 2018 §8: the container may have thrown away what it held.
        self.held.clear();
        self.measured = None;
        self.next = self.unacknowledged;
        self.may_probe = true;
        self.backoff = (self.backoff + 1).min(16);
        self.timer = Some(now + self.timeout());
        true
    }

    /// Nothing is to be sent any more.
    pub fn stop(&mut self) {
        self.timer = None;
    }

    fn timeout(&self) -> Duration {
        let micros = self.rto.total_micros().saturating_mul(1 << self.backoff.min(16));
        Duration::from_micros(micros.min(LONGEST_RTO.total_micros()))
    }

    /// RFC 6298 §2.2 and §2.3.
    fn measure(&mut self, acknowledgement: u32, now: Instant) {
        let Some((end, began)) = self.measured else { return };
        if is_before(acknowledgement, end) {
            return;
        }
        self.measured = None;
        // RFC 6298 §5: only now there is a timeout that needs no more backing off.
        self.backoff = 0;
        let sample = (now - began).total_micros();
        let (smoothed, variation) = match self.smoothed {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                let (smoothed, variation) = (smoothed.total_micros(), variation.total_micros());
                ((7 * smoothed + sample) / 8, (3 * variation + smoothed.abs_diff(sample)) / 4)
            }
        };
        self.smoothed = Some((Duration::from_micros(smoothed), Duration::from_micros(variation)));
        self.rto = Duration::from_micros(smoothed + 4 * variation).max(LEAST_RTO).min(LONGEST_RTO);
    }
}

#[cfg(test)]
mod tests;
