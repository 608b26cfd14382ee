//! Callback tokens and lease tokens as they are presented.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| voxgate_fuzz::check("token", input));
