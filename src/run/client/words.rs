//! Words that may begin with the name of an instance.

use std::path::Path;

use super::reach::is_name;
use crate::cli::native::target::Target;

/// Whom the words are about, and what is left of them. The first word names an instance, or a container of a network, if it
/// is of that form, or if there is one of that name.
#[must_use]
pub fn split(words: &[String], control: Option<&Path>) -> (Target, String) {
    match words.split_first() {
        Some((first, rest)) if control.is_none() && is_name(first) => {
            (Target { id: Some(first.clone()), control: None }, rest.join(" "))
        }
        Some(_) | None => (Target { id: None, control: control.map(Path::to_owned) }, words.join(" ")),
    }
}
