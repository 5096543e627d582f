//! The link between the core and the guest, with the faults of a bad one.
//!
//! Toward the guest the link plays the container's kernel: super-segments are cut and checksums completed on
//! entry, and every frame is then checked; what the core may not send is a violation. Toward the core, frames
//! of the guest may be joined. Faults strike after the cutting and before the joining could hide them.

use std::collections::VecDeque;

use netferry::stack::boundary::FrameSink;
use netferry::stack::impair::ImpairedWay;
use netferry::wire::vnet_header::{Offload, VNET_HEADER_LEN};

use crate::clock::{Duration, EventQueue, Instant, ms};
use crate::offload::{Joiner, split};
use crate::packet::{self, ETHERNET, Seen};
use crate::prng::Prng;

/// Frames remembered for the tests to look at.
const LOG_FRAMES: usize = 20_000;

/// What can go wrong on the way, in thousandths of all frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub loss: u32,
    pub duplication: u32,
    /// Held back for up to `reorder_by`.
    pub reordering: u32,
    pub reorder_by: Duration,
    /// One bit flipped somewhere behind the Ethernet header of an IP packet.
    pub corruption: u32,
    /// One-way latency, and how much it may vary (which reorders, too).
    pub delay: Duration,
    pub jitter: Duration,
    pub bytes_per_second: Option<u64>,
}

impl Faults {
    /// Everything at once, mildly.
    pub fn mixed(per_mille: u32) -> Faults {
        Faults {
            loss: per_mille,
            duplication: per_mille,
            reordering: per_mille,
            reorder_by: ms(3),
            corruption: per_mille,
            delay: ms(1),
            ..Faults::default()
        }
    }

    /// Only latency.
    pub fn delay(delay: Duration) -> Faults {
        Faults { delay, ..Faults::default() }
    }
}

/// One direction.
#[derive(Debug)]
struct Pipe<T> {
    queue: EventQueue<T>,
    free_at: Instant,
}

impl<T: Clone> Pipe<T> {
    fn new() -> Pipe<T> {
        Pipe { queue: EventQueue::new(), free_at: Instant::ZERO }
    }

    /// Puts a frame on its way; a flipped bit is the caller's business.
    fn send(&mut self, frame: T, len: usize, faults: &Faults, prng: &mut Prng, now: Instant) {
        if prng.chance(faults.loss) {
            return;
        }
        let start = self.free_at.max(now);
        if let Some(rate) = faults.bytes_per_second {
            self.free_at = start + Duration::from_micros(len as u64 * 1_000_000 / rate);
        }
        let copies = if prng.chance(faults.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let mut at = start + faults.delay;
            if faults.jitter > Duration::ZERO {
                at += Duration::from_micros(prng.below(faults.jitter.total_micros() + 1));
            }
            if prng.chance(faults.reordering) {
                at += Duration::from_micros(1 + prng.below(faults.reorder_by.total_micros().max(1)));
            }
            self.queue.push(at, frame.clone());
        }
    }
}

/// A frame for the core, with its header.
pub type HeadedFrame = ([u8; VNET_HEADER_LEN], Vec<u8>);

/// Both directions.
pub struct Link {
    pub offload: Offload,
    pub mtu: usize,
    /// Toward the guest.
    pub down: Faults,
    /// Toward the core.
    pub up: Faults,
    /// Whether frames of the guest are joined to super-segments where they can be.
    pub joins: bool,
    /// Set by the world before each call into the core.
    pub now: Instant,
    /// The most frames that may be on their way to the guest; beyond it `reserve` refuses.
    pub down_capacity: usize,
    /// Frames the core sent, as cut for the guest, before faults.
    pub sent_down: VecDeque<(Instant, Vec<u8>)>,
    /// How many frames the core committed, before cutting.
    pub commits: u64,
    /// Frames above the MTU among them.
    pub super_commits: u64,
    /// Joined frames the core was given.
    pub super_joins: u64,
    /// The frame of the core, from now on, at which it is struck by a panic, once room is made for it.
    pub strike_at: Option<u64>,
    /// Frames that were.
    pub struck: usize,
    /// A bad link on purpose, as the driver makes it: toward the core and toward the guest.
    pub impaired: Option<(ImpairedWay, ImpairedWay)>,
    /// What the core may not do.
    pub violations: Vec<String>,
    /// The only addresses that belong on this link: ours, and the container's.
    pub macs: ([u8; 6], [u8; 6]),
    prng: Prng,
    scratch: Vec<u8>,
    reserved: Option<usize>,
    to_guest: Pipe<Vec<u8>>,
    to_core: Pipe<HeadedFrame>,
}

impl Link {
    /// A faultless link.
    pub fn new(seed: u64, offload: Offload, mtu: u16, macs: ([u8; 6], [u8; 6])) -> Link {
        Link {
            offload,
            mtu: usize::from(mtu),
            down: Faults::default(),
            up: Faults::default(),
            joins: offload.tcp4,
            now: Instant::ZERO,
            down_capacity: usize::MAX,
            sent_down: VecDeque::new(),
            commits: 0,
            super_commits: 0,
            super_joins: 0,
            strike_at: None,
            struck: 0,
            impaired: None,
            violations: Vec::new(),
            macs,
            prng: Prng::new(seed, "link"),
            scratch: Vec::new(),
            reserved: None,
            to_guest: Pipe::new(),
            to_core: Pipe::new(),
        }
    }

