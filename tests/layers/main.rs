//! The shape of the source, held by reading it: imports point down only, `unsafe` stays in `src/sys` and is
//! explained, every file says what it is, and nothing outside tests unwraps.
//!
//! The source is split into words and comments (texts and characters are blanked), and each rule looks at those. Each
//! rule also has a test on a sample that breaks it, so that a rule that no longer sees anything fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod clocks;
mod conformance;
mod dependencies;
mod samples;
mod source;

use source::{SourceFile, source_files};

/// What each layer may name of the others, by the beginning of the path below `crate`. A layer may always name
/// itself. `run`, `main` and `lib` stand above all layers; a layer that is missing here may name nothing.
const IMPORTS: [(&str, &[&str]); 8] = [
    ("wire", &[]),
    ("config", &["wire::MacAddr"]),
    ("stack", &["wire", "config"]),
    ("control", &["config", "stack::boundary", "sys::descriptor", "sys::user"]),
    ("observe", &["wire", "stack::stats", "sys::outlet"]),
    ("worker", &["stack", "control", "observe", "config", "wire", "sys"]),
    ("sys", &[]),
    ("cli", &["config", "wire::MacAddr"]),
];

/// Files that see every layer.
const TOP: [&str; 2] = ["run", "lib"];

/// What the program itself names of the library.
const MAIN_IMPORTS: [&str; 2] = ["cli", "run"];

#[test]
fn imports_point_down_only() {
    assert_holds(check_imports);
}

#[test]
fn unsafe_is_only_in_sys_and_is_explained() {
    assert_holds(check_unsafe);
}

#[test]
fn nothing_outside_tests_unwraps() {
    assert_holds(check_unwrap);
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    assert_holds(check_opening);
}

#[test]
fn every_layer_of_the_table_is_known_to_the_scanner() {
    // The table is of use only while the walk over the source finds files.
    let files = source_files();
    for layer in ["wire", "config", "stack"] {
        assert!(files.iter().any(|file| file.layer() == layer), "no file of {layer} among {}", files.len());
    }
}

