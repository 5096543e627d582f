//! The `netferry` program.
fn main() {}
