//! JSON Schemas that tenants write: of a tool's arguments, and of a session's results.
//!
//! A schema is bounded before the library sees it. Nothing is ever fetched: a reference that leads outside of the schema
//! is a fault. Regular expressions are compiled with it, each and all together within bounds, because a small schema can
//! make them cost seconds.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::{PATTERNS_MAX, SCHEMA_MAX_CHARS, SCHEMA_MAX_DEPTH};
use crate::domain::{verb::JsonObject, violations::Fault};

/// Of one compiled regular expression.
const PATTERN_MAX_BYTES: usize = 256 * 1024;
/// Steps back that one match may take; beyond them it counts as no match.
const PATTERN_MAX_BACKTRACKS: usize = 100_000;
/// References follow each other as often as the schema has room for, and the library follows them by recursion: a
/// schema of 48,000 characters needs more than a worker's stack has. Memory that is not touched costs nothing.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Of the library's own words, and of the place that they are about: both quote the schema.
const WORDS_MAX_CHARS: usize = 150;

/// Checks the schemas of one behavior, which share its bound on patterns.
#[derive(Debug, Default)]
pub struct Schemas {
    patterns: usize,
}

impl Schemas {
    pub fn check(&mut self, schema: &JsonObject) -> Result<(), Fault> {
        let schema = Value::Object(schema.clone());
        if deeper_than(&schema, SCHEMA_MAX_DEPTH) {
            return Err(Fault::new(format!("must not be deeper than {SCHEMA_MAX_DEPTH} levels")));
        }
        if has_nul(&schema) {
            return Err(Fault::new("must not contain a NUL character"));
        }
        if schema.to_string().chars().count() > SCHEMA_MAX_CHARS {
            return Err(Fault::new(format!("must be at most {SCHEMA_MAX_CHARS} characters as JSON")));
        }
        self.patterns += patterns(&schema);
        if self.patterns > PATTERNS_MAX {
            let rule = format!("must not bring the regular expressions of a behavior's schemas above {PATTERNS_MAX}");
            return Err(Fault::new(rule));
        }
        on_a_deep_stack(|| compile(&schema).map(drop))
    }
}

/// Where schemas are compiled, asked and dropped.
pub fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let deep = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        match deep.expect("a machine that serves has room for a thread").join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What holds values against `schema`, which is within the bounds. Only [`on_a_deep_stack`].
pub fn compile(schema: &Value) -> Result<Validator, Fault> {
    let patterns = PatternOptions::fancy_regex().backtrack_limit(PATTERN_MAX_BACKTRACKS).size_limit(PATTERN_MAX_BYTES);
    jsonschema::options().offline().with_pattern_options(patterns).build(schema).map_err(|error| {
        let shown = |text: String| text.chars().filter(|c| !c.is_control()).take(WORDS_MAX_CHARS).collect::<String>();
        let (said, place) = (shown(error.to_string()), shown(error.instance_path().to_string()));
        let place = if place.is_empty() { place } else { format!(" at {place}") };
        Fault::new(format!("must be a valid JSON Schema, with references into itself alone{place}: {said}"))
    })
}

/// Stops as soon as it is, so that no input makes it deep itself.
fn deeper_than(json: &Value, levels: usize) -> bool {
    let Some(inner) = levels.checked_sub(1) else { return json.is_object() || json.is_array() };
    match json {
        Value::Array(list) => list.iter().any(|json| deeper_than(json, inner)),
        Value::Object(fields) => fields.values().any(|json| deeper_than(json, inner)),
        _ => false,
    }
}

fn has_nul(json: &Value) -> bool {
    match json {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(key, json)| key.contains('\0') || has_nul(json)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Regular expressions in the schema, or more: a property that is called `pattern` counts too.
fn patterns(json: &Value) -> usize {
    match json {
        Value::Array(list) => list.iter().map(patterns).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, json)| {
                let own = match (key.as_str(), json) {
                    ("pattern", Value::String(_)) => 1,
                    ("patternProperties", Value::Object(fields)) => fields.len(),
                    _ => 0,
                };
                own + patterns(json)
            })
            .sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value) -> Result<(), Fault> {
        Schemas::default().check(schema.as_object().expect("an object"))
    }

    fn nested(levels: usize) -> Value {
        (1..levels)
            .fold(json!({}), |inner, level| if level % 2 == 0 { json!({ "not": inner }) } else { json!([inner]) })
    }

    #[test]
    fn what_leads_outside_is_refused() {
        for bad in [
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"$schema": "https://example.com/schema.json"}),
            json!({"$id": "https://example.com/a", "items": {"$ref": "b"}}),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        for good in [
            json!({}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"again": {"$ref": "#"}}}}}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}),
            json!({"$id": "https://example.com/a", "items": {"$ref": "b"}, "$defs": {"b": {"$id": "b"}}}),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        let fault = check(&json!({"properties": {"a": {"type": "strin"}}})).expect_err("no type");
        assert!(fault.description.contains("/properties/a/type"), "{fault:?}");
        let fault = check(&json!({"properties": {"a\n\u{7}b": {"type": "strin"}}})).expect_err("no type");
        assert!(fault.description.contains("/properties/ab/type"), "{fault:?}");
        for bad in [json!({"minLength": -1}), json!({"pattern": "("}), json!({"required": "a"}), json!({"a\0": 1})] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        assert_eq!(check(&json!({"minLength": 5, "pattern": "^(?=a)b{2}$"})), Ok(()));
    }

    #[test]
    fn patterns_are_bounded_each_and_together() {
        assert!(check(&json!({"pattern": "\\p{L}{500}"})).is_err(), "one that compiles to megabytes");
        let properties = |from: usize, to: usize| {
            let fields = (from..to).map(|number| (number.to_string(), json!({ "pattern": format!("^{number}$") })));
            let schema = json!({ "properties": fields.collect::<JsonObject>() });
            schema.as_object().expect("an object").clone()
        };
        let mut schemas = Schemas::default();
        assert_eq!(schemas.check(&properties(0, PATTERNS_MAX)), Ok(()));
        assert!(schemas.check(&properties(0, 1)).is_err(), "one more, in another schema");
        let names = (0..=PATTERNS_MAX).map(|number| (number.to_string(), json!({}))).collect::<JsonObject>();
        assert!(check(&json!({ "patternProperties": names })).is_err());
    }

    #[test]
    fn no_chain_of_references_overflows_the_stack() {
        let link = |number: usize| {
            (0..28).fold(json!({"$ref": format!("#/$defs/{number}")}), |inner, _| json!({ "not": inner }))
        };
        let mut chain: JsonObject = (1..=180).map(|number| ((number - 1).to_string(), link(number))).collect();
        chain.insert("180".to_owned(), json!({}));
        let schema = json!({"$ref": "#/$defs/0", "$defs": chain, "unevaluatedProperties": false});
        assert!(schema.to_string().len() > 40_000, "as long as there is room for");
        assert_eq!(check(&schema), Ok(()));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let object = |levels| json!({ "default": nested(levels - 1) });
        assert_eq!(check(&object(SCHEMA_MAX_DEPTH)), Ok(()));
        assert!(check(&object(SCHEMA_MAX_DEPTH + 1)).is_err());
        // {"title":"…"} has 12 characters around its text.
        let titled = |length: usize| json!({ "title": "ü".repeat(length - 12) });
        assert_eq!(check(&titled(SCHEMA_MAX_CHARS)), Ok(()));
        assert!(check(&titled(SCHEMA_MAX_CHARS + 1)).is_err());
    }
}
