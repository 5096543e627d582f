//! What flows get of a rate, and how long they wait for it.

use super::*;
use crate::stack::boundary::Duration;

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

/// Flows with so many bytes to move, which come back for more, for so long; what each has moved, in bytes.
struct Crowd {
    turns: Scheduler<u32>,
    now: Instant,
    /// By flow: its class, bytes it moves at least at a time, and bytes it has to move.
    flows: BTreeMap<u32, (ClassId, usize, usize)>,
    moved: BTreeMap<u32, usize>,
}

impl Crowd {
    fn new(limit: Option<&str>) -> Crowd {
        let mut turns = Scheduler::new(RandomState::with_seeds(1, 2, 3, 4));
        turns.limit(limit.map(rate));
        Crowd { turns, now: Instant::from_secs(1), flows: BTreeMap::new(), moved: BTreeMap::new() }
    }

    fn with(mut self, flow: u32, class: u32, each: usize) -> Crowd {
        self.flows.insert(flow, (ClassId(class), each, usize::MAX));
        self
    }

    fn go(&mut self, flow: u32, most: usize) {
        let (class, each, left) = self.flows[&flow];
        let moves = most.max(each).min(left);
        self.flows.get_mut(&flow).unwrap().2 -= moves;
        *self.moved.entry(flow).or_default() += moves;
        self.turns.pay(flow, class, moves, left > moves, self.now);
    }

    fn run(&mut self, lasts: Duration) {
        let end = self.now + lasts;
        for flow in self.flows.keys().copied().collect::<Vec<_>>() {
            let most = self.turns.ask(flow, self.flows[&flow].0, self.now);
            if most > 0 {
                self.go(flow, most);
            }
        }
        while self.now < end {
            while let Some((flow, most)) = self.turns.poll(self.now) {
                assert!(most > 0);
                self.go(flow, most);
            }
            let next = self.turns.poll_timeout().expect("somebody waits");
            assert!(next > self.now, "a turn that spins");
            // As late as a busy machine is.
            self.now = next + Duration::from_millis(3);
        }
    }
}

fn is_near(value: usize, expected: usize, percent: usize) -> bool {
    value.abs_diff(expected) * 100 <= expected * percent
}

#[test]
fn a_bucket_lets_its_rate_and_one_burst_through() {
    let mut bucket = TokenBucket::new(rate("8mbit"));
    let start = Instant::from_secs(5);
    assert_eq!(bucket.available(start), 50_000);
    bucket.take(50_000, start);
    assert_eq!(bucket.available(start), 0);
    assert_eq!(bucket.available(start + Duration::from_millis(10)), 10_000);
    assert_eq!(bucket.available(start + Duration::from_secs(60)), 50_000, "no more is saved up");
    bucket.take(5_000, start);
    assert_eq!(bucket.ready_at(1_000), start + Duration::from_millis(6), "a debt is paid first");
    bucket.change(rate("16mbit"));
    // 55 000 bytes were taken at the old rate: of them 55 ms are to be paid for, less the burst of 50.
    assert_eq!(bucket.available(start + Duration::from_millis(10)), 10_000);
}

#[test]
fn a_slow_rate_still_lets_a_packet_through() {
    let bucket = TokenBucket::new(Rate::LEAST);
    assert!(bucket.available(Instant::ZERO) >= 16_000);
    assert!(bucket.ready_at(1 << 20) < Instant::from_secs(1), "never waits for more than it holds");
}

#[test]
fn flows_together_keep_to_the_rate_and_share_it() {
    let mut crowd = Crowd::new(Some("80mbit")).with(1, 0, 0).with(2, 0, 0).with(3, 0, 0).with(4, 0, 0);
    crowd.run(Duration::from_secs(10));
    let total: usize = crowd.moved.values().sum();
    assert!(is_near(total, 100_000_000, 2), "{total}");
    assert!(crowd.moved.values().all(|moved| is_near(*moved, total / 4, 2)), "{:?}", crowd.moved);
}

#[test]
fn who_moves_much_at_a_time_has_no_more_than_the_others() {
    let mut crowd = Crowd::new(Some("10mbit")).with(1, 0, 64_000).with(2, 0, 1_500).with(3, 0, 100);
    crowd.run(Duration::from_secs(20));
    let total: usize = crowd.moved.values().sum();
    assert!(is_near(total, 25_000_000, 3), "{total}");
    assert!(crowd.moved.values().all(|moved| is_near(*moved, total / 3, 5)), "{:?}", crowd.moved);
}

#[test]
fn a_short_request_does_not_wait_for_transfers() {
    let mut crowd = Crowd::new(Some("10mbit"));
    for flow in 0..50 {
        crowd = crowd.with(flow, 0, 0);
    }
    crowd.run(Duration::from_secs(1));
    let mut waits = Vec::new();
    for _ in 0..100 {
        let asked = crowd.now;
        let mut granted = crowd.turns.ask(1_000, ClassId(0), asked) > 0;
        while !granted {
            while let Some((flow, most)) = crowd.turns.poll(crowd.now) {
                if flow == 1_000 {
                    granted = true;
                    crowd.turns.pay(flow, ClassId(0), 300, false, crowd.now);
                    break;
                }
                crowd.go(flow, most);
            }
            if !granted {
                crowd.now = crowd.turns.poll_timeout().unwrap();
            }
        }
        waits.push((crowd.now - asked).total_millis());
        // The round of all fifty takes a quarter of a second; a thinking time that is as long.
        crowd.run(Duration::from_millis(400));
    }
    // A whole round at ten megabits would be fifty quanta of five milliseconds.
    assert!(waits.iter().all(|wait| *wait <= 12), "{waits:?}");
}

