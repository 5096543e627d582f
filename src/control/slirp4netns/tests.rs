//! Requests of real clients, and of hostile ones. The error objects are those the original answered with.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn ask(request: &str) -> String {
    answer(request.as_bytes(), &LinkConfig::default(), |request| panic!("carried out: {request:?}"))
}

fn asked(request: &str) -> Request {
    decode(request.as_bytes(), &LinkConfig::default()).unwrap_or_else(|refusal| panic!("{refusal}")).1
}

fn rule(host: &str, port: u16, guest: Option<&str>, guest_port: u16) -> PublishRule {
    PublishRule {
        protocol: PortProtocol::Tcp,
        host_address: host.parse().unwrap(),
        host_port: port,
        interface: None,
        container_address: guest.map(|guest| guest.parse().unwrap()),
        container_port: guest_port,
    }
}

#[rstest]
#[case::of_podman(
    "{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\",\"host_port\":18080,\
     \"guest_addr\":\"\",\"guest_port\":8080}}\n",
    rule("0.0.0.0", 18080, None, 8080)
)]
#[case::of_rootlesskit(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}}"#,
    rule("127.0.0.1", 8080, Some("10.0.2.100"), 80)
)]
#[case::without_addresses(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":1,"guest_port":65535}}"#,
    rule("0.0.0.0", 1, None, 65535)
)]
#[case::version_6(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"::1","host_port":8080,"guest_port":80}}"#,
    rule("::1", 8080, None, 80)
)]
#[case::for_whatever_address_it_has(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_addr":"0.0.0.0","guest_port":80}}"#,
    rule("0.0.0.0", 8080, None, 80)
)]
#[case::with_nulls(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":null,"host_port":8080.0,"host_port_end":null,"guest_addr":null,"guest_port":80}}"#,
    rule("0.0.0.0", 8080, None, 80)
)]
#[case::something_behind_it(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_port":80}}{}"#,
    rule("0.0.0.0", 8080, None, 80)
)]
fn ports_are_published_as_asked(#[case] request: &str, #[case] expected: PublishRule) {
    assert_eq!(asked(request), Request::Publish(vec![expected]));
}

#[rstest]
#[case(r#"{"execute":"list_hostfwd"}"#)]
#[case(r#"{"execute":"list_hostfwd","arguments":null}"#)]
#[case(r#"{"execute":"list_hostfwd","arguments":[7]}"#)]
fn listing_takes_no_arguments_whatever_they_are(#[case] request: &str) {
    assert_eq!(asked(request), Request::List);
}

#[test]
fn range_is_published_port_by_port() {
    let text = r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8000,"host_port_end":8002,"guest_port":80}}"#;
    let ports = (0..3).map(|offset| rule("0.0.0.0", 8000 + offset, None, 80 + offset)).collect();
    assert_eq!(asked(text), Request::Publish(ports));
    let reply = answer(text.as_bytes(), &LinkConfig::default(), |_| {
        Reply::Published(vec![ListenerId(4), ListenerId(5), ListenerId(6)])
    });
    assert_eq!(reply, r#"{"return":{"id":4,"ids":[4,5,6]}}"#);
}

