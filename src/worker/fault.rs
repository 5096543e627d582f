//! Faults on demand, for the tests of what becomes of them. Compiled out of release builds.

/// Names what a stream of the container has to begin with to be struck.
const VARIABLE: &str = "NETFERRY_FAULT";

/// Names what a frame of the container has to end with to strike its driver.
const FATAL_VARIABLE: &str = "NETFERRY_FATAL_FAULT";

/// Panics where a debug build is told to, and nothing catches it.
///
/// # Panics
/// If the frame ends as the variable says.
pub fn strike_driver(frame: &[u8]) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(word) = std::env::var_os(FATAL_VARIABLE) else { return };
    assert!(!frame.ends_with(word.as_encoded_bytes()), "a fault that {FATAL_VARIABLE} asks for");
}

/// Panics where a debug build is told to.
///
/// # Panics
/// If the bytes begin as the variable says.
pub fn strike(bytes: &[u8]) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(word) = std::env::var_os(VARIABLE) else { return };
    assert!(!bytes.starts_with(word.as_encoded_bytes()), "a fault that {VARIABLE} asks for");
}
