//! Whether a session's results are what its behavior asks for. What does not fit is told, and kept all the same.
//!
//! The same results and the same behavior always give the same warnings: what bounds the work is counted, not timed.

mod cost;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    behavior::{
        Behavior, OutputType,
        schema::{compile, on_a_deep_stack},
    },
    verb::JsonObject,
};

/// Warnings of one check; one more says how many were left out.
const WARNINGS_MAX: usize = 100;
/// Of a path, and of a description: both may quote the results.
const WORDS_MAX_CHARS: usize = 300;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultWarning {
    /// An RFC 6901 pointer into the results; empty: the results as a whole.
    pub path: String,
    pub description: String,
}

impl ResultWarning {
    fn new(path: &str, description: &str) -> Self {
        let shown = |text: &str| text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect::<String>();
        let cut = |text: String| match text.char_indices().nth(WORDS_MAX_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        Self { path: cut(shown(path)), description: cut(shown(description)) }
    }

    fn of_key(key: &str, description: &str) -> Self {
        Self::new(&format!("/{}", key.replace('~', "~0").replace('/', "~1")), description)
    }
}

/// Whether [`check`] of it compiles a schema.
pub const fn is_heavy(behavior: &Behavior) -> bool {
    behavior.output_schema_strict.is_some()
}

pub fn check(results: &JsonObject, behavior: &Behavior) -> Vec<ResultWarning> {
    let mut warnings = against_keys(results, behavior);
    if let Some(schema) = &behavior.output_schema_strict {
        warnings.extend(against_schema(results, schema));
    }
    let all = warnings.len();
    if all > WARNINGS_MAX {
        warnings.truncate(WARNINGS_MAX);
        warnings.push(ResultWarning::new("", &format!("and {} more", all - WARNINGS_MAX)));
    }
    warnings
}

fn against_keys(results: &JsonObject, behavior: &Behavior) -> Vec<ResultWarning> {
    let schema = &behavior.output_schema;
    let mut warnings = Vec::new();
    for (key, kind) in schema {
        // One that was stored is one that was checked.
        let Ok(kind) = OutputType::parse(kind) else { continue };
        let rule = match results.get(key) {
            None | Some(Value::Null) => Some("is missing".to_owned()),
            Some(value) => misfit(&kind, value),
        };
        warnings.extend(rule.map(|rule| ResultWarning::of_key(key, &rule)));
    }
    // Where there is a JSON Schema too, other keys are its to judge.
    if !schema.is_empty() && behavior.output_schema_strict.is_none() {
        let unknown = results.keys().filter(|key| !schema.contains_key(*key));
        warnings.extend(unknown.map(|key| ResultWarning::of_key(key, "is not in the output schema")));
    }
    warnings
}

/// What is wrong with the value, if anything is.
fn misfit(kind: &OutputType, value: &Value) -> Option<String> {
    let (fits, rule) = match kind {
        OutputType::Text => (value.is_string(), "must be a text".to_owned()),
        OutputType::Number => (value.is_number(), "must be a number".to_owned()),
        OutputType::Boolean => (value.is_boolean(), "must be true or false".to_owned()),
        OutputType::Date => (value.as_str().is_some_and(is_date), "must be a date such as 2026-01-31".to_owned()),
        OutputType::Enum(choices) => {
            let fits = value.as_str().is_some_and(|value| choices.iter().any(|choice| choice == value));
            (fits, format!("must be one of {}", choices.join(", ")))
        }
    };
    (!fits).then_some(rule)
}

/// RFC 3339's full-date.
fn is_date(text: &str) -> bool {
    let has_form = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    has_form && text.parse::<jiff::civil::Date>().is_ok()
}

fn against_schema(results: &JsonObject, schema: &JsonObject) -> Vec<ResultWarning> {
    let (results, schema) = (Value::Object(results.clone()), Value::Object(schema.clone()));
    on_a_deep_stack(move || {
        if !cost::is_affordable(&schema, &results) {
            let rule = "could not be checked: the JSON Schema is too complex for these results";
            return vec![ResultWarning::new("", rule)];
        }
        match compile(&schema) {
            Ok(validator) => {
                let told = |error: jsonschema::ValidationError<'_>| {
                    ResultWarning::new(error.instance_path().as_str(), &error.to_string())
                };
                validator.iter_errors(&results).map(told).collect()
            }
            Err(fault) => vec![ResultWarning::new("", &format!("could not be checked: {}", fault.description))],
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::behavior::BehaviorDraft;

    fn behavior(keys: &[(&str, &str)], strict: Option<&Value>) -> Behavior {
        let draft = BehaviorDraft {
            instructions: Some("Be kind.".into()),
            output_schema: keys.iter().map(|(key, kind)| ((*key).to_owned(), (*kind).to_owned())).collect(),
            output_schema_strict: strict.map(object),
            ..BehaviorDraft::default()
        };
        Behavior::parse(draft).expect("valid")
    }

    fn object(json: &Value) -> JsonObject {
        json.as_object().expect("an object").clone()
    }

    fn told(results: &Value, behavior: &Behavior) -> Vec<(String, String)> {
        check(&object(results), behavior).into_iter().map(|it| (it.path, it.description)).collect()
    }

    fn paths(results: &Value, behavior: &Behavior) -> Vec<String> {
        told(results, behavior).into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn each_key_is_held_against_its_kind() {
        let kinds = [("a", "text"), ("b", "number"), ("c", "boolean"), ("d", "date"), ("e", "enum:yes, no")];
        let behavior = behavior(&kinds, None);
        let good = json!({"a": "", "b": -1.5, "c": false, "d": "2024-02-29", "e": "no"});
        assert_eq!(told(&good, &behavior), []);
        let bad = json!({"a": 1, "b": "1", "c": "true", "d": "2025-02-29", "e": "maybe"});
        assert_eq!(paths(&bad, &behavior), ["/a", "/b", "/c", "/d", "/e"]);
        for date in [json!("20240229"), json!("2024-02-29T00:00:00Z"), json!(20_240_229), json!("２０２４-02-29")] {
            assert_eq!(paths(&json!({"a": "", "b": 1, "c": true, "d": date, "e": "yes"}), &behavior), ["/d"]);
        }
        let none = told(&json!({"a": null, "x/y~z": 1}), &behavior);
        let missing = ["/a", "/b", "/c", "/d", "/e"].map(|path| (path.to_owned(), "is missing".to_owned()));
        assert_eq!(none[..5], missing);
        assert_eq!(none[5..], [("/x~1y~0z".to_owned(), "is not in the output schema".to_owned())]);
    }

    #[test]
    fn without_a_schema_everything_fits() {
        assert_eq!(told(&json!({"anything": [1, {"goes": null}]}), &behavior(&[], None)), []);
    }

    #[test]
    fn a_json_schema_tells_where_and_what() {
        let strict = json!({
            "type": "object",
            "properties": {
                "budget": {"type": "number", "minimum": 0},
                "guests": {"type": "array", "items": {"$ref": "#/$defs/guest"}},
            },
            "required": ["budget"],
            "additionalProperties": false,
            "$defs": {"guest": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}}}},
        });
        let behavior = behavior(&[("budget", "number"), ("guests", "text")], Some(&strict));
        assert_eq!(paths(&json!({"budget": 1, "guests": "none"}), &behavior), ["/guests"], "text, and no list");
        let mut found = paths(&json!({"budget": -1, "guests": [{"name": "Ada"}, {"name": "bob"}], "x": 1}), &behavior);
        found.sort();
        assert_eq!(found, ["", "/budget", "/guests", "/guests/1/name"]);
        assert_eq!(paths(&json!({"guests": []}), &behavior), ["/budget", "/guests", ""], "both are asked");
    }

    #[test]
    fn warnings_are_bounded_in_number_and_length() {
        let behavior = behavior(&[("a", "text")], None);
        let mut results: JsonObject = (0..500).map(|n| (format!("key{n}"), Value::Null)).collect();
        results.insert("ü".repeat(5_000), Value::Null);
        results.insert("line\nbreak".to_owned(), Value::Null);
        let warnings = check(&results, &behavior);
        assert_eq!(warnings.len(), WARNINGS_MAX + 1);
        assert_eq!(warnings[WARNINGS_MAX], ResultWarning::new("", "and 403 more"));
        let alone = check(&[("ü\n".repeat(5_000), Value::Null)].into_iter().collect(), &behavior);
        assert_eq!(alone[1].path.chars().count(), WORDS_MAX_CHARS + 1);
        assert!(!alone[1].path.contains('\n'));
    }

    #[test]
    fn a_schema_that_would_take_for_ever_is_not_asked() {
        // Each definition asks the next one twice: 2^40 answers.
        let twice = |next: usize| {
            let next = format!("#/$defs/{next}");
            json!({"anyOf": [{"$ref": next}, {"$ref": next}]})
        };
        let mut defs: JsonObject = (0..40).map(|n| (n.to_string(), twice(n + 1))).collect();
        defs.insert("40".to_owned(), json!({"type": "number"}));
        let bomb = json!({"properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": defs});
        let behavior = behavior(&[], Some(&bomb));
        assert_eq!(told(&json!({}), &behavior), [], "there is nothing to ask it about");
        let warnings = told(&json!({"a": "text"}), &behavior);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].1.starts_with("could not be checked"), "{warnings:?}");
    }

    #[test]
    fn a_schema_that_asks_itself_does_not_overflow_the_stack() {
        let circle = json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"});
        assert_eq!(paths(&json!({"a": 1}), &behavior(&[], Some(&circle))), [""]);
        let tree = json!({"properties": {"left": {"$ref": "#"}, "leaf": {"type": "number"}}});
        let mut results = json!({"leaf": "no"});
        for _ in 0..14 {
            results = json!({ "left": results });
        }
        let found = paths(&results, &behavior(&[], Some(&tree)));
        assert_eq!(found, [format!("{}/leaf", "/left".repeat(14))]);
    }

    #[test]
    fn the_longest_chain_of_references_that_is_asked_fits_the_stack() {
        let link = |number: usize| {
            (0..28).fold(json!({"$ref": format!("#/$defs/{number}")}), |inner, _| json!({ "not": inner }))
        };
        let mut chain: JsonObject = (1..=180).map(|number| ((number - 1).to_string(), link(number))).collect();
        chain.insert("180".to_owned(), json!({"type": "object"}));
        let schema = json!({"$ref": "#/$defs/0", "$defs": chain, "unevaluatedProperties": true});
        assert_eq!(told(&json!({"a": 1}), &behavior(&[], Some(&schema))), [], "an even number of negations");
    }
}
