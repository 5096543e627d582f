//! HTTP by curl, from servers in the world.

use std::net::IpAddr;

use crate::ground::{FAR4, FAR6, WORLD4, WORLDS, sealed};
use crate::process::run;
use crate::servers::http;

fn url(address: impl Into<IpAddr>) -> String {
    match address.into() {
        IpAddr::V4(v4) => format!("http://{v4}:8080/"),
        IpAddr::V6(v6) => format!("http://[{v6}]:8080/"),
    }
}

#[test]
fn curl_fetches_a_page_over_ipv4_and_ipv6() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        for world in WORLDS {
            http(ground.world_listener(world, 8080));
            let page = run(ground.netferry(&["run", "--", "curl", "-sS", "--max-time", "10", &url(world)]));
            // The world sees the host, never the container.
            let host = if world.is_ipv4() { "hello 203.0.113.1\n" } else { "hello 2001:db8:1::1\n" };
            assert_eq!(page.expect_success().stdout, host);
        }
    });
}

#[test]
fn curl_fetches_a_page_from_beyond_the_default_route() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        for world in [IpAddr::V4(FAR4), IpAddr::V6(FAR6)] {
            http(ground.world_listener(world, 8080));
            let page = run(ground.netferry(&["run", "--", "curl", "-sS", "--max-time", "10", &url(world)]));
            page.expect_success().expect_stdout("hello ");
        }
    });
}

#[test]
fn curl_finds_a_server_by_name() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        ground.world_resolver(WORLD4, "first");
        for (option, world) in ["-4", "-6"].into_iter().zip(WORLDS) {
            http(ground.world_listener(world, 8080));
            let arguments = ["run", "--", "curl", "-sS", option, "--max-time", "10", "http://www.test:8080/"];
            run(ground.netferry(&arguments)).expect_success().expect_stdout("hello ");
        }
    });
}

#[test]
fn many_pages_can_be_fetched_one_after_the_other() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        let loop_of_fifty = format!(
            "i=0; while [ $i -lt 50 ]; do curl -sS --max-time 10 {} || exit 1; i=$((i+1)); done",
            url(WORLD4)
        );
        let pages = run(ground.netferry(&["run", "--", "sh", "-c", &loop_of_fifty])).expect_success();
        assert_eq!(pages.stdout.matches("hello").count(), 50);
    });
}
