//! Panics are told where all else is told, each place of the program once, with the way that led there.
//!
//! The core catches the panics of its flows (`stack::isolation`); this hook runs before that, where the stack that led
//! to the panic still stands. A bug that a container can set off at will must not fill the log: what happens again
//! at the same place is for those who debug.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use tracing::{debug, error};

use super::log::say;

/// Places that are remembered; at the others nothing is told any more.
const MAX_PLACES: usize = 16;

/// A place in the source: file, line, column.
type Place = (String, u32, u32);

/// Tells of panics in the log from now on.
pub fn install() {
    let seen: Mutex<Vec<Place>> = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(move |panic| {
        let place = place_of(panic);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !seen.contains(&place) && seen.len() < MAX_PLACES;
        let (file, line, column) = &place;
        let message = panic.payload_as_str().unwrap_or("no message");
        if !is_new {
            debug!("a fault of netferry's own at {file}:{line}:{column}, again: {message}");
            return;
        }
        let way = way_here(&Backtrace::force_capture());
        let told = format!(
            "a fault of netferry's own at {file}:{line}:{column}: {message}; please report it, with this:\n{way}"
        );
        if tracing::dispatcher::has_been_set() {
            error!("{told}");
        } else {
            say(&told);
        }
        seen.push(place);
    }));
}

fn place_of(panic: &PanicHookInfo<'_>) -> Place {
    panic.location().map_or_else(Place::default, |at| (at.file().to_owned(), at.line(), at.column()))
}

/// The calls that led here. In a sandbox the program's own file is out of reach, and with it the names: then the bare
/// addresses, and one that is known.
fn way_here(backtrace: &Backtrace) -> String {
    let named = backtrace.to_string();
    if named.contains("netferry::") {
        return named.trim_end().to_owned();
    }
    let mut bare = format!("{backtrace:#}").trim_end().to_owned();
    // Writing to a string does not fail.
    let _ = write!(bare, "\nnetferry::observe::panics::install is at {:p}", install as fn());
    bare
}
