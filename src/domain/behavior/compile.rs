//! Compiles a behavior into the text that an AI service is given as its system instruction.
//!
//! Deterministic: the same behavior is the same text, byte for byte. A section or a sentence stands there if what it is
//! about was configured, and not otherwise. Text of the tenant's is put in as it is: it is the tenant's own prompt.

use super::{Behavior, Controls, Question, QuestionType, ResponseLength, SpeakingPace, Tone, Voice};

pub(super) fn compile(behavior: &Behavior) -> String {
    let controls = &behavior.controls;
    let sections = [
        ("", vec![behavior.instructions.clone()]),
        ("Conversation", conversation(behavior)),
        ("Style", style(controls)),
        ("Opening", opening(behavior)),
        ("Questions", questions(behavior)),
        ("Tools", tools(behavior)),
        ("Handing over", escalation(controls)),
        ("Closing", closing(behavior)),
        ("Results", results(behavior)),
    ];
    let mut text = String::new();
    for (title, lines) in sections.iter().filter(|(_, lines)| !lines.is_empty()) {
        if !title.is_empty() {
            text.push_str("\n\n## ");
            text.push_str(title);
            text.push('\n');
        }
        text.push_str(&lines.join("\n"));
    }
    text
}

fn conversation(behavior: &Behavior) -> Vec<String> {
    let purpose = behavior.purpose.as_ref().map(|purpose| format!("Purpose of this call: {purpose}"));
    let language = format!("Speak {} (BCP 47), unless the caller asks for another language.", behavior.language);
    let voice = behavior.voice.as_ref().map(voice);
    let turns = format!("The conversation ends after {} turns at the latest.", behavior.max_turns);
    let duration = behavior.controls.max_duration_seconds;
    let duration = duration.map(|seconds| format!("It ends after {seconds} seconds at the latest."));
    [purpose, Some(language), voice, Some(turns), duration].into_iter().flatten().collect()
}

fn voice(voice: &Voice) -> String {
    match &voice.language_code {
        Some(language) => format!("Your words are spoken by the voice {} in {language}.", voice.voice_id),
        None => format!("Your words are spoken by the voice {}.", voice.voice_id),
    }
}

fn style(controls: &Controls) -> Vec<String> {
    let tone = controls.tone.map(|tone| match tone {
        Tone::Professional => "Sound professional and businesslike.",
        Tone::Friendly => "Sound friendly and warm.",
        Tone::Neutral => "Sound neutral and matter-of-fact.",
        Tone::Empathetic => "Sound empathetic and understanding.",
    });
    let pace = controls.speaking_pace.map(|pace| match pace {
        SpeakingPace::Slow => "Speak slowly.",
        SpeakingPace::Normal => "Speak at a normal pace.",
        SpeakingPace::Fast => "Speak fast.",
    });
    let length = controls.response_length.map(|length| match length {
        ResponseLength::Brief => "Answer briefly, in a sentence or so.",
        ResponseLength::Moderate => "Answer in a few sentences.",
        ResponseLength::Detailed => "Answer in detail, as long as the matter needs.",
    });
    let interruptions = controls.allow_interruptions.map(|allowed| match allowed {
        true => "The caller may interrupt you: stop and listen.",
        false => "Finish what you are saying even if the caller talks over you.",
    });
    let follow_up = controls.follow_up_enabled.map(|enabled| match enabled {
        true => "You may ask follow-up questions of your own.",
        false => "Ask no follow-up questions of your own.",
    });
    let fixed = [tone, pace, length, interruptions, follow_up].into_iter().flatten().map(str::to_owned);
    let silence = controls.silence_timeout_seconds;
    let silence = silence.map(|seconds| format!("After {seconds} seconds of silence, speak up or close the call."));
    fixed.chain(silence).collect()
}

fn opening(behavior: &Behavior) -> Vec<String> {
    let greeting = behavior.controls.greeting.as_ref().map(|text| format!("When the call is answered, say: {text}"));
    let initial = behavior.initial_message.as_ref().map(|text| format!("Your first message is: {text}"));
    [greeting, initial].into_iter().flatten().collect()
}

fn questions(behavior: &Behavior) -> Vec<String> {
    if behavior.questions.is_empty() {
        return Vec::new();
    }
    let listed = behavior.questions.iter().enumerate().map(|(index, it)| format!("{}. {}", index + 1, question(it)));
    std::iter::once("Ask the caller, in this order:".to_owned()).chain(listed).collect()
}

