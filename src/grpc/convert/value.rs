//! Well-known types: times, durations and free-form objects.

use std::{collections::BTreeMap, time::Duration};

use prost_types::{Struct, Value, value::Kind};
use serde_json::{Map, Number, Value as Json};

use crate::domain::{
    clock::Timestamp,
    text::json_bytes,
    violations::{Fault, Violations},
};

/// Bytes of a free-form object, as JSON.
pub(crate) const OBJECT_MAX_BYTES: u64 = 16 * 1024;
/// Lists and objects inside each other: deep ones cost more than they say.
const OBJECT_MAX_DEPTH: usize = 16;
/// Whole numbers up to here are exact in the wire's only kind of number.
const WHOLE_NUMBER_MAX: f64 = 9_007_199_254_740_992.0;

pub(crate) fn timestamp(moment: Timestamp) -> prost_types::Timestamp {
    let micros = moment.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

pub(crate) fn read_timestamp(wire: prost_types::Timestamp) -> Result<Timestamp, Fault> {
    let in_range = (-62_135_596_800..=253_402_300_799).contains(&wire.seconds);
    if !in_range || !(0..1_000_000_000).contains(&wire.nanos) {
        return Err(Fault::new("must be a time from year 1 to 9999"));
    }
    Ok(Timestamp::from_micros(wire.seconds * 1_000_000 + i64::from(wire.nanos) / 1_000))
}

pub(crate) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// A duration within bounds, or `default` where there is none.
pub(crate) fn read_duration(
    field: &str,
    wire: Option<prost_types::Duration>,
    (min, max): (Duration, Duration),
    default: Duration,
    faults: &mut Violations,
) -> Duration {
    let Some(wire) = wire else { return default };
    let read = u64::try_from(wire.seconds).ok().zip(u32::try_from(wire.nanos).ok());
    let span = read.filter(|(_, nanos)| *nanos < 1_000_000_000).map(|(secs, nanos)| Duration::new(secs, nanos));
    match span.filter(|span| (min..=max).contains(span)) {
        Some(span) => span,
        None => {
            faults.add(field, Fault::new(format!("must be {} s to {} s", min.as_secs(), max.as_secs())));
            default
        }
    }
}

pub fn read_object(wire: Option<Struct>) -> Result<Map<String, Json>, Fault> {
    let object = match wire {
        Some(wire) => read_object_within(wire, OBJECT_MAX_DEPTH)?,
        None => Map::new(),
    };
    if json_bytes(&object) > OBJECT_MAX_BYTES {
        return Err(Fault::new(format!("must be at most {OBJECT_MAX_BYTES} bytes as JSON")));
    }
    Ok(object)
}

/// Any JSON value of at most `max_bytes`.
pub fn read_value_within(wire: Value, max_bytes: u64) -> Result<Json, Fault> {
    let value = read_value(wire, 0, OBJECT_MAX_DEPTH)?;
    if json_bytes(&value) > max_bytes {
        return Err(Fault::new(format!("must be at most {max_bytes} bytes as JSON")));
    }
    Ok(value)
}

/// As deep as `max_depth`; as long as its message may be, for the caller to bound.
pub fn read_object_within(wire: Struct, max_depth: usize) -> Result<Map<String, Json>, Fault> {
    read_fields(wire, 0, max_depth)
}

fn read_fields(wire: Struct, depth: usize, max_depth: usize) -> Result<Map<String, Json>, Fault> {
    let read_field = |(key, value): (String, Value)| {
        // Neither database keeps a NUL in its JSON.
        if key.contains('\0') {
            return Err(Fault::new("must not contain a NUL character"));
        }
        Ok((key, read_value(value, depth + 1, max_depth)?))
    };
    wire.fields.into_iter().map(read_field).collect()
}

fn read_value(wire: Value, depth: usize, max_depth: usize) -> Result<Json, Fault> {
    if depth > max_depth {
        return Err(Fault::new(format!("must not be deeper than {max_depth} levels")));
    }
    Ok(match wire.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(value)) => Json::Number(read_number(value)?),
        Some(Kind::StringValue(value)) if value.contains('\0') => {
            return Err(Fault::new("must not contain a NUL character"));
        }
        Some(Kind::StringValue(value)) => Json::String(value),
        Some(Kind::ListValue(list)) => {
            let read_one = |value| read_value(value, depth + 1, max_depth);
            Json::Array(list.values.into_iter().map(read_one).collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(fields)) => Json::Object(read_fields(fields, depth, max_depth)?),
    })
}

/// 5 and not 5.0: the wire has no whole numbers, and who reads the JSON has.
fn read_number(value: f64) -> Result<Number, Fault> {
    let whole = value.fract() == 0.0 && value.abs() <= WHOLE_NUMBER_MAX && !(value == 0.0 && value.is_sign_negative());
    if whole {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within what both types hold")]
        return Ok(Number::from(value as i64));
    }
    Number::from_f64(value).ok_or_else(|| Fault::new("must not contain NaN or infinity"))
}

pub fn object(json: &Map<String, Json>) -> Struct {
    Struct { fields: json.iter().map(|(key, json)| (key.clone(), value(json))).collect::<BTreeMap<_, _>>() }
}

pub fn value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::MAX)),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(list) => Kind::ListValue(prost_types::ListValue { values: list.iter().map(value).collect() }),
        Json::Object(fields) => Kind::StructValue(object(fields)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_read_back_as_they_were_written() {
        let json = serde_json::json!({"a": [1.5, 7, -3, null, true, {"b": "ü"}], "c": {}});
        let map = json.as_object().expect("an object").clone();
        assert_eq!(read_object(Some(object(&map))).expect("valid"), map);
    }

    #[test]
    fn deep_large_and_impossible_objects_are_refused() {
        let mut deep = Json::Null;
        for _ in 0..=OBJECT_MAX_DEPTH {
            deep = serde_json::json!({ "a": deep });
        }
        let deep = deep.as_object().expect("an object").clone();
        let large = serde_json::json!({"a": "x".repeat(16 * 1024)}).as_object().expect("an object").clone();
        let nul = serde_json::json!({"a": "\0"}).as_object().expect("an object").clone();
        let nul_key = serde_json::json!({"a": {"\0": 1}}).as_object().expect("an object").clone();
        for object_ in [deep, large, nul, nul_key] {
            assert!(read_object(Some(object(&object_))).is_err());
        }
        let nan = Struct { fields: [("a".into(), Value { kind: Some(Kind::NumberValue(f64::NAN)) })].into() };
        assert!(read_object(Some(nan)).is_err());
    }
}
