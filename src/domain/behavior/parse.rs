//! The rules of contract section 2.1.

use std::collections::{BTreeMap, HashSet};

use super::{
    ASK_MAX_CHARS, BEHAVIOR_MAX_BYTES, Behavior, BehaviorDraft, CLOSING_MESSAGE_MAX_CHARS, Controls, ControlsDraft,
    ESCALATION_PHRASE_MAX_CHARS, EXTRACTION_MODEL_MAX_CHARS, GREETING_MAX_CHARS, INITIAL_MESSAGE_MAX_CHARS,
    INSTRUCTIONS_MAX_CHARS, LANGUAGE_DEFAULT, MAX_TURNS_DEFAULT, MAX_TURNS_MAX, OPTION_MAX_CHARS, OPTIONS_MAX,
    OUTPUT_SCHEMA_MAX_ENTRIES, OUTPUT_TYPE_MAX_CHARS, OutputType, PURPOSE_MAX_CHARS, QUESTIONS_MAX, Question,
    QuestionType, Schemas, TOOL_DESCRIPTION_MAX_CHARS, TOOLS_MAX, Tool, VOICE_ID_MAX_CHARS, Voice, VoiceDraft,
    compile::compile,
};
use crate::domain::{
    number::{optional_ranged, ranged},
    text::{bounded_text, optional_prose, parse_identifier, parse_language, required_prose},
    violations::{Fault, Violations},
};

/// Of a map's key that is named in a violation, which leaves room for the path in front of it.
const SHOWN_KEY_CHARS: usize = 32;

impl Behavior {
    pub fn parse(draft: BehaviorDraft) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let mut schemas = Schemas::default();
        let instructions = faults.take("instructions", required_prose(draft.instructions, INSTRUCTIONS_MAX_CHARS));
        let language = draft.language.unwrap_or_else(|| LANGUAGE_DEFAULT.to_owned());
        let language = faults.take("language", parse_language(language));
        let purpose = faults.take("purpose", optional_prose(draft.purpose, PURPOSE_MAX_CHARS));
        let voice = Voice::parse(draft.voice, &mut faults);
        let tools = parse_tools(draft.tools, &mut schemas, &mut faults);
        let max_turns = faults.take("max_turns", ranged(draft.max_turns, 1, MAX_TURNS_MAX, MAX_TURNS_DEFAULT));
        let questions = parse_questions(draft.questions, &mut faults);
        let controls = parse_controls(draft.controls, &mut faults);
        check_output_schema(&draft.output_schema, &mut faults);
        let strict = draft.output_schema_strict;
        let strict = strict.map(|schema| schemas.check(&schema).map(|()| schema)).transpose();
        let strict = faults.take("output_schema_strict", strict);
        let extraction_model =
            faults.take("extraction_model", optional_name(draft.extraction_model, EXTRACTION_MODEL_MAX_CHARS));
        let initial_message =
            faults.take("initial_message", optional_prose(draft.initial_message, INITIAL_MESSAGE_MAX_CHARS));

        let behavior = (|| {
            Some(Self {
                instructions: instructions?,
                language: language?,
                purpose: purpose?,
                voice: voice?,
                tools,
                max_turns: max_turns?,
                questions,
                controls: controls?,
                output_schema: draft.output_schema,
                output_schema_strict: strict?,
                extraction_model: extraction_model?,
                initial_message: initial_message?,
                system_instruction: String::new(),
            })
        })();
        faults.into_result(behavior)?.compiled()
    }

    fn compiled(mut self) -> Result<Self, Violations> {
        self.system_instruction = compile(&self);
        if self.bytes() > BEHAVIOR_MAX_BYTES {
            let rule = format!("must be at most {BEHAVIOR_MAX_BYTES} bytes with its system_instruction");
            return Err(Violations::from(("", Fault::new(rule))));
        }
        Ok(self)
    }
}

/// A name of somebody else's: printable, on one line. Empty says as much as none.
fn optional_name(text: Option<String>, max_chars: usize) -> Result<Option<String>, Fault> {
    text.filter(|text| !text.is_empty()).map(|text| bounded_text(text, max_chars)).transpose()
}

