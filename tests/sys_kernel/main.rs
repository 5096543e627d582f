//! `netferry::sys` against the real kernel, in namespaces of its own: works as root and as an ordinary user,
//! and nothing leaves the machine.
//!
//! The kernel lets only a process of one thread join or make a user namespace, and forking is safe only there;
//! the usual harness has threads. So every case is this program again, with the case's name in the environment.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test fails by panicking, and may look at the clock.

use std::process::{Command, ExitCode};

mod children;
mod container;
mod entering;
mod identities;
mod inner_socket;
mod mounts;
mod network;
mod sandbox;
mod seccomp;
mod tap;

/// Tells the program which case it is to be.
const CASE: &str = "NETFERRY_SYS_KERNEL_CASE";

/// Name and body of a case.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    let cases: Vec<Case> = [
        tap::CASES,
        network::CASES,
        identities::CASES,
        inner_socket::CASES,
        entering::CASES,
        mounts::CASES,
        children::CASES,
        sandbox::CASES,
        seccomp::CASES,
    ]
    .concat();
    if let Ok(wanted) = std::env::var(CASE) {
        let (_, body) = cases.iter().find(|(name, _)| *name == wanted).unwrap();
        body();
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, _) in cases.iter().filter(|(name, _)| chosen(name)) {
        let output = Command::new(std::env::current_exe().unwrap()).env(CASE, name).output().unwrap();
        let verdict = if output.status.success() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict}");
        if output.status.success() {
            passed += 1;
        } else {
            failed.push(name);
            println!("{}", String::from_utf8_lossy(&output.stdout));
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    println!("\ntest result: {passed} passed; {} failed\n", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
