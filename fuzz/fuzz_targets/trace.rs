//! Trace contexts that callers have sent.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| voxgate_fuzz::check("trace", input));
