//! Tests of `leases`, sentences of its behaviour.

use super::*;
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);
const NOW: Instant = Instant::ZERO;

fn at(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, host)
}

fn client(number: u8) -> ClientKey {
    ClientKey::Mac(MacAddr([2, 0, 0, 0, 0, number]))
}

fn table(first: u8, last: u8) -> Leases {
    Leases::new(&DhcpPool { first: at(first), last: at(last) }, &Ipv4Link::default(), 256)
}

#[test]
fn new_clients_get_the_lowest_address() {
    let mut leases = table(15, 30);
    for number in 15..=30 {
        assert_eq!(leases.offer(client(number), None, NOW), Some(at(number)));
    }
    assert_eq!(leases.offer(client(99), None, NOW), None, "sixteen and no more");
}

#[test]
fn an_offer_lapses_and_a_lease_lasts_a_day() {
    let mut leases = table(15, 15);
    leases.offer(client(1), None, NOW);
    assert_eq!(leases.offer(client(2), None, NOW + OFFER_TIME - Duration::from_micros(1)), None);
    assert_eq!(leases.offer(client(2), None, NOW + OFFER_TIME), Some(at(15)));
    assert!(leases.bind(client(2), at(15), NOW + OFFER_TIME));
    let end = NOW + OFFER_TIME + LEASE;
    assert_eq!(leases.offer(client(3), None, end - Duration::from_micros(1)), None);
    assert_eq!(leases.offer(client(3), None, end), Some(at(15)));
}

#[test]
fn a_client_keeps_its_address_over_offers_releases_and_time() {
    let mut leases = table(15, 30);
    assert!(leases.bind(client(1), at(20), NOW));
    assert_eq!(leases.offer(client(1), Some(at(16)), NOW), Some(at(20)));
    assert_eq!(
        leases.offer(client(2), Some(at(20)), NOW + OFFER_TIME),
        Some(at(15)),
        "the offer cut nothing"
    );
    assert!(leases.release(&client(1), at(20)));
    assert_eq!(leases.offer(client(1), None, NOW), Some(at(20)));
    assert_eq!(leases.offer(client(1), None, NOW + LEASE + LEASE), Some(at(20)));
}

#[test]
fn what_was_given_before_is_given_last() {
    let mut leases = table(15, 17);
    assert!(leases.bind(client(1), at(15), NOW));
    assert!(leases.release(&client(1), at(15)));
    assert_eq!(leases.offer(client(2), None, NOW), Some(at(16)));
    assert_eq!(leases.offer(client(3), None, NOW), Some(at(17)));
    assert_eq!(leases.offer(client(4), None, NOW), Some(at(15)));
}

#[test]
fn a_requested_address_is_offered_if_it_is_free_and_of_the_pool() {
    let mut leases = table(15, 30);
    assert_eq!(leases.offer(client(1), Some(at(22)), NOW), Some(at(22)));
    assert_eq!(leases.offer(client(2), Some(at(22)), NOW), Some(at(15)));
    assert_eq!(leases.offer(client(3), Some(at(31)), NOW), Some(at(16)));
    assert_eq!(leases.offer(client(4), Some(Ipv4Addr::new(192, 168, 1, 2)), NOW), Some(at(17)));
}

#[test]
fn only_what_is_free_or_ones_own_is_bound() {
    let mut leases = table(15, 30);
    assert!(leases.bind(client(1), at(15), NOW));
    assert!(!leases.bind(client(2), at(15), NOW));
    assert!(leases.bind(client(1), at(15), NOW + LEASE), "renewed");
    assert!(!leases.bind(client(2), at(14), NOW) && !leases.bind(client(2), at(31), NOW));
    assert_eq!(leases.offer(client(2), None, NOW), Some(at(16)));
    assert!(!leases.bind(client(3), at(16), NOW), "set aside for another");
}

#[test]
fn a_client_that_takes_another_address_gives_its_first_back() {
    let mut leases = table(15, 30);
    assert!(leases.bind(client(1), at(15), NOW));
    assert!(leases.bind(client(1), at(16), NOW));
    assert!(leases.bind(client(2), at(15), NOW));
}

#[test]
fn an_offer_may_be_withdrawn_but_a_lease_not() {
    let mut leases = table(15, 15);
    leases.offer(client(1), None, NOW);
    leases.withdraw_offer(&client(2));
    assert_eq!(leases.offer(client(2), None, NOW), None, "somebody else's");
    leases.withdraw_offer(&client(1));
    assert!(leases.bind(client(2), at(15), NOW));
    leases.withdraw_offer(&client(2));
    assert!(!leases.bind(client(1), at(15), NOW));
}

