//! Tests of the flow table, sentences of its behaviour.

use super::*;

fn key(port: u16) -> FlowKey {
    FlowKey {
        protocol: FlowProtocol::Udp,
        container: SocketAddr::from(([10, 0, 2, 100], port)),
        remote: SocketAddr::from(([203, 0, 113, 2], 53)),
    }
}

fn at(seconds: i64) -> Instant {
    Instant::from_secs(seconds)
}

fn side() -> HostSide {
    let peer = SocketAddr::from(([203, 0, 113, 2], 53));
    HostSide { peer, way: Way::Masquerade, rule: RuleMark::NONE, audit: AuditMark::NONE }
}

#[test]
fn a_vacated_slot_does_not_answer_to_its_old_name() {
    let mut table = FlowTable::new(4, [1, 2, 3, 4]);
    let first = table.insert(key(1), side(), at(0), "first");
    assert_eq!(table.remove(first), Some("first"));
    let second = table.insert(key(2), side(), at(0), "second");
    assert_eq!(second.slot, first.slot);
    assert_eq!(table.get(first), None);
    assert_eq!(table.remove(first), None);
    assert_eq!(table.find(&key(1)), None);
    assert_eq!(table.find(&key(2)), Some(second));
}

#[test]
fn the_least_recently_used_flow_is_given_up_first() {
    let mut table = FlowTable::new(3, [1, 2, 3, 4]);
    let a = table.insert(key(1), side(), at(0), ());
    let b = table.insert(key(2), side(), at(1), ());
    let c = table.insert(key(3), side(), at(2), ());
    assert!(table.is_full_of(FlowProtocol::Udp));
    table.touch(a, at(3));
    let idle = Duration::from_secs(10);
    assert_eq!(
        table.eviction_candidate(FlowProtocol::Udp, at(4), idle),
        None,
        "nobody has been silent for ten seconds"
    );
    assert_eq!(table.eviction_candidate(FlowProtocol::Udp, at(11), idle), Some(b));
    table.remove(b);
    assert_eq!(table.eviction_candidate(FlowProtocol::Udp, at(12), idle), Some(c));
    table.touch(c, at(12));
    assert_eq!(table.eviction_candidate(FlowProtocol::Udp, at(13), idle), Some(a));
}

#[test]
fn the_age_list_survives_any_order_of_removal() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut table = FlowTable::new(3, [1, 2, 3, 4]);
        let ids: Vec<_> = (0..3).map(|i| table.insert(key(i), side(), at(i64::from(i)), i)).collect();
        for (step, &which) in order.iter().enumerate() {
            table.remove(ids[which]);
            let left = order[step + 1..].iter().min().map(|&i| ids[i]);
            assert_eq!(table.eviction_candidate(FlowProtocol::Udp, at(100), Duration::from_secs(1)), left);
        }
        assert!(table.is_empty());
    }
}

#[test]
fn neither_kind_takes_the_last_eighth_nor_makes_the_other_give_way_for_more() {
    let of = |protocol, port| FlowKey { protocol, ..key(port) };
    for (many, few) in [(FlowProtocol::Udp, FlowProtocol::Tcp), (FlowProtocol::Tcp, FlowProtocol::Echo)] {
        let mut table = FlowTable::new(16, [1, 2, 3, 4]);
        let resting = table.insert(of(few, 1), side(), at(0), ());
        let mut first = None;
        for port in 2..16 {
            assert!(!table.is_full_of(many));
            first = first.or(Some(table.insert(of(many, port), side(), at(10), ())));
        }
        assert!(table.is_full_of(many) && !table.is_full_of(few));
        let idle = Duration::from_secs(1);
        assert_eq!(table.eviction_candidate(many, at(99), idle), first, "one of its own");
        assert_eq!(table.eviction_candidate(few, at(99), idle), Some(resting), "the oldest of all");
        table.insert(of(few, 20), side(), at(20), ());
        assert!(table.is_full_of(few) && table.is_sound());
        table.touch(resting, at(50));
        assert_eq!(table.eviction_candidate(few, at(99), idle), first);
        assert!(table.is_sound());
    }
}
