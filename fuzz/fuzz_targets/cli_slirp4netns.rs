#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| netferry_fuzz::drivers::cli_slirp4netns(input));