#[test]
fn requests_without_end_do_not_starve_transfers() {
    let mut crowd = Crowd::new(Some("10mbit")).with(1, 0, 0).with(2, 0, 0);
    crowd.run(Duration::from_millis(100));
    let before: usize = crowd.moved.values().sum();
    // Many that ask anew as soon as they are served, each for no more than a packet.
    let end = crowd.now + Duration::from_secs(5);
    let mut greedy = 0;
    for flow in 100..110 {
        crowd.turns.ask(flow, ClassId(0), crowd.now);
    }
    while crowd.now < end {
        while let Some((flow, most)) = crowd.turns.poll(crowd.now) {
            if flow >= 100 {
                greedy += 1_500;
                crowd.turns.pay(flow, ClassId(0), 1_500, false, crowd.now);
                crowd.turns.ask(flow, ClassId(0), crowd.now);
            } else {
                crowd.go(flow, most);
            }
        }
        crowd.now = crowd.turns.poll_timeout().unwrap();
    }
    let moved = crowd.moved.values().sum::<usize>() - before;
    // Two of twelve, by quanta that are four times a packet.
    assert!(moved * 6 > greedy, "{moved} of transfers, {greedy} of requests");
}

#[test]
fn what_was_moved_while_nobody_waited_is_owed_to_nobody() {
    let mut crowd = Crowd::new(Some("80mbit")).with(1, 0, 1_000).with(2, 0, 1_000);
    let class = ClassId::default();
    // It has had a turn, and is in the round.
    crowd.turns.pay(1, class, 1_000, true, crowd.now);
    assert_eq!(crowd.turns.poll(crowd.now), Some((1, 50_000)));
    for _ in 0..1_000 {
        crowd.now += Duration::from_millis(10);
        assert_eq!(crowd.turns.at_once(class, crowd.now), 50_000);
        crowd.turns.pay(1, class, 50_000, false, crowd.now);
    }
    crowd.run(Duration::from_secs(1));
    let (first, second) = (crowd.moved[&1], crowd.moved[&2]);
    assert!(is_near(first, second, 20), "{first} {second}");
}

#[test]
fn a_class_keeps_to_its_own_rate_and_leaves_the_rest() {
    let mut crowd = Crowd::new(Some("80mbit")).with(1, 0, 0).with(2, 7, 0).with(3, 7, 0).with(4, 8, 0);
    crowd.turns.limit_class(ClassId(7), Some(rate("8mbit")));
    crowd.turns.limit_class(ClassId(8), Some(rate("16mbit")));
    crowd.run(Duration::from_secs(10));
    let moved = |flow| crowd.moved[&flow];
    assert!(is_near(moved(2) + moved(3), 10_000_000, 3), "{:?}", crowd.moved);
    assert!(is_near(moved(2), moved(3), 5), "{:?}", crowd.moved);
    assert!(is_near(moved(4), 20_000_000, 3), "{:?}", crowd.moved);
    assert!(is_near(crowd.moved.values().sum(), 100_000_000, 3), "{:?}", crowd.moved);
    // A class alone, of a container without a limit.
    let mut crowd = Crowd::new(None).with(2, 7, 0);
    crowd.turns.limit_class(ClassId(7), Some(rate("8mbit")));
    crowd.run(Duration::from_secs(10));
    assert!(is_near(crowd.moved[&2], 10_000_000, 3), "{:?}", crowd.moved);
    assert!(!crowd.turns.is_limited(ClassId(0)) && crowd.turns.is_limited(ClassId(7)));
}

#[test]
fn many_flows_of_a_class_have_as_many_turns() {
    let mut crowd = Crowd::new(Some("80mbit"));
    for flow in 0..12 {
        crowd = crowd.with(flow, flow % 3, 0);
    }
    for flow in 20..29 {
        crowd = crowd.with(flow, 1, 0);
    }
    crowd.run(Duration::from_secs(10));
    assert!(crowd.moved.values().all(|moved| is_near(*moved, 100_000_000 / 21, 10)), "{:?}", crowd.moved);
}

#[test]
fn whoever_is_gone_has_no_turn_and_a_limit_that_is_lifted_lets_all_go_on() {
    let mut crowd = Crowd::new(Some("1mbit")).with(1, 0, 0).with(2, 0, 0).with(3, 0, 0);
    crowd.run(Duration::from_secs(1));
    crowd.turns.forget(2);
    crowd.turns.limit(None);
    assert_eq!(crowd.turns.poll_timeout(), Some(Instant::ZERO));
    let mut left = Vec::new();
    while let Some((flow, most)) = crowd.turns.poll(crowd.now) {
        assert!(most >= 1_514);
        crowd.turns.pay(flow, ClassId(0), 0, false, crowd.now);
        left.push(flow);
    }
    left.sort_unstable();
    assert_eq!((left, crowd.turns.waiting()), (vec![1, 3], 0));
    assert_eq!(crowd.turns.poll_timeout(), None);
}
