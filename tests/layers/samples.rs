//! Each rule on samples that break it, and on their lawful neighbors.

use super::*;
use rstest::rstest;

fn check(rule: fn(&SourceFile) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
    rule(&SourceFile::new(path, text))
}

#[rstest]
#[case("wire/ip.rs", "use crate::config::Limits;", "src/wire/ip.rs:1: `wire` may not name `config::Limits`")]
#[case("config/mod.rs", "\nuse crate::wire::ip;", "src/config/mod.rs:2: `config` may not name `wire::ip`")]
#[case(
    "config/mod.rs",
    "use crate::wire::{MacAddr, ip::Packet};",
    "src/config/mod.rs:1: `config` may not name `wire::ip::Packet`"
)]
#[case("config/mod.rs", "use crate::wire::*;", "src/config/mod.rs:1: `config` may not name `wire::*`")]
#[case(
    "config/mod.rs",
    "use crate::wire::MacAddress;",
    "src/config/mod.rs:1: `config` may not name `wire::MacAddress`"
)]
#[case(
    "stack/flow.rs",
    "use crate::{config::{Limits as L, Config}, worker::{self}};",
    "src/stack/flow.rs:1: `stack` may not name `worker`"
)]
#[case(
    "stack/flow.rs",
    "fn f() { crate::sys::tap::open(); }",
    "src/stack/flow.rs:1: `stack` may not name `sys::tap::open`"
)]
#[case(
    "stack/flow.rs",
    "fn f(a: Vec<crate::worker::Token>) {}",
    "src/stack/flow.rs:1: `stack` may not name `worker::Token`"
)]
#[case(
    "stack/flow.rs",
    "use super::super::worker::Token;",
    "src/stack/flow.rs:1: `stack` may not name `worker::Token`"
)]
#[case("stack/mod.rs", "use super::sys;", "src/stack/mod.rs:1: `stack` may not name `sys`")]
#[case(
    "stack/flow.rs",
    "mod inner { use super::super::super::sys::tap; }",
    "src/stack/flow.rs:1: `stack` may not name `sys::tap`"
)]
#[case(
    "stack/flow.rs",
    "pub(in crate::worker) fn f() {}",
    "src/stack/flow.rs:1: `stack` may not name `worker`"
)]
#[case("stack/flow.rs", "use crate as all;", "src/stack/flow.rs:1: `stack` may not name `crate`")]
#[case("stack/flow.rs", "use crate::*;", "src/stack/flow.rs:1: `stack` may not name `*`")]
#[case(
    "observe/log.rs",
    "use crate::stack::boundary::FlowId;",
    "src/observe/log.rs:1: `observe` may not name `stack::boundary::FlowId`"
)]
#[case("sys/tap.rs", "use crate::wire::MacAddr;", "src/sys/tap.rs:1: `sys` may not name `wire::MacAddr`")]
#[case("cli/mod.rs", "use crate::sys::tap;", "src/cli/mod.rs:1: `cli` may not name `sys::tap`")]
#[case("main.rs", "use netferry::{cli, sys::tap};", "src/main.rs:1: `main` may not name `sys::tap`")]
#[case("brand_new.rs", "use crate::wire;", "src/brand_new.rs:1: `brand_new` may not name `wire`")]
#[case(
    "wire/ip.rs",
    "#[cfg(test)] mod tests { use crate::stack::Stack; }",
    "src/wire/ip.rs:1: `wire` may not name `stack::Stack`"
)]
fn import_that_points_up_is_found(#[case] path: &str, #[case] text: &str, #[case] expected: &str) {
    assert_eq!(check(check_imports, path, text), [expected]);
}

#[rstest]
#[case("wire/ip.rs", "use crate::wire::frame; use super::frame::Frame; use super::*;")]
#[case(
    "wire/ip.rs",
    "// use crate::stack::Stack;\n/* crate::sys /* crate::run */ crate::sys */ const A: &str = \"crate::sys\";"
)]
#[case(
    "wire/ip.rs",
    "const A: &str = r#\"\" crate::sys\"#; const B: char = '\"'; const C: &[u8] = b\"\\\" crate::sys\";"
)]
#[case("wire/ip.rs", "pub(crate) fn f<'a>(a: &'a str) -> &'a str { a }")]
#[case("wire/ip.rs", "mod tests { use super::super::frame; }")]
#[case(
    "config/address/tests.rs",
    "use super::super::Limits; use crate::wire::MacAddr; fn f() { crate::wire::MacAddr::BROADCAST; }"
)]
#[case("observe/metrics.rs", "use crate::stack::stats::{self, Stats};")]
#[case("worker/mod.rs", "use crate::{config, observe, stack::{self, boundary::*}, sys, wire};")]
#[case("run.rs", "use crate::worker; use super::sys;")]
#[case("lib.rs", "pub use crate::worker::Worker;")]
#[case("main.rs", "use netferry::{cli, run::run};")]
fn import_that_points_down_is_let_be(#[case] path: &str, #[case] text: &str) {
    assert_eq!(check(check_imports, path, text), Vec::<String>::new());
}

