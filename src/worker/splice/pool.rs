//! What carries the bytes of spliced connections: pipes while there are any, buffers in their place.
//!
//! A carrier is lent to a direction only while it holds bytes, so idle connections hold none and a few pipes serve
//! many. The count of pipes is bounded here and their size by the user's quota: where a pipe cannot be made as large
//! as wished it is made smaller, and where even the least is refused, or all are lent, a buffer is lent.
//! Buffers are bounded in total too; beyond that they are small, never refused, as each bounds its own direction.
//! While somebody looks at a connection, its bytes are in buffers as well: what is in a pipe nobody sees.

use crate::config::limits::SpliceLimits;
use crate::sys::pipe::Pipe;
use crate::sys::socket::{StreamSocket, Transfer};

/// How many carriers are lent before a pipe is asked for again after one was refused.
const RETRY_AFTER: u32 = 256;

/// The carriers of all connections of a worker.
#[derive(Debug)]
pub struct CarrierPool {
    limits: SpliceLimits,
    /// Empty pipes, the warmest last.
    idle: Vec<Pipe>,
    /// Pipes lent and idle.
    pipes: usize,
    buffer_bytes: usize,
    /// Carriers to lend before the next attempt at a pipe.
    retry_after: u32,
}

/// Bytes on their way from one socket to another.
#[derive(Debug)]
pub struct Carrier {
    vessel: Vessel,
    held_bytes: usize,
}

#[derive(Debug)]
enum Vessel {
    Pipe(Pipe),
    /// Bytes from `start` on; those behind `start + held_bytes` are free.
    Buffer {
        bytes: Box<[u8]>,
        start: usize,
    },
}

impl CarrierPool {
    /// An empty one; pipes come as they are needed.
    pub fn new(limits: SpliceLimits) -> CarrierPool {
        CarrierPool { limits, idle: Vec::new(), pipes: 0, buffer_bytes: 0, retry_after: 0 }
    }

    /// The bounds it keeps.
    pub fn limits(&self) -> &SpliceLimits {
        &self.limits
    }

    /// Pipes that exist, lent or not.
    pub fn pipes(&self) -> usize {
        self.pipes
    }

    /// Pipes that wait to be lent.
    pub fn idle_pipes(&self) -> usize {
        self.idle.len()
    }

    /// Bytes of all buffers that are lent.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Lends an empty carrier.
    pub fn lend(&mut self) -> Carrier {
        if let Some(pipe) = self.idle.pop().or_else(|| self.open_pipe()) {
            return Carrier { vessel: Vessel::Pipe(pipe), held_bytes: 0 };
        }
        self.lend_buffer()
    }

    /// Lends an empty carrier whose bytes can be looked at.
    pub fn lend_buffer(&mut self) -> Carrier {
        let has_room = self.buffer_bytes + self.limits.buffer_bytes <= self.limits.buffer_total_bytes;
        let len = if has_room { self.limits.buffer_bytes } else { self.limits.buffer_min_bytes };
        self.buffer_bytes += len;
        Carrier { vessel: Vessel::Buffer { bytes: vec![0; len].into(), start: 0 }, held_bytes: 0 }
    }

    /// Has what a carrier holds in a buffer, and what comes into it from now on. A pipe that cannot be read stays one.
    pub fn make_visible(&mut self, carrier: &mut Carrier) {
        let Vessel::Pipe(pipe) = &carrier.vessel else { return };
        let held = carrier.held_bytes;
        let mut bytes = vec![0; held.max(self.limits.buffer_min_bytes)].into_boxed_slice();
        let mut read = 0;
        while read < held {
            match pipe.read(&mut bytes[read..held]) {
                Transfer::Bytes(len @ 1..) => read += len,
                Transfer::Bytes(0) | Transfer::Blocked | Transfer::Failed(_) if read == 0 => return,
                Transfer::Bytes(_) | Transfer::Blocked | Transfer::Failed(_) => break,
            }
        }
        self.buffer_bytes += bytes.len();
        let visible = Carrier { vessel: Vessel::Buffer { bytes, start: 0 }, held_bytes: read };
        let former = std::mem::replace(carrier, visible);
        self.give_back(Carrier { held_bytes: held - read, ..former });
    }

    /// Takes a carrier back. What it still holds is lost: a pipe with bytes in it is closed.
    pub fn give_back(&mut self, carrier: Carrier) {
        match carrier.vessel {
            Vessel::Pipe(pipe) if carrier.held_bytes == 0 && self.idle.len() < self.limits.idle_pipes => {
                self.idle.push(pipe);
            }
            Vessel::Pipe(_) => self.pipes -= 1,
            Vessel::Buffer { bytes, .. } => self.buffer_bytes -= bytes.len(),
        }
    }

