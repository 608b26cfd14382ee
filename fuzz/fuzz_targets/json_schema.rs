//! JSON Schemas that tenants write.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| voxgate_fuzz::check("json_schema", input));
