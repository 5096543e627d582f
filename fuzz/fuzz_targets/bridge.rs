#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| netferry_fuzz::drivers::bridge(input));
