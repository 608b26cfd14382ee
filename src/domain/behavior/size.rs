//! How large a behavior is where it is sent.
//!
//! Counted as the protobuf of `voice_agent.proto` counts, so that what is stored is sure to fit into a message: a free-form
//! object may take five times its JSON. `grpc::convert::behavior` holds it against the encoder.

use serde_json::Value;

use super::{Behavior, Question, Tool};
use crate::domain::verb::JsonObject;

/// Numbers and words of `controls`, with their tags: eight fields of at most five bytes each.
const CONTROLS_FIXED_BYTES: usize = 40;
/// `max_turns` with its tag.
const MAX_TURNS_BYTES: usize = 4;
/// `type`, `min` and `max` with their tags.
const QUESTION_FIXED_BYTES: usize = 20;

impl Behavior {
    /// Never less than the bytes that the behavior takes in a message.
    pub fn bytes(&self) -> usize {
        bytes(self)
    }
}

fn bytes(behavior: &Behavior) -> usize {
    let controls = &behavior.controls;
    let spoken = [&controls.greeting, &controls.escalation_phrase, &controls.closing_message];
    let voice = behavior
        .voice
        .as_ref()
        .map_or(0, |voice| framed(framed(voice.voice_id.len()) + voice.language_code.as_deref().map_or(0, text)));
    let others = [&behavior.purpose, &behavior.extraction_model, &behavior.initial_message];
    text(&behavior.instructions)
        + text(&behavior.language)
        + text(&behavior.system_instruction)
        + others.into_iter().flatten().map(|it| text(it)).sum::<usize>()
        + voice
        + behavior.tools.iter().map(|tool| framed(tool_bytes(tool))).sum::<usize>()
        + MAX_TURNS_BYTES
        + behavior.questions.iter().map(|question| framed(question_bytes(question))).sum::<usize>()
        + framed(spoken.into_iter().flatten().map(|it| text(it)).sum::<usize>() + CONTROLS_FIXED_BYTES)
        + behavior.output_schema.iter().map(|(key, kind)| framed(text(key) + text(kind))).sum::<usize>()
        + behavior.output_schema_strict.as_ref().map_or(0, |schema| framed(object(schema)))
}

fn tool_bytes(tool: &Tool) -> usize {
    text(&tool.name) + text(&tool.description) + tool.parameters.as_ref().map_or(0, |schema| framed(object(schema)))
}

fn question_bytes(question: &Question) -> usize {
    let options = question.options.iter().map(|it| text(it)).sum::<usize>();
    text(&question.key) + text(&question.ask) + options + QUESTION_FIXED_BYTES
}

fn text(text: &str) -> usize {
    framed(text.len())
}

fn object(object: &JsonObject) -> usize {
    object.iter().map(|(key, json)| framed(text(key) + framed(value(json)))).sum()
}

fn value(json: &Value) -> usize {
    match json {
        Value::Null | Value::Bool(_) => 2,
        Value::Number(_) => 9,
        Value::String(it) => text(it),
        Value::Array(list) => framed(list.iter().map(|it| framed(value(it))).sum()),
        Value::Object(fields) => framed(object(fields)),
    }
}

/// With a tag and a length in front. Tags of two bytes do not occur: no field has a number above 15.
const fn framed(length: usize) -> usize {
    let mut rest = length >> 7;
    let mut varint = 1;
    while rest > 0 {
        varint += 1;
        rest >>= 7;
    }
    1 + varint + length
}