    /// Takes what the guest sent in one go.
    pub fn send_up(&mut self, frames: Vec<Vec<u8>>, now: Instant) {
        let mut ready = Vec::new();
        let mut joiner = Joiner::default();
        for frame in frames {
            if self.prng.chance(self.up.corruption) {
                // A damaged frame has been on a wire: its checksum was complete and it travels alone.
                joiner.flush(&mut ready);
                ready.push(([0; VNET_HEADER_LEN], flip(frame, &mut self.prng)));
            } else {
                joiner.push(frame, self.offload, &mut ready);
                if !self.joins || self.impaired.is_some() {
                    joiner.flush(&mut ready);
                }
            }
        }
        joiner.flush(&mut ready);
        for (header, frame) in ready {
            self.super_joins += u64::from(header[1] != 0);
            let len = frame.len();
            if let Some((up, _)) = &mut self.impaired {
                up.admit(&header, &frame, now);
                continue;
            }
            self.to_core.send((header, frame), len, &self.up, &mut self.prng, now);
        }
    }

    /// Puts a frame, as it is, before the core, next.
    pub fn inject_up(&mut self, header: [u8; VNET_HEADER_LEN], frame: Vec<u8>, now: Instant) {
        self.to_core.queue.push(now, (header, frame));
    }

    /// The next frame that has arrived at the core.
    pub fn arrived_at_core(&mut self, now: Instant) -> Option<HeadedFrame> {
        if let Some((up, _)) = &mut self.impaired
            && let Some(block) = up.poll(now)
        {
            let (header, frame) = block.split_first_chunk().expect("a header in front");
            return Some((*header, frame.to_vec()));
        }
        self.to_core.queue.pop_due(now)
    }

    /// The next frame that has arrived at the guest.
    pub fn arrived_at_guest(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some((_, down)) = &mut self.impaired
            && let Some(block) = down.poll(now)
        {
            return Some(block[VNET_HEADER_LEN..].to_vec());
        }
        self.to_guest.queue.pop_due(now)
    }

    /// When a frame arrives next on either end.
    pub fn next_at(&self) -> Option<Instant> {
        let ways = self.impaired.as_ref().map(|(up, down)| [up.poll_timeout(), down.poll_timeout()]);
        let ways = ways.into_iter().flatten();
        ways.chain([self.to_core.queue.next_at(), self.to_guest.queue.next_at()]).flatten().min()
    }

    /// What the core sent since `from`, read.
    pub fn seen_since(&self, from: Instant) -> impl Iterator<Item = Seen> + '_ {
        self.sent_down
            .iter()
            .filter(move |(at, _)| *at >= from)
            .map(|(_, frame)| packet::read(frame).expect("checked when it was sent"))
    }

    /// Everything the core sent, read.
    pub fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        self.seen_since(Instant::ZERO)
    }

    fn check(&self, frame: &[u8]) -> Result<(), String> {
        let seen = packet::read(frame)?;
        if seen.source_mac != self.macs.0 {
            return Err(format!("source {:02x?} is not the gateway", seen.source_mac));
        }
        if seen.destination_mac != self.macs.1 && seen.destination_mac[0] & 1 == 0 {
            return Err(format!("destination {:02x?} is not the container", seen.destination_mac));
        }
        if seen.ip.is_some_and(|ip| !ip.checksum_holds()) {
            return Err("transport checksum".into());
        }
        etherparse::SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
        Ok(())
    }
}

impl FrameSink for Link {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.reserved = None;
        if self.to_guest.queue.len() >= self.down_capacity {
            return None;
        }
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        if let Some(left) = &mut self.strike_at {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.strike_at = None;
                self.struck += 1;
                // As a panic, but the hook is spared.
                std::panic::resume_unwind(Box::new("a fault that was asked for"));
            }
        }
        // Neither zeroes nor what an earlier reservation held: whoever relies on either is caught.
        self.scratch[..len].fill(0xa5);
        self.reserved = Some(len);
        Some(&mut self.scratch[..len])
    }

    fn commit_gathered(&mut self, len: usize, payload: [&[u8]; 2], header: [u8; VNET_HEADER_LEN]) {
        let all = payload.concat();
        let end = len + all.len();
        // What was not reserved is found by `commit`.
        if let Some(room) = self.scratch.get_mut(len..end) {
            room.copy_from_slice(&all);
        }
        self.commit(end, header);
    }

    fn commit(&mut self, len: usize, header: [u8; VNET_HEADER_LEN]) {
        let Some(reserved) = self.reserved.take().filter(|reserved| len <= *reserved) else {
            self.violations.push(format!("{len} bytes committed of {:?} reserved", self.reserved));
            return;
        };
        debug_assert!(len <= reserved);
        self.commits += 1;
        self.super_commits += u64::from(len > ETHERNET + self.mtu);
        let frames = match split(&header, &self.scratch[..len], self.offload, self.mtu) {
            Ok(frames) => frames,
            Err(error) => {
                self.violations.push(format!(
                    "{error}: header {header:02x?}, frame {:02x?}",
                    head(&self.scratch[..len])
                ));
                return;
            }
        };
        for frame in frames {
            if let Err(error) = self.check(&frame) {
                self.violations.push(format!("{error}: frame {:02x?}", head(&frame)));
                continue;
            }
            if self.sent_down.len() == LOG_FRAMES {
                self.sent_down.pop_front();
            }
            self.sent_down.push_back((self.now, frame.clone()));
            let damaged = self.prng.chance(self.down.corruption);
            let frame = if damaged { flip(frame, &mut self.prng) } else { frame };
            if let Some((_, down)) = &mut self.impaired {
                down.admit(&[0; VNET_HEADER_LEN], &frame, self.now);
                continue;
            }
            let frame_len = frame.len();
            self.to_guest.send(frame, frame_len, &self.down, &mut self.prng, self.now);
        }
    }
}

