//! Behaviors on the wire. `system_instruction` is written and never read.

use super::{
    WireEnum, number, read_enum, read_present_enum,
    value::{object, read_object_within},
    wire_enum,
};
use crate::{
    domain::{
        Result,
        behavior::{
            Behavior, BehaviorDraft, Controls, ControlsDraft, Question, QuestionType, ResponseLength, SCHEMA_MAX_DEPTH,
            SpeakingPace, Tone, Tool, VoiceDraft,
        },
        violations::{Fault, Violations},
    },
    proto::v1,
};

wire_enum!(QuestionType, v1::QuestionType, { Text, Number, Boolean, Date, Enum });
wire_enum!(Tone, v1::Tone, { Professional, Friendly, Neutral, Empathetic });
wire_enum!(SpeakingPace, v1::SpeakingPace, { Slow, Normal, Fast });
wire_enum!(ResponseLength, v1::ResponseLength, { Brief, Moderate, Detailed });

pub(crate) fn read_preview(wire: v1::PreviewSystemInstructionRequest) -> Result<Behavior> {
    let mut faults = Violations::default();
    let behavior = match wire.behavior {
        None => faults.take("behavior", Err(Fault::required())),
        Some(wire) => {
            let draft = read_behavior("behavior", wire, &mut faults);
            Behavior::parse(draft).map_err(|part| faults.absorb("behavior", part)).ok()
        }
    };
    Ok(faults.into_result(behavior)?)
}

/// `path` is where it stands in the request.
pub(crate) fn read_behavior(path: &str, wire: v1::Behavior, faults: &mut Violations) -> BehaviorDraft {
    let mut own = Violations::default();
    let strict = wire.output_schema_strict.map(|schema| read_object_within(schema, SCHEMA_MAX_DEPTH)).transpose();
    let draft = BehaviorDraft {
        instructions: given(wire.instructions),
        language: wire.language,
        purpose: wire.purpose,
        voice: wire.voice.map(read_voice).unwrap_or_default(),
        tools: wire.tools.into_iter().enumerate().map(|(index, tool)| read_tool(index, tool, &mut own)).collect(),
        max_turns: wire.max_turns,
        questions: wire.questions.into_iter().enumerate().map(|it| read_question(it, &mut own)).collect(),
        controls: wire.controls.map(|controls| read_controls(controls, &mut own)).unwrap_or_default(),
        output_schema: wire.output_schema,
        output_schema_strict: own.take("output_schema_strict", strict).flatten(),
        extraction_model: wire.extraction_model,
        initial_message: wire.initial_message,
    };
    faults.absorb(path, own);
    draft
}

/// Text that has no presence of its own on the wire.
fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn read_voice(wire: v1::Voice) -> VoiceDraft {
    // A voice in which nothing is said is one without its id, not none.
    let id = if wire.language_code.is_none() { Some(wire.voice_id) } else { given(wire.voice_id) };
    VoiceDraft { voice_id: id, language_code: wire.language_code }
}

fn read_tool(index: usize, wire: v1::Tool, faults: &mut Violations) -> Tool {
    let parameters = wire.parameters.map(|schema| read_object_within(schema, SCHEMA_MAX_DEPTH)).transpose();
    let parameters = faults.take(&format!("tools[{index}].parameters"), parameters).flatten();
    Tool { name: wire.name, description: wire.description, parameters }
}