impl Voice {
    /// At fault, or a voice, or none where nothing is said.
    pub fn parse(draft: VoiceDraft, faults: &mut Violations) -> Option<Option<Self>> {
        if draft == VoiceDraft::default() {
            return Some(None);
        }
        let voice_id = draft.voice_id.filter(|id| !id.is_empty()).ok_or_else(Fault::required);
        let voice_id = faults.take("voice.voice_id", voice_id.and_then(|id| bounded_text(id, VOICE_ID_MAX_CHARS)));
        let language_code = faults.take("voice.language_code", draft.language_code.map(parse_language).transpose());
        Some(Some(Self { voice_id: voice_id?, language_code: language_code? }))
    }
}

/// Notes a list that is too long; as much of it is looked at as may be there.
fn within<T>(field: &str, mut list: Vec<T>, max: usize, faults: &mut Violations) -> Vec<T> {
    if list.len() > max {
        faults.add(field, Fault::new(format!("must have at most {max} entries")));
        list.truncate(max);
    }
    list
}

fn parse_tools(tools: Vec<Tool>, schemas: &mut Schemas, faults: &mut Violations) -> Vec<Tool> {
    let mut names = HashSet::new();
    let tools = within("tools", tools, TOOLS_MAX, faults);
    let parse_one = |(index, tool): (usize, Tool)| {
        let mut own = Violations::default();
        let name = own.take("name", parse_identifier(tool.name, true).and_then(|name| unique(name, &mut names)));
        let description = optional_prose(Some(tool.description), TOOL_DESCRIPTION_MAX_CHARS);
        let description = own.take("description", description);
        let parameters = tool.parameters.map(|schema| schemas.check(&schema).map(|()| schema)).transpose();
        let parameters = own.take("parameters", parameters);
        faults.absorb(&format!("tools[{index}]"), own);
        Some(Tool { name: name?, description: description?.unwrap_or_default(), parameters: parameters? })
    };
    tools.into_iter().enumerate().filter_map(parse_one).collect()
}

fn unique(name: String, taken: &mut HashSet<String>) -> Result<String, Fault> {
    if taken.insert(name.clone()) { Ok(name) } else { Err(Fault::new("must differ from those before it")) }
}

fn parse_questions(questions: Vec<Question>, faults: &mut Violations) -> Vec<Question> {
    let mut keys = HashSet::new();
    let questions = within("questions", questions, QUESTIONS_MAX, faults);
    let parse_one = |(index, question): (usize, Question)| {
        let mut own = Violations::default();
        let key = own.take("key", parse_identifier(question.key, false).and_then(|key| unique(key, &mut keys)));
        let ask = own.take("ask", required_prose(Some(question.ask), ASK_MAX_CHARS));
        let options = parse_options(question.kind, question.options, &mut own);
        check_range(question.kind, question.min, question.max, &mut own);
        faults.absorb(&format!("questions[{index}]"), own);
        let Question { kind, min, max, .. } = question;
        Some(Question { key: key?, ask: ask?, kind, options, min, max })
    };
    questions.into_iter().enumerate().filter_map(parse_one).collect()
}

fn parse_options(kind: QuestionType, options: Vec<String>, faults: &mut Violations) -> Vec<String> {
    if kind == QuestionType::Enum && options.is_empty() {
        faults.add("options", Fault::required());
    }
    let mut taken = HashSet::new();
    let options = within("options", options, OPTIONS_MAX, faults);
    let parse_one = |(index, option): (usize, String)| {
        let parsed = bounded_text(option, OPTION_MAX_CHARS).and_then(|option| unique(option, &mut taken));
        faults.take(&format!("options[{index}]"), parsed)
    };
    options.into_iter().enumerate().filter_map(parse_one).collect()
}

fn check_range(kind: QuestionType, min: Option<f64>, max: Option<f64>, faults: &mut Violations) {
    for (field, bound) in [("min", min), ("max", max)] {
        match bound {
            Some(_) if kind != QuestionType::Number => {
                faults.add(field, Fault::new("is for a question of type NUMBER alone"));
            }
            Some(bound) if !bound.is_finite() => faults.add(field, Fault::new("must not be NaN or infinity")),
            _ => {}
        }
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        faults.add("min", Fault::new("must not be above max"));
    }
}