fn head(frame: &[u8]) -> &[u8] {
    &frame[..frame.len().min(96)]
}

/// Flips one bit of an IP packet; ARP has no checksum of its own, and the Ethernet header has the wire's.
fn flip(mut frame: Vec<u8>, prng: &mut Prng) -> Vec<u8> {
    if frame.len() > ETHERNET && frame[12..14] != [0x08, 0x06] {
        let at = ETHERNET + prng.below((frame.len() - ETHERNET) as u64) as usize;
        frame[at] ^= 1 << prng.below(8);
    }
    frame
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::packet::{ACK, Ip, TCP, ethernet, tcp};

    fn link(down: Faults) -> Link {
        let mut link = Link::new(7, Offload::NONE, 1500, ([4; 6], [2; 6]));
        link.down = down;
        link
    }

    fn send(link: &mut Link, number: u8) {
        let packet = Ip::new(Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(10, 0, 2, 100), TCP);
        let frame = ethernet([4; 6], [2; 6], &packet.carrying(tcp((1, 2), 3, 4, ACK, &[number; 100])));
        link.reserve(frame.len()).unwrap().copy_from_slice(&frame);
        link.commit(frame.len(), [0; VNET_HEADER_LEN]);
    }

    fn arrivals(link: &mut Link) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| link.arrived_at_guest(Instant::from_secs(100))).collect()
    }

    #[test]
    fn a_faultless_link_keeps_frames_and_order() {
        let mut link = link(Faults::default());
        (0..50).for_each(|number| send(&mut link, number));
        let numbers: Vec<_> = arrivals(&mut link).iter().map(|frame| *frame.last().unwrap()).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        assert_eq!(link.violations, Vec::<String>::new());
    }

    #[test]
    fn each_fault_does_what_its_name_says() {
        let mut lossy = link(Faults { loss: 500, ..Faults::default() });
        let mut doubling = link(Faults { duplication: 500, ..Faults::default() });
        let mut shuffling = link(Faults { reordering: 500, reorder_by: ms(5), ..Faults::default() });
        let mut damaging = link(Faults { corruption: 500, ..Faults::default() });
        for number in 0..100 {
            for link in [&mut lossy, &mut doubling, &mut shuffling, &mut damaging] {
                send(link, number);
            }
        }
        assert!((20..80).contains(&arrivals(&mut lossy).len()));
        assert!((120..180).contains(&arrivals(&mut doubling).len()));
        let shuffled: Vec<_> = arrivals(&mut shuffling).iter().map(|frame| *frame.last().unwrap()).collect();
        assert!(shuffled.len() == 100 && !shuffled.is_sorted());
        let sound = |frame: &Vec<u8>| {
            packet::read(frame)
                .is_ok_and(|seen| seen.ip.is_some_and(|ip| ip.protocol == TCP && ip.checksum_holds()))
        };
        let good = arrivals(&mut damaging).iter().filter(|frame| sound(frame)).count();
        assert!((20..80).contains(&good), "{good}");
    }

    #[test]
    fn a_rate_spaces_frames() {
        let mut link = link(Faults { bytes_per_second: Some(154_000), ..Faults::default() });
        (0..10).for_each(|number| send(&mut link, number));
        assert_eq!(std::iter::from_fn(|| link.arrived_at_guest(Instant::from_millis(5))).count(), 6);
    }

    #[test]
    fn a_full_link_refuses_room() {
        let mut link = link(Faults::delay(ms(1)));
        link.down_capacity = 1;
        send(&mut link, 0);
        assert!(link.reserve(60).is_none());
    }

    #[test]
    fn a_frame_that_is_not_the_cores_to_send_is_a_violation() {
        let mut link = link(Faults::default());
        link.macs = ([9; 6], [2; 6]);
        send(&mut link, 0);
        assert_eq!(link.violations.len(), 1);
    }
}
