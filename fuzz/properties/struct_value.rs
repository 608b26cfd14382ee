//! Free-form objects of the wire: what is read is bounded, is what was sent, and is sent again as it was.
//!
//! The first byte says in how many lists and objects what the rest decodes to is wrapped, so that depth is reached by other
//! ways than by luck.

use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Value as Json};
use voxgate::grpc::convert::value::{object, read_object, read_object_within, read_value_within, value};

/// The limits as README states them.
const DEPTH_MAX: usize = 16;
const OBJECT_MAX_BYTES: usize = 16 * 1024;
/// Those of a lead's field and of a JSON Schema.
const VALUE_MAX_BYTES: usize = 8 * 1024;
const SCHEMA_DEPTH_MAX: usize = 32;
/// As deep as a message may be wrapped: twice what prost decodes.
const WRAPS: u8 = 200;

pub(super) fn check(input: &[u8]) {
    let (wraps, message) = super::split_mode(input);
    // Deeper than prost's own limit it refuses, whatever the bytes say.
    let Ok(inner) = Struct::decode(message) else { return };
    let wire = (0..wraps % WRAPS).fold(inner, |inner, level| {
        let inner = Value { kind: Some(Kind::StructValue(inner)) };
        let inner = if level % 2 == 0 { inner } else { list(inner) };
        Struct { fields: [("in".to_owned(), inner)].into() }
    });
    an_object_is_read_within_its_limits(&wire);
    a_value_is_read_within_its_limits(&wire);
    depth_alone_bounds_a_schema(&wire);
}

fn list(value: Value) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values: vec![value] })) }
}

fn an_object_is_read_within_its_limits(wire: &Struct) {
    let seen = Seen::of(wire);
    match read_object(Some(wire.clone())) {
        Ok(read) => {
            assert!(seen.is_fine(DEPTH_MAX), "accepted {seen:?}");
            let json = serde_json::to_vec(&read).expect("JSON is written");
            assert!(json.len() <= OBJECT_MAX_BYTES, "accepted {} bytes", json.len());
            reads_back(wire, &read, &json);
        }
        Err(fault) => {
            assert_eq!(fault.reason, "FIELD_INVALID");
            let bytes = read_object_within(wire.clone(), DEPTH_MAX).map(|read| json_bytes(&Json::Object(read)));
            let too_large = bytes.is_ok_and(|bytes| bytes > OBJECT_MAX_BYTES);
            assert!(too_large || !seen.is_fine(DEPTH_MAX), "refused {seen:?}: {}", fault.description);
        }
    }
}

fn reads_back(wire: &Struct, read: &Map<String, Json>, json: &[u8]) {
    let sent = object(read);
    assert_eq!(sent, canonical_object(wire), "it is sent as it came");
    assert_eq!(Struct::decode(sent.encode_to_vec().as_slice()).as_ref(), Ok(&sent), "whoever reads it can");
    assert_eq!(read_object(Some(sent)).as_ref(), Ok(read), "it is read as it was");
    let kept: Json = serde_json::from_slice(json).expect("it is kept as JSON");
    assert_eq!(kept.as_object(), Some(read), "it is kept as it is");
}

fn a_value_is_read_within_its_limits(wire: &Struct) {
    let Some(own) = wire.fields.values().next() else { return };
    let mut seen = Seen::default();
    seen.value(own, 0);
    match read_value_within(own.clone(), 8 * 1024) {
        Ok(read) => {
            assert!(seen.is_fine(DEPTH_MAX), "accepted {seen:?}");
            assert!(json_bytes(&read) <= VALUE_MAX_BYTES, "accepted {} bytes", json_bytes(&read));
            assert_eq!(value(&read), canonical(own), "it is sent as it came");
        }
        Err(_) => {
            let larger = read_value_within(own.clone(), u64::MAX).is_ok_and(|read| json_bytes(&read) > VALUE_MAX_BYTES);
            assert!(larger || !seen.is_fine(DEPTH_MAX), "refused {seen:?}");
        }
    }
}

fn depth_alone_bounds_a_schema(wire: &Struct) {
    let seen = Seen::of(wire);
    let read = read_object_within(wire.clone(), SCHEMA_DEPTH_MAX);
    assert_eq!(read.is_ok(), seen.is_fine(SCHEMA_DEPTH_MAX), "{seen:?}");
}

fn json_bytes(json: &Json) -> usize {
    serde_json::to_vec(json).expect("JSON is written").len()
}

/// What stands in a message, seen without the code that reads it.
#[derive(Debug, Default)]
struct Seen {
    depth: usize,
    has_nul: bool,
    has_no_number: bool,
}

impl Seen {
    fn of(wire: &Struct) -> Self {
        let mut seen = Self::default();
        seen.fields(wire, 0);
        seen
    }

    fn fields(&mut self, wire: &Struct, depth: usize) {
        for (key, value) in &wire.fields {
            self.has_nul |= key.contains('\0');
            self.value(value, depth + 1);
        }
    }

    fn value(&mut self, wire: &Value, depth: usize) {
        self.depth = self.depth.max(depth);
        match &wire.kind {
            Some(Kind::NumberValue(number)) => self.has_no_number |= !number.is_finite(),
            Some(Kind::StringValue(text)) => self.has_nul |= text.contains('\0'),
            Some(Kind::ListValue(list)) => list.values.iter().for_each(|value| self.value(value, depth + 1)),
            Some(Kind::StructValue(fields)) => self.fields(fields, depth),
            Some(Kind::NullValue(_) | Kind::BoolValue(_)) | None => {}
        }
    }

    fn is_fine(&self, depth_max: usize) -> bool {
        self.depth <= depth_max && !self.has_nul && !self.has_no_number
    }
}

/// The same message with one spelling of null.
fn canonical_object(wire: &Struct) -> Struct {
    Struct { fields: wire.fields.iter().map(|(key, value)| (key.clone(), canonical(value))).collect() }
}

fn canonical(wire: &Value) -> Value {
    let kind = match &wire.kind {
        None | Some(Kind::NullValue(_)) => Kind::NullValue(0),
        Some(Kind::ListValue(list)) => {
            Kind::ListValue(ListValue { values: list.values.iter().map(canonical).collect() })
        }
        Some(Kind::StructValue(fields)) => Kind::StructValue(canonical_object(fields)),
        Some(other) => other.clone(),
    };
    Value { kind: Some(kind) }
}
