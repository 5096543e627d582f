//! Criterion benches, below.
fn main() {}
