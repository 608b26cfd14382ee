//! What must hold of whatever comes from outside: one file a fuzz target, one function a file.
//!
//! A property takes arbitrary bytes and panics where it does not hold. Nothing here knows of the fuzzer: the targets call
//! it with what they make up, and `tests/it/fuzz_corpus.rs` with every file of `fuzz/corpus`.

mod destination;
mod dtmf;
mod json_schema;
mod struct_value;
mod token;
mod trace;

type Property = fn(&[u8]);

/// Each target by its name, which is that of its corpus too.
pub const TARGETS: [(&str, Property); 6] = [
    ("destination", destination::check),
    ("dtmf", dtmf::check),
    ("json_schema", json_schema::check),
    ("struct_value", struct_value::check),
    ("token", token::check),
    ("trace", trace::check),
];

/// Holds the input against the property of that name.
pub fn check(target: &str, input: &[u8]) {
    let property = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, property) = property.unwrap_or_else(|| panic!("{target} is not a target"));
    property(input);
}

/// The first byte, and what follows it.
fn split_mode(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(mode, rest)| (*mode, rest))
}

/// The first `N` bytes, zeros where there are none, and what follows them.
fn split_bytes<const N: usize>(input: &[u8]) -> ([u8; N], &[u8]) {
    let (head, rest) = input.split_at(input.len().min(N));
    let mut bytes = [0; N];
    bytes[..head.len()].copy_from_slice(head);
    (bytes, rest)
}
