//! Numbers and SIP URIs that callers name, under rules that a tenant writes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| voxgate_fuzz::check("destination", input));