#[rstest]
#[case("", "cannot parse JSON")]
#[case("nonsense", "cannot parse JSON")]
#[case("{\"execute\":", "cannot parse JSON")]
#[case("[]", "json_object() failed")]
#[case("{}", "no execute found")]
#[case(r#"{"execute":3}"#, "no execute found")]
#[case(r#"{"execute":"bogus"}"#, "unknown execute")]
#[case(r#"{"execute":"add_hostfwd"}"#, "add_hostfwd: bad arguments.proto")]
#[case(r#"{"execute":"add_hostfwd","arguments":7}"#, "arguments is not an object")]
#[case(r#"{"execute":"add_hostfwd","arguments":null}"#, "add_hostfwd: bad arguments.proto")]
#[case(r#"{"execute":"bogus","arguments":7}"#, "unknown execute")]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":80.5,"guest_port":80}}"#,
    "add_hostfwd: bad arguments.host_port"
)]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":-1,"guest_port":80}}"#,
    "add_hostfwd: bad arguments.host_port"
)]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":7,"host_port":80,"guest_port":80}}"#,
    "add_hostfwd: bad arguments.host_addr"
)]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"sctp"}}"#, "add_hostfwd: bad arguments.proto")]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp"}}"#, "add_hostfwd: bad arguments.host_port")]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":0}}"#,
    "add_hostfwd: bad arguments.host_port"
)]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":70000}}"#,
    "add_hostfwd: bad arguments.host_port"
)]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":"80"}}"#,
    "add_hostfwd: bad arguments.host_port"
)]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":80}}"#,
    "add_hostfwd: bad arguments.guest_port"
)]
#[case(
    r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"x","host_port":80,"guest_port":80}}"#,
    "add_hostfwd: bad arguments.host_addr"
)]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","guest_addr":"x","host_port":80,"guest_port":80}}"#, "add_hostfwd: bad arguments.guest_addr")]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","guest_addr":"::1","host_port":80,"guest_port":80}}"#, "add_hostfwd: bad arguments.guest_addr: not of the family of host_addr")]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":80,"host_port_end":79,"guest_port":80}}"#, "add_hostfwd: bad arguments.host_port_end: not a range of at most 1024 ports on both sides")]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":80,"host_port_end":90,"guest_port":65530}}"#, "add_hostfwd: bad arguments.host_port_end: not a range of at most 1024 ports on both sides")]
#[case(r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":1,"host_port_end":1025,"guest_port":1}}"#, "add_hostfwd: bad arguments.host_port_end: not a range of at most 1024 ports on both sides")]
#[case(r#"{"execute":"remove_hostfwd"}"#, "remove_hostfwd: bad arguments.id")]
#[case(r#"{"execute":"remove_hostfwd","arguments":{"id":"1"}}"#, "remove_hostfwd: bad arguments.id")]
#[case(r#"{"execute":"remove_hostfwd","arguments":{"id":-1}}"#, "remove_hostfwd: bad arguments.id")]
fn bad_requests_are_told_in_the_words_of_the_original(#[case] request: &str, #[case] refusal: &str) {
    assert_eq!(ask(request), format!(r#"{{"error":{{"desc":"bad request: {refusal}"}}}}"#));
}

#[test]
fn family_that_the_network_has_not_is_refused_as_by_the_original() {
    let link = LinkConfig { ipv6: None, ..LinkConfig::default() };
    let request = r#"{"execute":"add_hostfwd","arguments":{"proto":"udp","host_addr":"::1","host_port":80,"guest_port":80}}"#;
    let refusal = decode(request.as_bytes(), &link).unwrap_err();
    assert!(refusal.starts_with("add_hostfwd: bad arguments.host_addr"), "{refusal}");
}

#[test]
fn replies_are_those_of_the_original() {
    let link = LinkConfig::default();
    let add = br#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_port":80}}"#;
    let added = answer(add, &link, |_| Reply::Published(vec![ListenerId(42)]));
    assert_eq!(added, r#"{"return":{"id":42}}"#);
    let refused = answer(add, &link, |_| Reply::Refused("the port is in use".to_owned()));
    let expected = "bad request: add_hostfwd: slirp_add_hostfwd failed: the port is in use";
    assert_eq!(refused, format!(r#"{{"error":{{"desc":"{expected}"}}}}"#));
    let remove = br#"{"execute":"remove_hostfwd","arguments":{"id":42}}"#;
    let removed = |request| {
        assert_eq!(request, Request::Unpublish(ListenerId(42)));
        Reply::Unpublished
    };
    assert_eq!(answer(remove, &link, removed), r#"{"return":{}}"#);
    let unknown = answer(remove, &link, |_| Reply::NoSuchPort);
    assert_eq!(unknown, r#"{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#);
    let listed = |_| Reply::Listed(vec![(ListenerId(42), rule("0.0.0.0", 8080, None, 80))]);
    let listed: Value =
        serde_json::from_str(&answer(br#"{"execute":"list_hostfwd"}"#, &link, listed)).unwrap();
    let entry = json!({
        "id": 42, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080, "guest_addr": "10.0.2.100", "guest_port": 80
    });
    assert_eq!(listed, json!({ "return": { "entries": [entry] }, "entries": [entry] }));
}

proptest! {
    #[test]
    fn whatever_is_asked_gets_one_json_object(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = answer(&bytes, &LinkConfig::default(), |_| Reply::Unpublished);
        prop_assert!(serde_json::from_str::<Value>(&text).unwrap().is_object());
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_the_end(depth in 1_usize..4_000) {
        let text = ask(&"[".repeat(depth));
        prop_assert!(text.contains("cannot parse JSON"), "{text}");
    }
}
