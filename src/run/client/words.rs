//! Words that may begin with the name of an instance.

use std::path::Path;

use crate::cli::native::target::Target;
use crate::run::instance;

/// Whom the words are about, and what is left of them. The first word names an instance if it is a number, or if there is one of
/// that name.
#[must_use]
pub fn split(words: &[String], control: Option<&Path>) -> (Target, String) {
    let is_name = |word: &String| {
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        control.is_none() && (is_number || instance::all().iter().any(|found| found.id == *word))
    };
    match words.split_first() {
        Some((first, rest)) if is_name(first) => {
            (Target { id: Some(first.clone()), control: None }, rest.join(" "))
        }
        Some(_) | None => (Target { id: None, control: control.map(Path::to_owned) }, words.join(" ")),
    }
}
