//! The tables of docs/conformance.md, docs/faults.md and docs/security.md name tests that exist.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Words between backquotes that are sentences, as the names of tests are: four of them at least.
fn sentences(page: &str) -> BTreeSet<&str> {
    let is_sentence = |word: &&str| {
        word.matches('_').count() >= 4
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    page.split('`').skip(1).step_by(2).filter(is_sentence).collect()
}

/// Every file of tests, and of the source, where some are beside the code; by its path below the root.
fn all_texts(root: &Path) -> Vec<(PathBuf, String)> {
    let mut pending = vec![root.join("tests"), root.join("src")];
    let mut texts = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            texts.push((path.strip_prefix(root).unwrap().to_owned(), text));
        }
    }
    texts
}

#[test]
fn every_test_that_the_pages_of_faults_and_of_security_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = all_texts(root);
    let mut count = 0;
    for page in ["docs/faults.md", "docs/security.md", "docs/testing.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        for name in sentences(&text) {
            count += 1;
            assert!(
                texts.iter().any(|(_, text)| text.contains(&format!("fn {name}("))
                    || text.contains(&format!("\"{name}\""))),
                "{page}: no test {name}"
            );
        }
    }
    assert!(count > 30, "{count} names");
    assert_eq!(sentences("`a_b_c_d_e` and `a_b` or `A_B_C_D_E`, a_b_c_d_f"), ["a_b_c_d_e"].into());
}

/// The reasons for which something is dropped, by their names in the source.
fn drop_reasons(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("src/stack/drop_reason.rs")).unwrap();
    let (_, rest) = text.split_once("pub enum DropReason {").unwrap();
    let (variants, _) = rest.split_once("\n}").unwrap();
    let names = variants.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    names.map(|line| line.split(['(', ',']).next().unwrap().to_owned()).collect()
}

/// As it is shown: `FlowLimit` is `flow_limit`.
fn shown(name: &str) -> String {
    let mut shown = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !shown.is_empty() {
            shown.push('_');
        }
        shown.extend(letter.to_lowercase());
    }
    shown
}

#[test]
fn every_reason_for_which_something_is_dropped_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut program, mut tests) = (String::new(), String::new());
    for (path, text) in all_texts(root) {
        if path.components().any(|part| ["tests", "tests.rs"].map(OsStr::new).contains(&part.as_os_str())) {
            tests += &text;
        } else if !path.starts_with("src/stack/drop_reason") && path != Path::new("src/stack/drop_reason.rs")
        {
            let (code, own) = text.split_once("\nmod tests {").unwrap_or((&text, ""));
            program += code;
            tests += own;
        }
    }
    let reasons = drop_reasons(root);
    assert!(reasons.len() > 50, "{}", reasons.len());
    for reason in reasons {
        let name = format!("DropReason::{reason}");
        assert!(program.contains(&name), "{reason} is never given");
        assert!(
            tests.contains(&name) || tests.contains(&format!("\"{}\"", shown(&reason))),
            "no test of {reason}"
        );
    }
    assert_eq!(shown("FlowLimit"), "flow_limit");
}