fn question(question: &Question) -> String {
    let kind = match (question.kind, question.min, question.max) {
        (QuestionType::Text, ..) => "text".to_owned(),
        (QuestionType::Boolean, ..) => "yes or no".to_owned(),
        (QuestionType::Date, ..) => "a date".to_owned(),
        (QuestionType::Enum, ..) => "a choice".to_owned(),
        (QuestionType::Number, None, None) => "a number".to_owned(),
        (QuestionType::Number, Some(min), None) => format!("a number of at least {min}"),
        (QuestionType::Number, None, Some(max)) => format!("a number of at most {max}"),
        (QuestionType::Number, Some(min), Some(max)) => format!("a number from {min} to {max}"),
    };
    let options = match question.options.as_slice() {
        [] => String::new(),
        options => format!("; one of: {}", options.join(" | ")),
    };
    format!("[{}] {} (answer: {kind}{options})", question.key, question.ask)
}

fn tools(behavior: &Behavior) -> Vec<String> {
    if behavior.tools.is_empty() {
        return Vec::new();
    }
    let listed = behavior.tools.iter().map(|tool| match tool.description.as_str() {
        "" => format!("- {}", tool.name),
        description => format!("- {}: {description}", tool.name),
    });
    std::iter::once("You may call these functions:".to_owned()).chain(listed).collect()
}

fn escalation(controls: &Controls) -> Vec<String> {
    let phrase = controls.escalation_phrase.as_ref();
    phrase.map(|text| format!("Before you hand the caller to a person, say: {text}")).into_iter().collect()
}

fn closing(behavior: &Behavior) -> Vec<String> {
    let controls = &behavior.controls;
    let all = controls.require_all_questions.map(|required| match required {
        true => "Do not close the call before every question has been asked.".to_owned(),
        false => "You may close the call before every question has been asked.".to_owned(),
    });
    let end = controls.end_conversation_after_questions.map(|ends| match ends {
        true => "Close the call once the last question has been answered.".to_owned(),
        false => "Go on with the conversation after the last question, if the caller wants to.".to_owned(),
    });
    let message = controls.closing_message.as_ref().map(|text| format!("Before you close the call, say: {text}"));
    [all, end, message].into_iter().flatten().collect()
}

