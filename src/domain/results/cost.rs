//! How much it takes to hold results against a JSON Schema, counted before it is done.
//!
//! A schema of a few lines can ask one value the same thing more often than there are nanoseconds: definitions that name
//! each other twice, over and over. The library that checks cannot be told to stop, so the walk that it would take is
//! taken here first, step for step and without an answer, until it ends or has become too long. Wherever the library may
//! stop early this goes on, so it counts too much rather than too little. What it cannot follow, it calls too long:
//! dynamic references, and references of a schema whose parts have an `$id` of their own.

use serde_json::{Map, Value};

/// Looks of one schema at one value: some tenths of a second.
const STEPS_MAX: usize = 100_000;
/// Schemas that ask each other, inside each other: what the deep stack holds.
const DEPTH_MAX: usize = 12_000;
/// A regular expression on one text may step back 100,000 times.
const PATTERN_STEPS: usize = 100;

/// Whether the check ends in good time.
pub(super) fn is_affordable(schema: &Value, results: &Value) -> bool {
    let mut walk = Walk { root: schema, has_inner_ids: has_inner_ids(schema), left: STEPS_MAX };
    walk.look(schema, results, 0).is_some()
}

struct Walk<'s> {
    root: &'s Value,
    has_inner_ids: bool,
    left: usize,
}

impl<'s> Walk<'s> {
    /// Nothing once it has become too long.
    fn take(&mut self, steps: usize) -> Option<()> {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }

    fn look(&mut self, schema: &'s Value, value: &Value, depth: usize) -> Option<()> {
        self.take(1)?;
        if depth > DEPTH_MAX {
            return None;
        }
        let Value::Object(keywords) = schema else { return Some(()) };
        // Where it matters what the others have looked at, they are asked again.
        let again = keywords.keys().filter(|keyword| keyword.starts_with("unevaluated")).count();
        for _ in 0..=again {
            for (keyword, argument) in keywords {
                self.apply(keyword, argument, value, depth + 1)?;
            }
        }
        Some(())
    }

    fn apply(&mut self, keyword: &str, argument: &'s Value, value: &Value, depth: usize) -> Option<()> {
        match (keyword, argument) {
            ("$ref", Value::String(reference)) => self.look(self.target(reference)?, value, depth),
            ("$dynamicRef" | "$recursiveRef", _) => None,
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().try_for_each(|schema| self.look(schema, value, depth))
            }
            ("not" | "if" | "then" | "else", schema) => self.look(schema, value, depth),
            ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                schemas.values().try_for_each(|schema| self.look(schema, value, depth))
            }
            ("pattern", _) if value.is_string() => self.take(PATTERN_STEPS),
            ("enum", Value::Array(choices)) => self.take(choices.len()),
            _ => match value {
                Value::Object(fields) => self.apply_to_object(keyword, argument, fields, depth),
                Value::Array(items) => self.apply_to_list(keyword, argument, items, depth),
                _ => Some(()),
            },
        }
    }

    fn apply_to_object(
        &mut self,
        keyword: &str,
        argument: &'s Value,
        fields: &Map<String, Value>,
        depth: usize,
    ) -> Option<()> {
        match (keyword, argument) {
            ("properties", Value::Object(schemas)) => {
                let asked = schemas.iter().filter_map(|(key, schema)| Some((schema, fields.get(key)?)));
                asked.into_iter().try_for_each(|(schema, field)| self.look(schema, field, depth))
            }
            ("patternProperties", Value::Object(schemas)) => schemas.values().try_for_each(|schema| {
                fields.values().try_for_each(|field| {
                    self.take(PATTERN_STEPS)?;
                    self.look(schema, field, depth)
                })
            }),
            ("additionalProperties" | "unevaluatedProperties", schema) => {
                fields.values().try_for_each(|field| self.look(schema, field, depth))
            }
            ("propertyNames", schema) => {
                fields.keys().try_for_each(|key| self.look(schema, &Value::String(key.clone()), depth))
            }
            _ => Some(()),
        }
    }

    fn apply_to_list(&mut self, keyword: &str, argument: &'s Value, items: &[Value], depth: usize) -> Option<()> {
        match (keyword, argument) {
            ("prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter().zip(items).try_for_each(|(schema, item)| self.look(schema, item, depth))
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", schema) => {
                items.iter().try_for_each(|item| self.look(schema, item, depth))
            }
            ("uniqueItems", _) => self.take(items.len()),
            _ => Some(()),
        }
    }

    /// What a reference leads to. A schema that was stored has none that leads nowhere, or outside.
    fn target(&self, reference: &str) -> Option<&'s Value> {
        if self.has_inner_ids || reference.contains('%') {
            return None;
        }
        match reference.strip_prefix('#')? {
            "" => Some(self.root),
            pointer if pointer.starts_with('/') => self.root.pointer(pointer),
            anchor => with_anchor(self.root, anchor),
        }
    }
}

