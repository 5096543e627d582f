//! What comes from elsewhere: every direct dependency is in docs/dependencies.md with its reason, and everything in the
//! lock file keeps to the lists of deny.toml.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names in the tables of dependencies of Cargo.toml.
fn direct(manifest: &str) -> Vec<&str> {
    let mut is_inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            is_inside = table.trim_end_matches(']').ends_with("dependencies");
        } else if let (true, Some((name, _))) = (is_inside, line.split_once('=')) {
            names.push(name.trim());
        }
    }
    names.retain(|name| !name.starts_with('#'));
    names.sort_unstable();
    names.dedup();
    names
}

/// The words in quotes of the list `key = [...]` of deny.toml, up to its end.
fn listed<'a>(deny: &'a str, key: &str) -> Vec<&'a str> {
    let (_, list) = deny.split_once(&format!("\n{key} = [")).unwrap_or_else(|| panic!("no list {key}"));
    let (list, _) = list.split_once(']').unwrap();
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether one of the alternatives of `expression` (SPDX, or two names and a slash) asks for nothing but what is allowed.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    let (all, rest) =
        plain.split_once(" AND ").map_or((plain.as_str(), None), |(all, rest)| (all, Some(rest)));
    let any = all.split(" OR ").any(|license| allowed.contains(&license.trim()));
    any && rest.is_none_or(|rest| is_allowed(rest, allowed))
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let (manifest, page) = (text("Cargo.toml"), text("docs/dependencies.md"));
    let names = direct(&manifest);
    assert!(names.contains(&"libc") && names.contains(&"proptest"), "{names:?}");
    let mut told: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    told.sort_unstable();
    assert_eq!(told, names, "docs/dependencies.md is to name each, once");
}

#[test]
fn everything_keeps_to_the_lists_of_deny() {
    let deny = text("deny.toml");
    let allowed = listed(&deny, "allow");
    let skipped: Vec<&str> = deny
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \"")?.split_once('"'))
        .map(|(name, _)| name)
        .collect();
    assert!(allowed.contains(&"MIT") && skipped.contains(&"openssl-sys"));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let (name, version) = (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        if name == "netferry" {
            continue;
        }
        let source = package["source"].as_str().unwrap_or("a path");
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
        let license = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(license, &allowed), "{name} {version} is under {license}");
        versions.entry(name).or_default().push(version);
    }
    assert!(versions.len() > 50, "{versions:?}");
    // What other systems need is in the lock file as well, so that a name alone is no more than a hint there.
    for (name, several) in versions.iter().filter(|(_, several)| several.len() > 1) {
        let is_skipped = skipped.iter().any(|skip| skip.split('@').next() == Some(name));
        assert!(is_skipped, "{name} is there in several versions: {several:?}");
    }
}

#[test]
fn a_licence_that_is_not_listed_is_found() {
    let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
    for expression in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(is_allowed(expression, &allowed), "{expression}");
    }
    for expression in ["GPL-3.0", "MIT AND GPL-3.0", "none", "MPL-2.0 OR LGPL-3.0"] {
        assert!(!is_allowed(expression, &allowed), "{expression}");
    }
}
