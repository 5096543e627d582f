//! Large bodies in both directions, checked byte for byte by checksum.
//!
//! `NETFERRY_TRANSFER_MIB` sets the size; 1024 for the figures by hand.

use std::env;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::ground::{Ground, PYTHON, SCRATCH, WORLD4, WORLD6, sealed};
use crate::pattern::crc_of_body;
use crate::process::{Outcome, start};
use crate::servers::{http, write_body};

const LIMIT: Duration = Duration::from_secs(90);

fn body_bytes() -> u64 {
    env::var("NETFERRY_TRANSFER_MIB").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(64) << 20
}

/// Counts and checks what comes on standard input, as fast as python can.
const CHECK: &str = "\
import sys, zlib
crc = size = 0
while block := sys.stdin.buffer.read1(1 << 20):
    crc = zlib.crc32(block, crc); size += len(block)
print(size, '%08x' % crc)";

fn finish(ground: &Ground, arguments: &[&str], rate_of: &str) -> Outcome {
    let outcome = start(ground.netferry(arguments)).finish(LIMIT).expect_success();
    let megabytes = body_bytes() as f64 / 1e6;
    println!("{rate_of}: {megabytes:.0} MB in {:.2} s", outcome.took.as_secs_f64());
    outcome
}

fn download(ground: &Ground, world: impl Into<IpAddr>, options: &[&str]) {
    let world = world.into();
    ground.needs(&["curl"]);
    let len = body_bytes();
    http(ground.world_listener(world, 8080));
    let url = format!("http://{}/bytes/{len}", std::net::SocketAddr::new(world, 8080));
    let script = format!("curl -sS --max-time 80 {url} | {PYTHON} -c \"$CHECK\"");
    let check = format!("CHECK={CHECK}");
    let command = [&["run"], options, &["--", "env", &check, "sh", "-c", &script]].concat();
    let outcome = finish(ground, &command, "download");
    assert_eq!(outcome.stdout, format!("{len} {:08x}\n", crc_of_body(len)));
}

fn upload(ground: &Ground, world: impl Into<IpAddr>, options: &[&str]) {
    let world = world.into();
    ground.needs(&["curl"]);
    let len = body_bytes();
    http(ground.world_listener(world, 8080));
    let file = Path::new(SCRATCH).join("body");
    write_body(std::fs::File::create(&file).unwrap(), len).unwrap();
    let url = format!("http://{}/upload", std::net::SocketAddr::new(world, 8080));
    let file = file.to_str().unwrap();
    let command = [&["run"], options, &["--", "curl", "-sS", "--max-time", "80", "-T", file, &url]].concat();
    let outcome = finish(ground, &command, "upload");
    assert_eq!(outcome.stdout, format!("{len} {:08x}\n", crc_of_body(len)));
}

#[test]
fn a_download_over_ipv4_arrives_whole_at_mtu_1500() {
    sealed(|ground| download(ground, WORLD4, &["--mtu", "1500"]));
}

#[test]
fn a_download_over_ipv6_arrives_whole_at_mtu_1500() {
    sealed(|ground| download(ground, WORLD6, &["--mtu", "1500"]));
}

#[test]
fn a_download_over_ipv4_arrives_whole_at_mtu_65520() {
    sealed(|ground| download(ground, WORLD4, &["--mtu", "65520"]));
}

#[test]
fn a_download_over_ipv6_arrives_whole_at_mtu_65520() {
    sealed(|ground| download(ground, WORLD6, &["--mtu", "65520"]));
}

#[test]
fn an_upload_over_ipv4_arrives_whole_at_mtu_1500() {
    sealed(|ground| upload(ground, WORLD4, &["--mtu", "1500"]));
}

#[test]
fn an_upload_over_ipv6_arrives_whole_at_mtu_1500() {
    sealed(|ground| upload(ground, WORLD6, &["--mtu", "1500"]));
}

#[test]
fn an_upload_over_ipv4_arrives_whole_at_mtu_65520() {
    sealed(|ground| upload(ground, WORLD4, &["--mtu", "65520"]));
}

#[test]
fn an_upload_over_ipv6_arrives_whole_at_mtu_65520() {
    sealed(|ground| upload(ground, WORLD6, &["--mtu", "65520"]));
}

#[test]
fn a_download_arrives_whole_without_offloads() {
    sealed(|ground| download(ground, WORLD4, &["--no-offload"]));
}

#[test]
fn an_upload_arrives_whole_without_offloads() {
    sealed(|ground| upload(ground, WORLD6, &["--no-offload"]));
}