#[rstest]
#[case("stack/flow.rs", "// SAFETY: no.\nunsafe { f() };", "src/stack/flow.rs:2: `unsafe` outside src/sys")]
#[case("run.rs", "unsafe fn f() {}", "src/run.rs:1: `unsafe` outside src/sys")]
#[case("run.rs", "#[allow(unsafe_code)] fn f() {}", "src/run.rs:1: `unsafe` outside src/sys")]
#[case("sys/tap.rs", "fn f() { unsafe { g() } }", "src/sys/tap.rs:1: `unsafe` without `// SAFETY:` above it")]
#[case(
    "sys/tap.rs",
    "// SAFETY: of f.\nfn f() { unsafe { g() } }",
    "src/sys/tap.rs:2: `unsafe` without `// SAFETY:` above it"
)]
#[case(
    "sys/tap.rs",
    "// SAFETY: one.\nunsafe { g() };\nunsafe { h() };",
    "src/sys/tap.rs:3: `unsafe` without `// SAFETY:` above it"
)]
#[case(
    "sys/tap.rs",
    "let a = \"// SAFETY: a text\" == unsafe { g() };",
    "src/sys/tap.rs:1: `unsafe` without `// SAFETY:` above it"
)]
#[case(
    "sys/tap.rs",
    "// It is safe.\nunsafe impl Send for Tap {}",
    "src/sys/tap.rs:2: `unsafe` without `// SAFETY:` above it"
)]
fn unsafe_out_of_place_or_unexplained_is_found(
    #[case] path: &str,
    #[case] text: &str,
    #[case] expected: &str,
) {
    assert_eq!(check(check_unsafe, path, text), [expected]);
}

#[rstest]
#[case("stack/flow.rs", "#![deny(unsafe_code)] // nothing unsafe here\nconst A: &str = \"unsafe\";")]
#[case("sys/mod.rs", "#![allow(unsafe_code)]")]
#[case("sys/tap.rs", "fn f() {\n    // SAFETY: g has no demands.\n    unsafe { g() }\n}")]
#[case(
    "sys/tap.rs",
    "// SAFETY: g has no demands,\n// and never will.\nlet a: [u8; 4] =\n    check(b(), unsafe { g() });"
)]
#[case("sys/tap.rs", "let a = f(\n    // SAFETY: g has no demands.\n    unsafe { g() },\n);")]
#[case("sys/tap.rs", "// SAFETY: owned.\nunsafe impl Send for Tap {}")]
#[case("sys/tap.rs", "extern \"C\" fn f(a: unsafe fn()) {}")]
fn explained_unsafe_in_its_place_is_let_be(#[case] path: &str, #[case] text: &str) {
    assert_eq!(check(check_unsafe, path, text), Vec::<String>::new());
}

#[rstest]
#[case(
    "run.rs",
    "fn f() {\n    g()\n        .unwrap();\n}",
    "src/run.rs:3: `unwrap` outside tests; `expect` states the invariant"
)]
#[case(
    "run.rs",
    "#[cfg(test)]\nmod tests { fn f() { g().unwrap(); } }\nfn h() { g().unwrap(); }",
    "src/run.rs:3: `unwrap` outside tests; `expect` states the invariant"
)]
#[case(
    "run.rs",
    "#[cfg(test)]\nmod tests;\nfn h() { g().unwrap(); }",
    "src/run.rs:3: `unwrap` outside tests; `expect` states the invariant"
)]
fn unwrap_is_found(#[case] path: &str, #[case] text: &str, #[case] expected: &str) {
    assert_eq!(check(check_unwrap, path, text), [expected]);
}

#[rstest]
#[case("run.rs", "#[cfg(test)]\nmod tests { #[test] fn f() { g().unwrap(); { h().unwrap() } } }")]
#[case("run.rs", "#[cfg(test)] #[derive(Debug)] fn f(a: [u8; 4]) { g().unwrap(); }")]
#[case("stack/tcp/tests.rs", "fn f() { g().unwrap(); }")]
#[case("run.rs", "fn f() { g().unwrap_or(1); h().unwrap_or_default(); }\n/// `a.unwrap()`\nfn i() {}")]
fn unwrap_in_tests_is_let_be(#[case] path: &str, #[case] text: &str) {
    assert_eq!(check(check_unwrap, path, text), Vec::<String>::new());
}

#[test]
fn file_without_an_opening_is_found() {
    assert_eq!(
        check(check_opening, "run.rs", "use std::fs;\n//! Late."),
        ["src/run.rs:1: does not open with `//!`"]
    );
    assert_eq!(check(check_opening, "run.rs", "//! Says.\n"), Vec::<String>::new());
}
