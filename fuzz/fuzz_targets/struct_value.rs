//! Free-form objects as they come by the wire.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| voxgate_fuzz::check("struct_value", input));