fn children(json: &Value) -> impl Iterator<Item = &Value> {
    let (list, fields) = match json {
        Value::Array(list) => (Some(list), None),
        Value::Object(fields) => (None, Some(fields)),
        _ => (None, None),
    };
    list.into_iter().flatten().chain(fields.into_iter().flat_map(Map::values))
}

/// Whether a part of the schema has an id, by which references in it would mean something else.
fn has_inner_ids(schema: &Value) -> bool {
    fn has_id(json: &Value) -> bool {
        ["$id", "id"].into_iter().any(|id| json.get(id).is_some_and(Value::is_string)) || children(json).any(has_id)
    }
    children(schema).any(has_id)
}

fn with_anchor<'s>(json: &'s Value, anchor: &str) -> Option<&'s Value> {
    if json.get("$anchor").and_then(Value::as_str) == Some(anchor) {
        return Some(json);
    }
    children(json).find_map(|inner| with_anchor(inner, anchor))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::behavior::schema::on_a_deep_stack;

    fn is_affordable(schema: &Value, results: &Value) -> bool {
        on_a_deep_stack(|| super::is_affordable(schema, results))
    }

    #[test]
    fn ordinary_schemas_are_affordable_with_the_largest_results() {
        let guest =
            json!({"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": false});
        let one = json!({"anyOf": [{"$ref": "#guest"}, {"type": "null"}]});
        let schema = json!({
            "properties": {"guests": {"type": "array", "items": one}},
            "$defs": {"guest": {"$anchor": "guest", "allOf": [guest]}},
            "unevaluatedProperties": false,
        });
        let guests: Vec<Value> = (0..1_200).map(|_| json!({"name": "Ada"})).collect();
        assert!(is_affordable(&schema, &json!({ "guests": guests })));
        assert!(is_affordable(&json!({"items": {"$ref": "#"}}), &json!([[[[1], 2], 3], 4])));
        let named = json!({"$id": "https://example.com/a", "items": {"$ref": "#/$defs/b"}, "$defs": {"b": true}});
        assert!(is_affordable(&named, &json!([1])));
    }

    #[test]
    fn what_multiplies_or_cannot_be_followed_is_not() {
        // Three ways down at each of 16 levels.
        let down = json!({"properties": {"a": {"$ref": "#"}}});
        let schema = json!({"allOf": [down, down, down]});
        let results = (0..16).fold(json!({}), |inner, _| json!({ "a": inner }));
        assert!(!is_affordable(&schema, &results));
        for schema in [
            json!({"$dynamicRef": "#a"}),
            json!({"items": {"$id": "https://example.com/a"}, "$ref": "#/items"}),
            json!({"allOf": [{"$ref": "#"}]}),
        ] {
            assert!(!is_affordable(&schema, &json!({})), "{schema}");
        }
        let patterns: Map<_, _> = (0..100).map(|n| (format!("^{n}"), json!({}))).collect();
        let many: Map<_, _> = (0..100).map(|n| (n.to_string(), json!("x"))).collect();
        assert!(!is_affordable(&json!({ "patternProperties": patterns }), &Value::Object(many)));
    }
}