#[test]
fn a_declined_address_rests_for_all() {
    let mut leases = table(15, 16);
    leases.offer(client(1), None, NOW);
    assert!(!leases.decline(&client(2), at(15), NOW), "not its own");
    assert!(leases.decline(&client(1), at(15), NOW));
    assert!(!leases.decline(&client(1), at(15), NOW), "it is nobody's now");
    assert!(!leases.bind(client(1), at(15), NOW));
    assert_eq!(leases.offer(client(1), Some(at(15)), NOW), Some(at(16)));
    assert!(leases.bind(client(1), at(16), NOW));
    assert_eq!(leases.offer(client(2), None, NOW + DECLINED_TIME - Duration::from_micros(1)), None);
    assert_eq!(leases.offer(client(2), None, NOW + DECLINED_TIME), Some(at(15)));
}

#[test]
fn only_the_holder_releases() {
    let mut leases = table(15, 15);
    assert!(leases.bind(client(1), at(15), NOW));
    assert!(!leases.release(&client(2), at(15)) && !leases.release(&client(1), at(16)));
    assert!(!leases.bind(client(2), at(15), NOW));
    assert!(leases.release(&client(1), at(15)));
    assert!(leases.bind(client(2), at(15), NOW));
}

#[test]
fn our_own_addresses_and_those_of_nobody_are_never_leased() {
    let mut leases = table(0, 5);
    let given: Vec<_> = (0..9).filter_map(|number| leases.offer(client(number), None, NOW)).collect();
    assert_eq!(given, [at(1), at(4), at(5)], "not the network, the gateway, the resolver");
    let mut leases = table(254, 255);
    assert_eq!(leases.offer(client(1), None, NOW), Some(at(254)));
    assert_eq!(leases.offer(client(2), None, NOW), None, "not the broadcast address");
    assert!(!leases.bind(client(2), at(255), NOW) && !leases.bind(client(2), at(2), NOW));
}

#[test]
fn of_a_large_pool_only_so_many_addresses_are_used() {
    let pool = DhcpPool { first: Ipv4Addr::new(10, 0, 0, 16), last: Ipv4Addr::new(10, 255, 255, 254) };
    let link = Ipv4Link::from_cidr("10.0.0.0/8".parse().unwrap()).unwrap();
    let mut leases = Leases::new(&pool, &link, 4);
    for number in 0..4 {
        assert!(leases.offer(client(number), None, NOW).is_some());
    }
    assert_eq!(leases.offer(client(4), None, NOW), None);
    assert!(!leases.bind(client(4), Ipv4Addr::new(10, 0, 0, 20), NOW), "not by asking, either");
    assert_eq!(leases.by_address.len(), 4);
}

proptest! {
    /// Whatever clients do, no address has two holders, and none is outside the pool.
    #[test]
    fn no_address_is_given_twice(steps in prop::collection::vec((0u8..6, 0u8..9, 10u8..24, 0u64..40_000), 1..200)) {
        let mut leases = table(12, 20);
        let mut now = NOW;
        let mut holders: std::collections::HashMap<Ipv4Addr, (u8, Instant)> = std::collections::HashMap::new();
        for (what, who, host, seconds) in steps {
            now += Duration::from_secs(seconds / 10);
            let key = client(who);
            match what {
                0 => {
                    if let Some(address) = leases.offer(key, Some(at(host)), now) {
                        prop_assert!((at(12)..=at(20)).contains(&address));
                        let holder = holders.get(&address).filter(|(_, until)| *until > now);
                        prop_assert!(holder.is_none_or(|(holder, _)| *holder == who));
                    }
                }
                1 | 2 => {
                    if leases.bind(key, at(host), now) {
                        prop_assert!((12..=20).contains(&host));
                        let holder = holders.get(&at(host)).filter(|(_, until)| *until > now);
                        prop_assert!(holder.is_none_or(|(holder, _)| *holder == who));
                        holders.retain(|_, (holder, _)| *holder != who);
                        holders.insert(at(host), (who, now + LEASE));
                    }
                }
                3 => {
                    if leases.decline(&key, at(host), now) {
                        holders.remove(&at(host));
                    }
                }
                4 => {
                    if leases.release(&key, at(host)) {
                        holders.remove(&at(host));
                    }
                }
                _ => leases.withdraw_offer(&key),
            }
            prop_assert!(leases.by_address.len() <= 9);
        }
    }
}
