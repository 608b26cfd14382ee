//! JSON Schemas that tenants write: one that is accepted is bounded, leads nowhere else and is a schema; of another the
//! fault can be shown to a person.

use serde_json::Value;
use voxgate::domain::{
    behavior::{
        PATTERNS_MAX, SCHEMA_MAX_CHARS, SCHEMA_MAX_DEPTH, Schemas,
        schema::{compile, on_a_deep_stack},
    },
    verb::JsonObject,
};

pub(super) fn check(input: &[u8]) {
    // As text, whose words the fuzzer knows; what comes by the wire is the same by then (`struct_value`).
    let Ok(schema) = serde_json::from_slice::<JsonObject>(input) else { return };
    let checked = Schemas::default().check(&schema);
    assert_eq!(Schemas::default().check(&schema), checked, "the same schema is judged the same");
    let schema = Value::Object(schema);
    match checked {
        Ok(()) => {
            let text = schema.to_string();
            assert!(levels(&schema) <= SCHEMA_MAX_DEPTH, "{} levels were accepted", levels(&schema));
            assert!(text.chars().count() <= SCHEMA_MAX_CHARS, "{} characters were accepted", text.chars().count());
            assert!(own_patterns(&schema) <= PATTERNS_MAX, "{} patterns were accepted", own_patterns(&schema));
            assert!(!has_nul(&schema), "a NUL was accepted: {text}");
            assert!(!is_a_file(&schema, &text), "a reference to a file was accepted: {text}");
            on_a_deep_stack(|| assert!(compile(&schema).is_ok(), "accepted, and not compiled: {text}"));
        }
        Err(fault) => {
            assert_eq!(fault.reason, "FIELD_INVALID");
            assert!(!fault.description.chars().any(char::is_control), "{:?} cannot be shown", fault.description);
        }
    }
}

fn levels(json: &Value) -> usize {
    match json {
        Value::Array(list) => 1 + list.iter().map(levels).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Patterns of the schema's own properties: fewer than there may be, and each is one.
fn own_patterns(schema: &Value) -> usize {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.map_or(0, |all| all.values().filter(|it| it.get("pattern").is_some_and(Value::is_string)).count())
}

fn has_nul(json: &Value) -> bool {
    match json {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(key, json)| key.contains('\0') || has_nul(json)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether the schema as a whole is a file's, and nothing in it calls itself so.
fn is_a_file(schema: &Value, text: &str) -> bool {
    let draft_or_name = ["\"$schema\"", "\"$id\"", "\"id\""].iter().any(|word| text.contains(word));
    let reference = schema.get("$ref").and_then(Value::as_str);
    !draft_or_name && reference.is_some_and(|reference| reference.starts_with("file:"))
}