fn results(behavior: &Behavior) -> Vec<String> {
    let mut lines = Vec::new();
    if !behavior.output_schema.is_empty() {
        lines.push("Collect these results:".to_owned());
        lines.extend(behavior.output_schema.iter().map(|(key, kind)| format!("- {key}: {kind}")));
    }
    if let Some(schema) = &behavior.output_schema_strict {
        let schema = serde_json::Value::Object(schema.clone());
        lines.push(format!("The results must be valid under this JSON Schema: {schema}"));
    }
    lines.extend(
        behavior.extraction_model.as_ref().map(|model| format!("The results are extracted by the model {model}.")),
    );
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{BehaviorDraft, Controls, Tool, VoiceDraft},
        *,
    };

    fn compiled(draft: BehaviorDraft) -> String {
        Behavior::parse(draft).expect("a valid behavior").system_instruction
    }

    fn minimal() -> BehaviorDraft {
        BehaviorDraft { instructions: Some("You are Ada, who books tables.".into()), ..BehaviorDraft::default() }
    }

    fn question(key: &str, kind: QuestionType) -> Question {
        Question { key: key.into(), ask: format!("What about {key}?"), kind, options: Vec::new(), min: None, max: None }
    }

    fn full() -> BehaviorDraft {
        let strict = json!({"type": "object", "required": ["guests"], "properties": {"guests": {"minimum": 1}}});
        BehaviorDraft {
            language: Some("de-CH".into()),
            purpose: Some("A table for tonight".into()),
            voice: VoiceDraft { voice_id: Some("nova".into()), language_code: Some("de-DE".into()) },
            tools: vec![
                Tool { name: "find_table".into(), description: "Looks for a free table.".into(), parameters: None },
                Tool { name: "hang-up".into(), description: String::new(), parameters: None },
            ],
            max_turns: Some(7),
            questions: vec![
                question("name", QuestionType::Text),
                Question { min: Some(1.0), max: Some(12.5), ..question("guests", QuestionType::Number) },
                Question { min: Some(-3.0), ..question("floor", QuestionType::Number) },
                Question { max: Some(90.0), ..question("minutes", QuestionType::Number) },
                question("budget", QuestionType::Number),
                question("smoking", QuestionType::Boolean),
                question("day", QuestionType::Date),
                Question { options: vec!["inside".into(), "outside".into()], ..question("place", QuestionType::Enum) },
            ],
            controls: Controls {
                greeting: Some("Good evening!".into()),
                tone: Some(Tone::Friendly),
                speaking_pace: Some(SpeakingPace::Slow),
                response_length: Some(ResponseLength::Brief),
                escalation_phrase: Some("I hand you over.".into()),
                closing_message: Some("Goodbye.\nUntil tonight.".into()),
                max_duration_seconds: Some(300),
                silence_timeout_seconds: Some(10),
                allow_interruptions: Some(true),
                follow_up_enabled: Some(true),
                require_all_questions: Some(true),
                end_conversation_after_questions: Some(true),
            },
            output_schema: [("guests".into(), "number".into()), ("a".into(), "enum:x,y".into())].into(),
            output_schema_strict: strict.as_object().cloned(),
            extraction_model: Some("small-1".into()),
            initial_message: Some("Hello, this is Ada.".into()),
            ..minimal()
        }
    }

    #[test]
    fn a_behavior_with_everything_is_compiled_in_sections() {
        insta::assert_snapshot!("full", compiled(full()));
        assert_eq!(compiled(full()), compiled(full()), "the same for the same input");
    }

    #[test]
    fn a_behavior_with_nothing_but_instructions_has_no_empty_section() {
        insta::assert_snapshot!("minimal", compiled(minimal()));
    }

    #[test]
    fn what_is_switched_off_is_said_as_well() {
        let off = Controls {
            tone: Some(Tone::Professional),
            speaking_pace: Some(SpeakingPace::Fast),
            response_length: Some(ResponseLength::Detailed),
            allow_interruptions: Some(false),
            follow_up_enabled: Some(false),
            require_all_questions: Some(false),
            end_conversation_after_questions: Some(false),
            ..Controls::default()
        };
        insta::assert_snapshot!("switched_off", compiled(BehaviorDraft { controls: off, ..minimal() }));
        let other = Controls {
            tone: Some(Tone::Neutral),
            speaking_pace: Some(SpeakingPace::Normal),
            response_length: Some(ResponseLength::Moderate),
            ..Controls::default()
        };
        insta::assert_snapshot!("moderate", compiled(BehaviorDraft { controls: other, ..minimal() }));
        let other = Controls { tone: Some(Tone::Empathetic), ..Controls::default() };
        let voice = VoiceDraft { voice_id: Some("nova".into()), language_code: None };
        insta::assert_snapshot!("empathetic", compiled(BehaviorDraft { controls: other, voice, ..minimal() }));
    }

    /// Each part takes what it says away with it, and nothing else.
    #[test]
    fn every_part_is_absent_where_it_is_not_configured() {
        type Clear = fn(&mut BehaviorDraft);
        let parts: [(&str, Clear); 20] = [
            ("Purpose of this call", |it| it.purpose = None),
            ("Your words are spoken", |it| it.voice = VoiceDraft::default()),
            ("## Tools\nYou may call these functions:\n- find_table: Looks", |it| it.tools.clear()),
            ("## Questions\nAsk the caller, in this order:\n1. [name]", |it| it.questions.clear()),
            ("Good evening!", |it| it.controls.greeting = None),
            ("Sound friendly", |it| it.controls.tone = None),
            ("Speak slowly", |it| it.controls.speaking_pace = None),
            ("Answer briefly", |it| it.controls.response_length = None),
            ("## Handing over\nBefore you hand", |it| it.controls.escalation_phrase = None),
            ("Before you close the call", |it| it.controls.closing_message = None),
            ("It ends after 300 seconds", |it| it.controls.max_duration_seconds = None),
            ("After 10 seconds of silence", |it| it.controls.silence_timeout_seconds = None),
            ("The caller may interrupt", |it| it.controls.allow_interruptions = None),
            ("You may ask follow-up", |it| it.controls.follow_up_enabled = None),
            ("Do not close the call before", |it| it.controls.require_all_questions = None),
            ("Close the call once", |it| it.controls.end_conversation_after_questions = None),
            ("Collect these results:\n- a: enum:x,y\n- guests: number", |it| it.output_schema.clear()),
            ("under this JSON Schema: {\"properties\"", |it| it.output_schema_strict = None),
            ("by the model small-1", |it| it.extraction_model = None),
            ("Your first message is", |it| it.initial_message = None),
        ];
        let whole = compiled(full());
        for (said, clear) in parts {
            let mut draft = full();
            clear(&mut draft);
            let without = compiled(draft);
            assert!(whole.contains(said) && !without.contains(said), "{said}: {without}");
            let lost = whole.lines().filter(|line| !without.contains(line)).count();
            assert!(without.lines().all(|line| whole.contains(line)) && lost > 0, "{said}: {without}");
        }
    }
}