fn read_question((index, wire): (usize, v1::Question), faults: &mut Violations) -> Question {
    let kind = read_enum(&format!("questions[{index}].type"), wire.r#type, faults).unwrap_or(QuestionType::Text);
    Question { key: wire.key, ask: wire.ask, kind, options: wire.options, min: wire.min, max: wire.max }
}

fn read_controls(wire: v1::Controls, faults: &mut Violations) -> ControlsDraft {
    Controls {
        greeting: wire.greeting,
        tone: read_present_enum("controls.tone", wire.tone, faults),
        speaking_pace: read_present_enum("controls.speaking_pace", wire.speaking_pace, faults),
        response_length: read_present_enum("controls.response_length", wire.response_length, faults),
        escalation_phrase: wire.escalation_phrase,
        closing_message: wire.closing_message,
        max_duration_seconds: wire.max_duration_seconds,
        silence_timeout_seconds: wire.silence_timeout_seconds,
        allow_interruptions: wire.allow_interruptions,
        follow_up_enabled: wire.follow_up_enabled,
        require_all_questions: wire.require_all_questions,
        end_conversation_after_questions: wire.end_conversation_after_questions,
    }
}

pub(crate) fn write_behavior(behavior: &Behavior) -> v1::Behavior {
    v1::Behavior {
        instructions: behavior.instructions.clone(),
        language: Some(behavior.language.clone()),
        purpose: behavior.purpose.clone(),
        voice: behavior
            .voice
            .as_ref()
            .map(|voice| v1::Voice { voice_id: voice.voice_id.clone(), language_code: voice.language_code.clone() }),
        tools: behavior.tools.iter().map(write_tool).collect(),
        max_turns: Some(number(behavior.max_turns)),
        questions: behavior.questions.iter().map(write_question).collect(),
        controls: Some(&behavior.controls).filter(|it| **it != Controls::default()).map(write_controls),
        output_schema: behavior.output_schema.clone(),
        output_schema_strict: behavior.output_schema_strict.as_ref().map(object),
        extraction_model: behavior.extraction_model.clone(),
        initial_message: behavior.initial_message.clone(),
        system_instruction: behavior.system_instruction.clone(),
    }
}

fn write_tool(tool: &Tool) -> v1::Tool {
    let parameters = tool.parameters.as_ref().map(object);
    v1::Tool { name: tool.name.clone(), description: tool.description.clone(), parameters }
}

fn write_question(question: &Question) -> v1::Question {
    v1::Question {
        key: question.key.clone(),
        ask: question.ask.clone(),
        r#type: v1::QuestionType::from(question.kind).into(),
        options: question.options.clone(),
        min: question.min,
        max: question.max,
    }
}

fn write_controls(controls: &Controls) -> v1::Controls {
    let seconds = |seconds: Option<u32>| seconds.map(number);
    v1::Controls {
        greeting: controls.greeting.clone(),
        tone: controls.tone.map(wire),
        speaking_pace: controls.speaking_pace.map(wire),
        response_length: controls.response_length.map(wire),
        escalation_phrase: controls.escalation_phrase.clone(),
        closing_message: controls.closing_message.clone(),
        max_duration_seconds: seconds(controls.max_duration_seconds),
        silence_timeout_seconds: seconds(controls.silence_timeout_seconds),
        allow_interruptions: controls.allow_interruptions,
        follow_up_enabled: controls.follow_up_enabled,
        require_all_questions: controls.require_all_questions,
        end_conversation_after_questions: controls.end_conversation_after_questions,
    }
}

/// The number of an enum's value.
fn wire<E: WireEnum>(value: E) -> i32
where
    E::Wire: From<E> + Into<i32>,
{
    E::Wire::from(value).into()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    /// What the domain counts must be what the encoder writes, or more.
    #[test]
    fn no_behavior_is_larger_on_the_wire_than_it_was_counted() {
        let deep = (0..SCHEMA_MAX_DEPTH - 2).fold(json!({}), |inner, _| json!({ "not": inner }));
        let list: Vec<_> = (0..1_500).map(|number| json!([number, -0.5, true, null, "ü"])).collect();
        for schema in [deep, json!({ "enum": list }), json!({ "title": "x".repeat(40_000) })] {
            let schema = schema.as_object().cloned();
            let question = |number: i32| Question {
                key: format!("k{number}"),
                ask: "x".repeat(200),
                kind: QuestionType::Number,
                options: vec!["ü".repeat(100)],
                min: Some(0.0),
                max: Some(1.0),
            };
            let draft = BehaviorDraft {
                instructions: Some("ü".repeat(1_000)),
                purpose: Some("p".into()),
                voice: VoiceDraft { voice_id: Some("v".repeat(128)), language_code: Some("de".into()) },
                tools: vec![Tool { name: "t".into(), description: "d".into(), parameters: schema.clone() }],
                max_turns: Some(10_000),
                questions: (0..20).map(question).collect(),
                controls: ControlsDraft {
                    greeting: Some("g".into()),
                    tone: Some(Tone::Empathetic),
                    speaking_pace: Some(SpeakingPace::Fast),
                    response_length: Some(ResponseLength::Detailed),
                    max_duration_seconds: Some(1_800),
                    silence_timeout_seconds: Some(60),
                    allow_interruptions: Some(true),
                    follow_up_enabled: Some(true),
                    require_all_questions: Some(true),
                    end_conversation_after_questions: Some(true),
                    ..ControlsDraft::default()
                },
                output_schema: [("k".into(), "number".into())].into(),
                output_schema_strict: schema.filter(|schema| !schema.contains_key("enum")),
                extraction_model: Some("m".into()),
                initial_message: Some("i".into()),
                ..BehaviorDraft::default()
            };
            let behavior = Behavior::parse(draft).expect("a valid behavior");
            let (counted, written) = (behavior.bytes(), write_behavior(&behavior).encoded_len());
            assert!(written <= counted && counted <= written + 1_024, "{written} of {counted}");
        }
    }
}