fn parse_controls(draft: ControlsDraft, faults: &mut Violations) -> Option<Controls> {
    let mut own = Violations::default();
    let greeting = own.take("greeting", optional_prose(draft.greeting, GREETING_MAX_CHARS));
    let escalation_phrase =
        own.take("escalation_phrase", optional_prose(draft.escalation_phrase, ESCALATION_PHRASE_MAX_CHARS));
    let closing_message = own.take("closing_message", optional_prose(draft.closing_message, CLOSING_MESSAGE_MAX_CHARS));
    let max_duration_seconds = own.take("max_duration_seconds", optional_ranged(draft.max_duration_seconds, 60, 1_800));
    let silence_timeout_seconds =
        own.take("silence_timeout_seconds", optional_ranged(draft.silence_timeout_seconds, 5, 60));
    faults.absorb("controls", own);
    Some(Controls {
        greeting: greeting?,
        tone: draft.tone,
        speaking_pace: draft.speaking_pace,
        response_length: draft.response_length,
        escalation_phrase: escalation_phrase?,
        closing_message: closing_message?,
        max_duration_seconds: max_duration_seconds?,
        silence_timeout_seconds: silence_timeout_seconds?,
        allow_interruptions: draft.allow_interruptions,
        follow_up_enabled: draft.follow_up_enabled,
        require_all_questions: draft.require_all_questions,
        end_conversation_after_questions: draft.end_conversation_after_questions,
    })
}

fn check_output_schema(schema: &BTreeMap<String, String>, faults: &mut Violations) {
    if schema.len() > OUTPUT_SCHEMA_MAX_ENTRIES {
        let rule = format!("must have at most {OUTPUT_SCHEMA_MAX_ENTRIES} entries");
        faults.add("output_schema", Fault::new(rule));
    }
    for (key, kind) in schema.iter().take(OUTPUT_SCHEMA_MAX_ENTRIES) {
        let field = || format!("output_schema[{:?}]", key.chars().take(SHOWN_KEY_CHARS).collect::<String>());
        if let Err(fault) = parse_identifier(key.clone(), false) {
            faults.add(field(), Fault::new(format!("must have a key as a question has: {}", fault.description)));
        }
        if kind.chars().count() > OUTPUT_TYPE_MAX_CHARS {
            faults.add(field(), Fault::new(format!("must be at most {OUTPUT_TYPE_MAX_CHARS} characters")));
        } else if let Err(fault) = OutputType::parse(kind) {
            faults.add(field(), fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> BehaviorDraft {
        BehaviorDraft { instructions: Some("Be brief.".into()), ..BehaviorDraft::default() }
    }

    #[test]
    fn a_minimal_behavior_gets_the_contracts_defaults() {
        let behavior = Behavior::parse(minimal()).expect("valid");
        assert_eq!((behavior.language.as_str(), behavior.max_turns), ("en-US", 50));
        assert!(behavior.voice.is_none() && behavior.controls == Controls::default());
    }

    #[test]
    fn a_behavior_that_is_read_back_from_its_stored_form_is_the_same_and_parses_to_itself() {
        let draft = BehaviorDraft {
            questions: vec![Question {
                key: "k".into(),
                ask: "How much?".into(),
                kind: QuestionType::Number,
                options: Vec::new(),
                min: Some(0.1 + 0.2),
                max: Some(1e300),
            }],
            controls: Controls { max_duration_seconds: Some(60), ..Controls::default() },
            ..minimal()
        };
        let behavior = Behavior::parse(draft).expect("valid");
        let stored = serde_json::to_string(&behavior).expect("JSON");
        assert_eq!(serde_json::from_str::<Behavior>(&stored).expect("a behavior"), behavior);
        assert_eq!(Behavior::parse(BehaviorDraft::from(&behavior)), Ok(behavior));
    }

    #[test]
    fn what_is_right_part_by_part_may_be_too_large_together() {
        let tool = |number: usize| Tool {
            name: format!("t{number}"),
            description: "ü".repeat(TOOL_DESCRIPTION_MAX_CHARS),
            parameters: None,
        };
        let faults = Behavior::parse(BehaviorDraft { tools: (0..TOOLS_MAX).map(tool).collect(), ..minimal() });
        let faults = faults.expect_err("256 KiB");
        assert_eq!(faults.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), [""]);
    }
}