    fn open_pipe(&mut self) -> Option<Pipe> {
        if self.pipes >= self.limits.pipes {
            return None;
        }
        if self.retry_after > 0 {
            self.retry_after -= 1;
            return None;
        }
        let pipe = Pipe::open().ok().and_then(|pipe| enlarged(pipe, &self.limits));
        match pipe {
            Some(_) => self.pipes += 1,
            None => self.retry_after = RETRY_AFTER,
        }
        pipe
    }
}

/// The pipe at the wished size, or at half of that and so on; none if it stays below the least.
fn enlarged(mut pipe: Pipe, limits: &SpliceLimits) -> Option<Pipe> {
    let mut wanted = limits.pipe_bytes;
    while wanted > pipe.capacity_bytes() && wanted >= limits.pipe_min_bytes && pipe.resize(wanted).is_err() {
        wanted /= 2;
    }
    (pipe.capacity_bytes() >= limits.pipe_min_bytes).then_some(pipe)
}

impl Carrier {
    /// Bytes it holds.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes `most` bytes of what has arrived at `source`, and shows them if it can. Zero bytes are its end. `Blocked` when
    /// nothing has arrived or the carrier is full; for an empty one it is the former.
    pub fn fill_from(&mut self, source: &StreamSocket, most: usize, show: impl FnOnce(&[u8])) -> Transfer {
        let filled = match &mut self.vessel {
            Vessel::Pipe(pipe) => pipe.fill_from(source, most),
            Vessel::Buffer { bytes, start } => match &mut bytes[*start + self.held_bytes..] {
                // Reading nothing would look like the end.
                [] => Transfer::Blocked,
                free => {
                    let free_len = free.len().min(most);
                    let free = &mut free[..free_len];
                    let filled = source.receive(free);
                    if let Transfer::Bytes(len @ 1..) = filled {
                        show(&free[..len]);
                    }
                    filled
                }
            },
        };
        if let Transfer::Bytes(len) = filled {
            self.held_bytes += len;
        }
        filled
    }

    /// Gives `target` as much as it takes, and shows that if it can.
    pub fn drain_into(&mut self, target: &StreamSocket, show: impl FnOnce(&[u8])) -> Transfer {
        let drained = match &self.vessel {
            Vessel::Pipe(pipe) => pipe.drain_into(target, self.held_bytes),
            Vessel::Buffer { bytes, start } => target.send(&bytes[*start..*start + self.held_bytes]),
        };
        if let Transfer::Bytes(len) = drained {
            self.held_bytes -= len;
            if let Vessel::Buffer { start, bytes } = &mut self.vessel {
                show(&bytes[*start..*start + len]);
                *start = if self.held_bytes == 0 { 0 } else { *start + len };
            }
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_pipe(carrier: &Carrier) -> bool {
        matches!(carrier.vessel, Vessel::Pipe(_))
    }

    #[test]
    fn lent_pipes_are_bounded_and_buffers_take_their_place() {
        let mut pool = CarrierPool::new(SpliceLimits {
            pipes: 2,
            idle_pipes: 1,
            buffer_bytes: 1_000,
            buffer_total_bytes: 2_500,
            buffer_min_bytes: 10,
            ..SpliceLimits::default()
        });
        let lent: Vec<Carrier> = (0..5).map(|_| pool.lend()).collect();
        assert_eq!(lent.iter().filter(|carrier| is_pipe(carrier)).count(), 2);
        assert_eq!((pool.pipes(), pool.buffer_bytes()), (2, 2_010));
        lent.into_iter().for_each(|carrier| pool.give_back(carrier));
        assert_eq!((pool.pipes(), pool.idle_pipes(), pool.buffer_bytes()), (1, 1, 0));
    }

    #[test]
    fn a_pipe_that_may_not_be_large_is_made_smaller() {
        // No user may have pipes of a gigabyte, nor root once its descriptors are spent; half and half again will do.
        let limits = SpliceLimits { pipe_bytes: 1 << 31, ..SpliceLimits::default() };
        let pipe = enlarged(Pipe::open().unwrap(), &limits).unwrap();
        assert!((64 << 10..1 << 31).contains(&pipe.capacity_bytes()), "{}", pipe.capacity_bytes());
    }

    #[test]
    fn a_refused_pipe_is_asked_for_again_only_after_a_while() {
        let limits = SpliceLimits { pipe_bytes: 0, pipe_min_bytes: usize::MAX, ..SpliceLimits::default() };
        let mut pool = CarrierPool::new(limits);
        let first = pool.lend();
        assert!(!is_pipe(&first));
        pool.give_back(first);
        pool.limits = SpliceLimits::default();
        let until = (0..=RETRY_AFTER).take_while(|_| {
            let carrier = pool.lend();
            let was_buffer = !is_pipe(&carrier);
            pool.give_back(carrier);
            was_buffer
        });
        assert_eq!(until.count(), RETRY_AFTER as usize);
    }
}