fn assert_holds(rule: fn(&SourceFile) -> Vec<String>) {
    let violations: Vec<String> = source_files().iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

fn check_imports(file: &SourceFile) -> Vec<String> {
    let mut violations = Vec::new();
    for (index, enclosing) in enclosing_modules(file).into_iter().enumerate() {
        let starts_path = file.word(index + 1) == ":" && file.word(index + 2) == ":";
        let continues_path = index > 0 && file.word(index - 1) == ":";
        let named = match file.word(index) {
            "crate" if starts_path => paths_from(file, index + 3),
            // `pub(crate)` and `pub(in crate::..)` restrict; `use crate as x` would hide what is named.
            "crate" if file.word(index + 1) != ")" => vec!["crate".to_owned()],
            "netferry" if starts_path && file.layer() == "main" && !continues_path => {
                paths_from(file, index + 3)
            }
            "super" if starts_path && !continues_path => {
                let module = [file.module(), enclosing].concat();
                paths_above(file, index, &module)
            }
            _ => continue,
        };
        for path in named.iter().filter(|path| !may_name(file.layer(), path)) {
            violations.push(file.violation(index, &format!("`{}` may not name `{path}`", file.layer())));
        }
    }
    violations
}

fn may_name(layer: &str, path: &str) -> bool {
    if TOP.contains(&layer) {
        return true;
    }
    let begins_with =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"));
    if layer == "main" {
        return MAIN_IMPORTS.into_iter().any(begins_with);
    }
    let allowed = IMPORTS.iter().find(|(name, _)| *name == layer).map_or(&[][..], |(_, allowed)| allowed);
    begins_with(layer) || allowed.iter().any(|prefix| begins_with(prefix))
}

/// The paths, below the root, that a chain of `super::` leads to when it leaves the layer.
fn paths_above(file: &SourceFile, mut index: usize, module: &[String]) -> Vec<String> {
    let mut depth = module.len();
    while file.word(index) == "super" {
        depth = depth.saturating_sub(1);
        index += 3;
    }
    if depth == 0 { paths_from(file, index) } else { Vec::new() }
}

/// Every path of the tree that begins at `index`, just behind a `::`.
fn paths_from(file: &SourceFile, index: usize) -> Vec<String> {
    let mut paths = Vec::new();
    tree(file, index, "", &mut paths);
    paths
}

/// Reads one tree of a `use`, or a plain path, and returns the place behind it.
fn tree(file: &SourceFile, mut index: usize, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    loop {
        if file.word(index) == "{" {
            index += 1;
            while !["}", ""].contains(&file.word(index)) {
                index = tree(file, index, &path, paths);
                // Behind a tree: a comma, `as name`, or the end.
                while ![",", "}", ""].contains(&file.word(index)) {
                    index += 1;
                }
                if file.word(index) == "," {
                    index += 1;
                }
            }
            return index + 1;
        }
        // `use a::{self}` names `a`.
        if file.word(index) != "self" || path.is_empty() {
            path = if path.is_empty() {
                file.word(index).to_owned()
            } else {
                format!("{path}::{}", file.word(index))
            };
        }
        index += 1;
        if file.word(index) == ":" && file.word(index + 1) == ":" && file.word(index + 2) != "<" {
            index += 2;
        } else {
            paths.push(path);
            return index;
        }
    }
}

/// The inline modules around each word.
fn enclosing_modules(file: &SourceFile) -> Vec<Vec<String>> {
    let mut open: Vec<Option<String>> = Vec::new();
    let mut enclosing = Vec::with_capacity(file.words.len());
    for index in 0..file.words.len() {
        enclosing.push(open.iter().flatten().cloned().collect());
        match file.word(index) {
            "{" if index >= 2 && file.word(index - 2) == "mod" => {
                open.push(Some(file.word(index - 1).to_owned()))
            }
            "{" => open.push(None),
            "}" => {
                open.pop();
            }
            _ => {}
        }
    }
    enclosing
}

fn check_unsafe(file: &SourceFile) -> Vec<String> {
    let mut violations = Vec::new();
    for index in 0..file.words.len() {
        let lifted = file.word(index) == "unsafe_code"
            && ["allow", "expect"].contains(&file.word(index.saturating_sub(2)));
        if file.word(index) != "unsafe" && !lifted {
            continue;
        }
        if file.layer() != "sys" {
            violations.push(file.violation(index, "`unsafe` outside src/sys"));
        } else if ["{", "impl"].contains(&file.word(index + 1)) && !is_explained(file, index) {
            violations.push(file.violation(index, "`unsafe` without `// SAFETY:` above it"));
        }
    }
    violations
}

/// Whether a `SAFETY:` comment stands between the beginning of the statement and the word at `index`.
fn is_explained(file: &SourceFile, index: usize) -> bool {
    let mut inside = 0i32;
    let before = file.words[..index].iter().rev().find(|word| match word.text.as_str() {
        ")" | "]" => {
            inside += 1;
            false
        }
        "(" | "[" => {
            inside = (inside - 1).max(0);
            false
        }
        ";" | "{" | "}" => inside == 0,
        _ => false,
    });
    let from = before.map_or(0, |word| word.place);
    let to = file.words[index].place;
    file.comments
        .iter()
        .any(|comment| (from..to).contains(&comment.place) && comment.text.starts_with("// SAFETY:"))
}

fn check_unwrap(file: &SourceFile) -> Vec<String> {
    if file.is_test() {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let mut index = 0;
    while index < file.words.len() {
        if is_test_attribute(file, index) {
            index = behind_item(file, index + 7);
            continue;
        }
        if file.word(index) == "." && file.word(index + 1) == "unwrap" && file.word(index + 2) == "(" {
            violations.push(file.violation(index, "`unwrap` outside tests; `expect` states the invariant"));
        }
        index += 1;
    }
    violations
}

/// Whether `#[cfg(test)]` stands at `index`.
fn is_test_attribute(file: &SourceFile, index: usize) -> bool {
    ["#", "[", "cfg", "(", "test", ")", "]"]
        .iter()
        .zip(index..)
        .all(|(expected, at)| file.word(at) == *expected)
}

/// The place behind the item at `index`: its closing brace, or a semicolon outside of brackets.
fn behind_item(file: &SourceFile, mut index: usize) -> usize {
    let mut depth = 0i32;
    while index < file.words.len() {
        match file.word(index) {
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 => return index + 1,
            "}" | ")" | "]" => depth -= 1,
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
        index += 1;
    }
    index
}

fn check_opening(file: &SourceFile) -> Vec<String> {
    if file.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!("src/{}:1: does not open with `//!`", file.path)]
}
