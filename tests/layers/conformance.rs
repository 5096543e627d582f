//! The table of docs/conformance.md names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Tests as the page names them: `sim/cases/file.rs::function`, below `tests`, or with `src/` before it.
fn named_tests(page: &str) -> BTreeSet<(String, String)> {
    let mut named = BTreeSet::new();
    for quoted in page.split('`').skip(1).step_by(2) {
        if let Some((file, function)) = quoted.split_once(".rs::") {
            named.insert((format!("{file}.rs"), function.to_owned()));
        }
    }
    named
}

/// What is wrong with the name of a test.
fn check_name(root: &Path, file: &str, function: &str) -> Option<String> {
    let below = if file.starts_with("src/") { root.to_path_buf() } else { root.join("tests") };
    let Ok(text) = fs::read_to_string(below.join(file)) else {
        return Some(format!("there is no file {file}"));
    };
    // A generated test has its attributes and its signature all the same.
    let has_test = text.contains(&format!("fn {function}("));
    (!has_test).then(|| format!("{file} has no test {function}"))
}

#[test]
fn every_test_of_the_conformance_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let missing: Vec<_> =
        named_tests(&page).iter().filter_map(|(file, function)| check_name(root, file, function)).collect();
    assert!(missing.is_empty(), "docs/conformance.md: {missing:#?}");
}

#[test]
fn a_test_that_does_not_exist_is_found_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page =
        "| x | `layers/main.rs::imports_point_down_only`, `layers/main.rs::nobody` | `gone.rs::nothing` |";
    let named = named_tests(page);
    assert_eq!(named.len(), 3);
    let missing: Vec<_> = named.iter().filter_map(|(file, name)| check_name(root, file, name)).collect();
    assert_eq!(missing, ["there is no file gone.rs", "layers/main.rs has no test nobody"]);
}
