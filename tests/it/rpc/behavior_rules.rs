//! Contract section 2.1, row by row: each field of a behavior × its default, its last good and first bad values, and
//! what an update keeps, changes and clears.

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value, value::Kind};
use voxgate::proto::v1::{
    AcquireSlotRequest, Behavior, Controls, CreateVoiceAgentRequest, GetVoiceAgentRequest, ListVoiceAgentsRequest,
    PauseVoiceAgentRequest, PreviewSystemInstructionRequest, Question, QuestionType, ResponseLength, SpeakingPace,
    Tone, Tool, UpdateVoiceAgentRequest, Voice, VoiceAgent,
};

use crate::harness::{
    client::{faults, granted},
    raw_node::{RawNode, hello},
    world::{World, acquire, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_behavior_has_the_contracts_defaults,
    each_first_bad_value_is_refused_by_the_name_of_its_field,
    each_last_good_value_is_kept_as_sent,
    all_faults_of_a_behavior_are_named_at_once,
    each_field_is_set_kept_and_cleared,
    a_mask_names_the_behavior_or_what_is_inside,
    a_behavior_begins_with_what_is_written_into_it,
    the_output_only_text_is_ignored_in_a_body_and_refused_in_a_mask,
    the_compiled_text_follows_every_change_and_the_preview_saves_nothing,
    a_full_behavior_reads_back_as_it_was_answered,
    an_admitted_call_and_its_node_are_told_the_behavior_as_it_was,
    a_page_of_the_largest_behaviors_fits_into_its_message,
    the_largest_call_of_the_largest_behavior_reaches_its_node,
    a_schema_too_deep_to_be_read_is_a_fault_of_the_request,
);

pub(super) type Change = fn(&mut Behavior);

fn text(length: usize) -> String {
    "ü".repeat(length)
}

fn minimal() -> Behavior {
    Behavior { instructions: "You are Ada.".into(), ..Behavior::default() }
}

fn object(json: &serde_json::Value) -> Struct {
    let fields = json.as_object().expect("an object").iter().map(|(key, json)| (key.clone(), value(json)));
    Struct { fields: fields.collect() }
}

fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(it) => Kind::BoolValue(*it),
        Json::Number(it) => Kind::NumberValue(it.as_f64().expect("a number")),
        Json::String(it) => Kind::StringValue(it.clone()),
        Json::Array(list) => Kind::ListValue(ListValue { values: list.iter().map(value).collect() }),
        Json::Object(_) => Kind::StructValue(object(json)),
    };
    Value { kind: Some(kind) }
}

macro_rules! schema {
    ($($json:tt)+) => { Some(object(&serde_json::json!($($json)+))) };
}

/// A valid schema of so many objects and lists inside each other.
fn deep(levels: usize) -> Struct {
    // Two levels a step, and the rest in objects.
    let inner = if levels.is_multiple_of(2) { serde_json::json!({ "not": {} }) } else { serde_json::json!({}) };
    let steps = (levels - 1) / 2;
    object(&(0..steps).fold(inner, |inner, _| serde_json::json!({ "allOf": [inner] })))
}

/// As [`deep`], of objects alone: what takes the most messages inside each other on the wire.
fn deepest(levels: usize) -> Struct {
    object(&(1..levels).fold(serde_json::json!({}), |inner, _| serde_json::json!({ "not": inner })))
}

/// A valid schema of so many characters: twelve of them around its title.
fn long(characters: usize) -> Option<Struct> {
    schema!({ "title": "x".repeat(characters - 12) })
}

fn controls(behavior: &mut Behavior) -> &mut Controls {
    behavior.controls.get_or_insert_default()
}

fn voice(behavior: &mut Behavior, voice_id: &str, language_code: Option<&str>) {
    let language_code = language_code.map(ToOwned::to_owned);
    behavior.voice = Some(Voice { voice_id: voice_id.to_owned(), language_code });
}

fn tool(name: &str) -> Tool {
    Tool { name: name.to_owned(), ..Tool::default() }
}

fn tools(behavior: &mut Behavior, count: usize) {
    behavior.tools = (0..count).map(|number| tool(&format!("t{number}"))).collect();
}

fn question(key: &str) -> Question {
    Question { key: key.to_owned(), ask: "Well?".to_owned(), ..Question::default() }
}

fn of_type(kind: QuestionType) -> Question {
    Question { r#type: kind.into(), ..question("k") }
}

fn number(min: Option<f64>, max: Option<f64>) -> Question {
    Question { min, max, ..of_type(QuestionType::Number) }
}

fn choice(options: &[&str]) -> Question {
    Question { options: options.iter().map(ToString::to_string).collect(), ..of_type(QuestionType::Enum) }
}

fn ask(behavior: &mut Behavior, question: Question) {
    behavior.questions.push(question);
}

fn asks(behavior: &mut Behavior, count: usize) {
    behavior.questions = (0..count).map(|number| question(&format!("k{number}"))).collect();
}

fn options(count: usize) -> Question {
    Question { options: (0..count).map(|number| number.to_string()).collect(), ..of_type(QuestionType::Enum) }
}

fn output(behavior: &mut Behavior, key: &str, kind: &str) {
    behavior.output_schema.insert(key.to_owned(), kind.to_owned());
}

fn outputs(count: usize) -> BTreeMap<String, String> {
    (0..count).map(|number| (format!("k{number}"), "text".to_owned())).collect()
}

/// An enum of so many characters.
fn long_enum(characters: usize) -> String {
    format!("enum:{}", "x".repeat(characters - 5))
}

/// What is wrong, the field that is named, and how to get there from a behavior that is right.
const WRONG: &[(&str, &str, Change)] = &[
    ("missing", "instructions", |b| b.instructions = String::new()),
    ("blank", "instructions", |b| b.instructions = " \n".into()),
    ("too long", "instructions", |b| b.instructions = "x".repeat(16_001)),
    ("NUL", "instructions", |b| b.instructions = "a\0b".into()),
    ("empty", "language", |b| b.language = Some(String::new())),
    ("too short", "language", |b| b.language = Some("e".into())),
    ("too long", "language", |b| b.language = Some("de-1234-12345678-12345678-1234567".into())),
    ("no tag", "language", |b| b.language = Some("en_US".into())),
    ("too long", "purpose", |b| b.purpose = Some(text(201))),
    ("NUL", "purpose", |b| b.purpose = Some("\0".into())),
    ("missing", "voice.voice_id", |b| b.voice = Some(Voice::default())),
    ("missing beside a language", "voice.voice_id", |b| voice(b, "", Some("de"))),
    ("too long", "voice.voice_id", |b| voice(b, &text(129), None)),
    ("control character", "voice.voice_id", |b| voice(b, "a\nb", None)),
    ("no tag", "voice.language_code", |b| voice(b, "nova", Some("x"))),
    ("too long", "voice.language_code", |b| voice(b, "nova", Some("de-1234-12345678-12345678-1234567"))),
    ("too many", "tools", |b| tools(b, 65)),
    ("missing", "tools[1].name", |b| b.tools = vec![tool("a"), tool("")]),
    ("too long", "tools[0].name", |b| b.tools = vec![tool(&"x".repeat(65))]),
    ("digit first", "tools[0].name", |b| b.tools = vec![tool("1a")]),
    ("other letters", "tools[0].name", |b| b.tools = vec![tool("tür")]),
    ("twice", "tools[2].name", |b| b.tools = vec![tool("a"), tool("b"), tool("a")]),
    ("too long", "tools[0].description", |b| b.tools = vec![Tool { description: text(1_025), ..tool("a") }]),
    ("no schema", "tools[0].parameters", |b| b.tools = vec![Tool { parameters: schema!({"type": 5}), ..tool("a") }]),
    ("outside", "tools[0].parameters", |b| {
        b.tools = vec![Tool { parameters: schema!({"$ref": "https://example.com/s"}), ..tool("a") }];
    }),
    ("too deep", "tools[0].parameters", |b| b.tools = vec![Tool { parameters: Some(deep(33)), ..tool("a") }]),
    ("too long", "tools[0].parameters", |b| b.tools = vec![Tool { parameters: long(48_001), ..tool("a") }]),
    ("too deep in objects alone", "tools[0].parameters", |b| {
        b.tools = vec![Tool { parameters: Some(deepest(33)), ..tool("a") }];
    }),
    ("zero", "max_turns", |b| b.max_turns = Some(0)),
    ("negative", "max_turns", |b| b.max_turns = Some(-1)),
    ("too many", "max_turns", |b| b.max_turns = Some(10_001)),
    ("too many", "questions", |b| asks(b, 65)),
    ("missing", "questions[0].key", |b| ask(b, question(""))),
    ("too long", "questions[0].key", |b| ask(b, question(&"x".repeat(65)))),
    ("hyphen", "questions[0].key", |b| ask(b, question("a-b"))),
    ("digit first", "questions[0].key", |b| ask(b, question("1"))),
    ("twice", "questions[1].key", |b| b.questions = vec![question("a"), question("a")]),
    ("missing", "questions[0].ask", |b| ask(b, Question { ask: String::new(), ..question("a") })),
    ("too long", "questions[0].ask", |b| ask(b, Question { ask: text(2_001), ..question("a") })),
    ("unknown number", "questions[0].type", |b| ask(b, Question { r#type: 6, ..question("a") })),
    ("none to choose from", "questions[0].options", |b| ask(b, choice(&[]))),
    ("too many", "questions[0].options", |b| ask(b, options(65))),
    ("empty", "questions[0].options[1]", |b| ask(b, choice(&["a", ""]))),
    ("twice", "questions[0].options[1]", |b| ask(b, choice(&["a", "a"]))),
    ("too long", "questions[0].options[0]", |b| ask(b, choice(&[&text(201)]))),
    ("above max", "questions[0].min", |b| ask(b, number(Some(1.1), Some(1.0)))),
    ("NaN", "questions[0].min", |b| ask(b, number(Some(f64::NAN), None))),
    ("infinite", "questions[0].max", |b| ask(b, number(None, Some(f64::INFINITY)))),
    ("not a NUMBER's", "questions[0].min", |b| ask(b, Question { min: Some(1.0), ..question("a") })),
    ("not a NUMBER's", "questions[0].max", |b| ask(b, Question { max: Some(1.0), ..of_type(QuestionType::Date) })),
    ("too long", "controls.greeting", |b| controls(b).greeting = Some(text(2_001))),
    ("NUL", "controls.greeting", |b| controls(b).greeting = Some("\0".into())),
    ("unknown number", "controls.tone", |b| controls(b).tone = Some(5)),
    ("unknown number", "controls.speaking_pace", |b| controls(b).speaking_pace = Some(4)),
    ("unknown number", "controls.response_length", |b| controls(b).response_length = Some(-1)),
    ("too long", "controls.escalation_phrase", |b| controls(b).escalation_phrase = Some(text(2_001))),
    ("too long", "controls.closing_message", |b| controls(b).closing_message = Some(text(4_001))),
    ("too short", "controls.max_duration_seconds", |b| controls(b).max_duration_seconds = Some(59)),
    ("too long", "controls.max_duration_seconds", |b| controls(b).max_duration_seconds = Some(1_801)),
    ("too short", "controls.silence_timeout_seconds", |b| controls(b).silence_timeout_seconds = Some(4)),
    ("too long", "controls.silence_timeout_seconds", |b| controls(b).silence_timeout_seconds = Some(61)),
    ("too many", "output_schema", |b| b.output_schema = outputs(65)),
    ("bad key", "output_schema[\"1\"]", |b| output(b, "1", "text")),
    ("empty", "output_schema[\"k\"]", |b| output(b, "k", "")),
    ("unknown", "output_schema[\"k\"]", |b| output(b, "k", "string")),
    ("no choice", "output_schema[\"k\"]", |b| output(b, "k", "enum:")),
    ("empty choice", "output_schema[\"k\"]", |b| output(b, "k", "enum:a,,b")),
    ("choice twice", "output_schema[\"k\"]", |b| output(b, "k", "enum:a,b,a")),
    ("too long", "output_schema[\"k\"]", |b| output(b, "k", &long_enum(201))),
    ("no schema", "output_schema_strict", |b| b.output_schema_strict = schema!({"required": "a"})),
    ("bad pattern", "output_schema_strict", |b| b.output_schema_strict = schema!({"pattern": "("})),
    ("outside", "output_schema_strict", |b| b.output_schema_strict = schema!({"$ref": "file:///etc/passwd"})),
    ("too deep", "output_schema_strict", |b| b.output_schema_strict = Some(deep(33))),
    ("too deep in objects alone", "output_schema_strict", |b| b.output_schema_strict = Some(deepest(33))),
    ("much too deep", "output_schema_strict", |b| b.output_schema_strict = Some(deep(36))),
    ("too long", "output_schema_strict", |b| b.output_schema_strict = long(48_001)),
    ("NUL", "output_schema_strict", |b| b.output_schema_strict = schema!({"title": "\0"})),
    ("too long", "extraction_model", |b| b.extraction_model = Some(text(129))),
    ("control character", "extraction_model", |b| b.extraction_model = Some("a\nb".into())),
    ("too long", "initial_message", |b| b.initial_message = Some(text(2_001))),
];

/// Values that are right, though only just.
const RIGHT: &[(&str, Change)] = &[
    ("instructions of one character", |b| b.instructions = "x".into()),
    ("instructions of 16,000", |b| b.instructions = text(16_000)),
    ("instructions of many lines", |b| b.instructions = "a\r\n\tb".into()),
    ("language of 2", |b| b.language = Some("de".into())),
    ("language of 32", |b| b.language = Some("de-1234-12345678-12345678-123456".into())),
    ("purpose of 200", |b| b.purpose = Some(text(200))),
    ("voice_id of 1", |b| voice(b, "x", None)),
    ("voice_id of 128", |b| voice(b, &text(128), Some("zh-Hant-TW"))),
    ("64 tools", |b| tools(b, 64)),
    ("a tool's name of 1 and of 64", |b| b.tools = vec![tool("a"), tool(&format!("A{}", "-_9".repeat(21)))]),
    ("a tool's description of 1024", |b| b.tools = vec![Tool { description: text(1_024), ..tool("a") }]),
    ("a tool's parameters of 32 levels", |b| b.tools = vec![Tool { parameters: Some(deep(32)), ..tool("a") }]),
    ("a tool's parameters of 48,000", |b| b.tools = vec![Tool { parameters: long(48_000), ..tool("a") }]),
    ("a tool's empty parameters", |b| b.tools = vec![Tool { parameters: schema!({}), ..tool("a") }]),
    ("1 turn", |b| b.max_turns = Some(1)),
    ("10,000 turns", |b| b.max_turns = Some(10_000)),
    ("64 questions", |b| asks(b, 64)),
    ("a question's key of 64", |b| ask(b, question(&format!("K{}", "_9x".repeat(21))))),
    ("an ask of 1", |b| ask(b, Question { ask: "?".into(), ..question("a") })),
    ("an ask of 2000", |b| ask(b, Question { ask: text(2_000), ..question("a") })),
    ("one option", |b| ask(b, choice(&["a"]))),
    ("64 options", |b| ask(b, options(64))),
    ("an option of 200", |b| ask(b, choice(&[&text(200)]))),
    ("min at max", |b| ask(b, number(Some(0.1 + 0.2), Some(0.1 + 0.2)))),
    ("min alone", |b| ask(b, number(Some(-1e300), None))),
    ("max alone", |b| ask(b, number(None, Some(0.0)))),
    ("a boolean and a date", |b| {
        b.questions = vec![of_type(QuestionType::Boolean), Question { key: "d".into(), ..of_type(QuestionType::Date) }];
    }),
    ("greeting of 2000", |b| controls(b).greeting = Some(text(2_000))),
    ("escalation_phrase of 2000", |b| controls(b).escalation_phrase = Some(text(2_000))),
    ("closing_message of 4000", |b| controls(b).closing_message = Some(text(4_000))),
    ("shortest times", |b| {
        controls(b).max_duration_seconds = Some(60);
        controls(b).silence_timeout_seconds = Some(5);
    }),
    ("longest times", |b| {
        controls(b).max_duration_seconds = Some(1_800);
        controls(b).silence_timeout_seconds = Some(60);
    }),
    ("everything switched off", |b| {
        controls(b).allow_interruptions = Some(false);
        controls(b).follow_up_enabled = Some(false);
        controls(b).require_all_questions = Some(false);
        controls(b).end_conversation_after_questions = Some(false);
    }),
    ("64 results", |b| b.output_schema = outputs(64)),
    ("every kind of result", |b| {
        for (key, kind) in [("a", "text"), ("b", "number"), ("c", "boolean"), ("d", "date"), ("e", "enum:x")] {
            output(b, key, kind);
        }
    }),
    ("a result of 200", |b| output(b, "k", &long_enum(200))),
    ("a strict schema of 32 levels", |b| b.output_schema_strict = Some(deep(32))),
    ("a strict schema of 48,000", |b| b.output_schema_strict = long(48_000)),
    ("an empty strict schema", |b| b.output_schema_strict = schema!({})),
    ("a schema that refers to itself", |b| {
        b.output_schema_strict = schema!({"properties": {"again": {"$ref": "#"}}, "minProperties": 1, "maximum": 0.5});
    }),
    ("extraction_model of 128", |b| b.extraction_model = Some(text(128))),
    ("initial_message of 2000", |b| b.initial_message = Some(text(2_000))),
];

fn with(change: Change) -> Behavior {
    let mut behavior = minimal();
    change(&mut behavior);
    behavior
}

/// A behavior with nothing left to its default.
fn full() -> Behavior {
    Behavior {
        language: Some("de-CH".into()),
        purpose: Some("A table for tonight".into()),
        voice: Some(Voice { voice_id: "nova".into(), language_code: Some("de-DE".into()) }),
        tools: vec![Tool {
            name: "find_table".into(),
            description: "Looks for a free table.".into(),
            parameters: schema!({"type": "object", "properties": {"guests": {"type": "integer", "minimum": 1}}}),
        }],
        max_turns: Some(7),
        questions: vec![
            Question { key: "guests".into(), ..number(Some(1.0), Some(12.5)) },
            Question { key: "place".into(), ..choice(&["inside", "outside"]) },
        ],
        controls: Some(Controls {
            greeting: Some("Good evening!".into()),
            tone: Some(Tone::Friendly.into()),
            speaking_pace: Some(SpeakingPace::Slow.into()),
            response_length: Some(ResponseLength::Brief.into()),
            escalation_phrase: Some("I hand you over.".into()),
            closing_message: Some("Goodbye.".into()),
            max_duration_seconds: Some(300),
            silence_timeout_seconds: Some(10),
            allow_interruptions: Some(false),
            follow_up_enabled: Some(true),
            require_all_questions: Some(true),
            end_conversation_after_questions: Some(false),
        }),
        output_schema: [("guests".to_owned(), "number".to_owned()), ("place".to_owned(), "enum:in,out".to_owned())]
            .into(),
        output_schema_strict: schema!({"type": "object", "required": ["guests"]}),
        extraction_model: Some("small-1".into()),
        initial_message: Some("Hello, this is Ada.".into()),
        ..minimal()
    }
}

fn agent_with(behavior: Behavior) -> VoiceAgent {
    VoiceAgent { behavior: Some(behavior), ..minimal_agent() }
}

fn create(behavior: Behavior) -> CreateVoiceAgentRequest {
    CreateVoiceAgentRequest { voice_agent: Some(agent_with(behavior)), request_id: String::new() }
}

/// What was stored of it.
async fn created(world: &World, behavior: Behavior) -> Behavior {
    world.create(agent_with(behavior)).await.behavior.expect("a behavior")
}

fn update(id: &str, behavior: Option<Behavior>, paths: &[&str]) -> UpdateVoiceAgentRequest {
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
    let voice_agent = Some(VoiceAgent { id: id.to_owned(), behavior, ..VoiceAgent::default() });
    UpdateVoiceAgentRequest { voice_agent, update_mask }
}

async fn updated(world: &World, id: &str, behavior: Option<Behavior>, paths: &[&str]) -> Option<Behavior> {
    granted(world.caller.agents().update_voice_agent(update(id, behavior, paths)).await).behavior
}

/// Without the text, which has tests of its own.
fn bare(behavior: Behavior) -> Behavior {
    Behavior { system_instruction: String::new(), ..behavior }
}

/// As it is answered: defaults filled in.
fn filled(mut behavior: Behavior) -> Behavior {
    behavior.language.get_or_insert("en-US".into());
    behavior.max_turns.get_or_insert(50);
    for question in behavior.questions.iter_mut().filter(|question| question.r#type == 0) {
        question.r#type = QuestionType::Text.into();
    }
    behavior
}

async fn a_behavior_has_the_contracts_defaults(world: World) {
    assert!(world.create(minimal_agent()).await.behavior.is_none(), "unset");
    let behavior = bare(created(&world, minimal()).await);
    let expected = Behavior { language: Some("en-US".into()), max_turns: Some(50), ..minimal() };
    assert_eq!(behavior, expected);
    // A question is one for text, and what says nothing is left to the AI service.
    let sent = Behavior {
        questions: vec![question("k")],
        purpose: Some(String::new()),
        extraction_model: Some(String::new()),
        controls: Some(Controls { greeting: Some(String::new()), tone: Some(0), ..Controls::default() }),
        ..minimal()
    };
    let behavior = bare(created(&world, sent).await);
    assert_eq!(behavior.questions[0].r#type(), QuestionType::Text);
    assert_eq!(Behavior { questions: Vec::new(), ..behavior }, expected);
}

async fn each_first_bad_value_is_refused_by_the_name_of_its_field(world: World) {
    let mut agents = world.caller.agents();
    let standing = world.create(agent_with(full())).await;
    for (what, field, change) in WRONG {
        let named = faults(agents.create_voice_agent(create(with(*change))).await);
        assert_eq!(named, [format!("voice_agent.behavior.{field}")], "{field} {what}");
        let preview = PreviewSystemInstructionRequest { behavior: Some(with(*change)) };
        let named = faults(agents.preview_system_instruction(preview).await);
        assert_eq!(named, [format!("behavior.{field}")], "previewed: {field} {what}");
        let named = faults(agents.update_voice_agent(update(&standing.id, Some(with(*change)), &["behavior"])).await);
        assert_eq!(named, [format!("voice_agent.behavior.{field}")], "updated: {field} {what}");
    }
    let long_key = faults(agents.create_voice_agent(create(with(|b| output(b, &"k".repeat(65), "text")))).await);
    assert_eq!(long_key, [format!("voice_agent.behavior.output_schema[{:?}]", "k".repeat(32))]);
    let too_large = Behavior {
        tools: (0..64).map(|it| Tool { description: text(1_024), ..tool(&format!("t{it}")) }).collect(),
        ..minimal()
    };
    assert_eq!(faults(agents.create_voice_agent(create(too_large)).await), ["voice_agent.behavior"]);
    let nothing = PreviewSystemInstructionRequest::default();
    assert_eq!(faults(agents.preview_system_instruction(nothing).await), ["behavior"]);
    let listed = granted(agents.list_voice_agents(ListVoiceAgentsRequest::default()).await);
    assert_eq!(listed.voice_agents, [standing], "nothing was created and nothing changed");
}

async fn each_last_good_value_is_kept_as_sent(world: World) {
    let mut agents = world.caller.agents();
    for (what, change) in RIGHT {
        let answered = world.create(agent_with(with(*change))).await;
        let read = GetVoiceAgentRequest { id: answered.id.clone(), ..GetVoiceAgentRequest::default() };
        assert_eq!(granted(agents.get_voice_agent(read).await), answered, "{what}");
        assert_eq!(bare(answered.behavior.expect("a behavior")), filled(with(*change)), "{what}");
    }
}

async fn all_faults_of_a_behavior_are_named_at_once(world: World) {
    let behavior = Behavior {
        language: Some("x".into()),
        purpose: Some(text(201)),
        voice: Some(Voice { voice_id: String::new(), language_code: Some("?".into()) }),
        tools: vec![Tool { name: "1".into(), description: text(1_025), parameters: schema!({"type": 1}) }],
        max_turns: Some(0),
        questions: vec![Question {
            key: String::new(),
            ask: String::new(),
            r#type: 2,
            min: Some(2.0),
            max: Some(1.0),
            ..Question::default()
        }],
        controls: Some(Controls {
            max_duration_seconds: Some(1),
            silence_timeout_seconds: Some(1),
            tone: Some(9),
            ..Controls::default()
        }),
        output_schema: [("k".to_owned(), "x".to_owned())].into(),
        output_schema_strict: schema!({"type": "x"}),
        extraction_model: Some(text(129)),
        initial_message: Some(text(2_001)),
        ..Behavior::default()
    };
    let agent = VoiceAgent { max_concurrent: Some(0), ..agent_with(behavior) };
    let request = CreateVoiceAgentRequest { voice_agent: Some(agent), request_id: String::new() };
    let mut named = faults(world.caller.agents().create_voice_agent(request).await);
    named.sort();
    let inner = [
        "controls.max_duration_seconds",
        "controls.silence_timeout_seconds",
        "controls.tone",
        "extraction_model",
        "initial_message",
        "instructions",
        "language",
        "max_turns",
        "output_schema[\"k\"]",
        "output_schema_strict",
        "purpose",
        "questions[0].ask",
        "questions[0].key",
        "questions[0].min",
        "tools[0].description",
        "tools[0].name",
        "tools[0].parameters",
        "voice.language_code",
        "voice.voice_id",
    ];
    let mut expected: Vec<_> = inner.iter().map(|field| format!("voice_agent.behavior.{field}")).collect();
    expected.push("voice_agent.max_concurrent".to_owned());
    assert_eq!(named, expected);
}

/// A path, another value for it, and what clearing it leaves; a field that is required cannot be cleared.
pub(super) const FIELDS: &[(&str, Change, Option<Change>)] = &[
    ("instructions", |b| b.instructions = "You are Grace.".into(), None),
    ("language", |b| b.language = Some("fr".into()), Some(|b| b.language = Some("en-US".into()))),
    ("purpose", |b| b.purpose = Some("Another".into()), Some(|b| b.purpose = None)),
    ("voice", |b| voice(b, "alloy", Some("fr")), Some(|b| b.voice = None)),
    ("voice.voice_id", |b| b.voice.get_or_insert_default().voice_id = "alloy".into(), None),
    (
        "voice.language_code",
        |b| b.voice.get_or_insert_default().language_code = Some("fr".into()),
        Some(|b| b.voice.get_or_insert_default().language_code = None),
    ),
    ("tools", |b| tools(b, 2), Some(|b| b.tools.clear())),
    ("max_turns", |b| b.max_turns = Some(9), Some(|b| b.max_turns = Some(50))),
    ("questions", |b| b.questions = vec![choice(&["yes", "no"])], Some(|b| b.questions.clear())),
    ("controls.greeting", |b| controls(b).greeting = Some("Hi!".into()), Some(|b| controls(b).greeting = None)),
    ("controls.tone", |b| controls(b).tone = Some(1), Some(|b| controls(b).tone = None)),
    ("controls.speaking_pace", |b| controls(b).speaking_pace = Some(3), Some(|b| controls(b).speaking_pace = None)),
    (
        "controls.response_length",
        |b| controls(b).response_length = Some(3),
        Some(|b| controls(b).response_length = None),
    ),
    (
        "controls.escalation_phrase",
        |b| controls(b).escalation_phrase = Some("One moment.".into()),
        Some(|b| controls(b).escalation_phrase = None),
    ),
    (
        "controls.closing_message",
        |b| controls(b).closing_message = Some("Bye.".into()),
        Some(|b| controls(b).closing_message = None),
    ),
    (
        "controls.max_duration_seconds",
        |b| controls(b).max_duration_seconds = Some(61),
        Some(|b| controls(b).max_duration_seconds = None),
    ),
    (
        "controls.silence_timeout_seconds",
        |b| controls(b).silence_timeout_seconds = Some(6),
        Some(|b| controls(b).silence_timeout_seconds = None),
    ),
    (
        "controls.allow_interruptions",
        |b| controls(b).allow_interruptions = Some(true),
        Some(|b| controls(b).allow_interruptions = None),
    ),
    (
        "controls.follow_up_enabled",
        |b| controls(b).follow_up_enabled = Some(false),
        Some(|b| controls(b).follow_up_enabled = None),
    ),
    (
        "controls.require_all_questions",
        |b| controls(b).require_all_questions = Some(false),
        Some(|b| controls(b).require_all_questions = None),
    ),
    (
        "controls.end_conversation_after_questions",
        |b| controls(b).end_conversation_after_questions = Some(true),
        Some(|b| controls(b).end_conversation_after_questions = None),
    ),
    ("output_schema", |b| b.output_schema = outputs(1), Some(|b| b.output_schema.clear())),
    ("output_schema_strict", |b| b.output_schema_strict = schema!({}), Some(|b| b.output_schema_strict = None)),
    ("extraction_model", |b| b.extraction_model = Some("large-1".into()), Some(|b| b.extraction_model = None)),
    ("initial_message", |b| b.initial_message = Some("Hi.".into()), Some(|b| b.initial_message = None)),
];

/// Paths that are cleared and set as a whole; their parts are among [`FIELDS`].
const WHOLES: [&str; 2] = ["behavior", "behavior.controls"];

async fn each_field_is_set_kept_and_cleared(world: World) {
    let id = world.create(agent_with(full())).await.id;
    for (field, change, clear) in FIELDS {
        let path = format!("behavior.{field}");
        let mask = [path.as_str()];
        let mut changed = full();
        change(&mut changed);
        assert_ne!(changed, full(), "{field}");
        // Without a mask: what is present changes, all else stays.
        let mut alone = Behavior::default();
        change(&mut alone);
        let after = updated(&world, &id, Some(alone.clone()), &[]).await.map(bare);
        assert_eq!(after, Some(changed.clone()), "{field} set without a mask");
        let after = updated(&world, &id, Some(Behavior::default()), &[]).await.map(bare);
        assert_eq!(after, Some(changed.clone()), "{field} absent and kept without a mask");
        // With a mask: exactly that path, whatever else is present.
        updated(&world, &id, Some(full()), &["behavior"]).await;
        let other = Behavior {
            instructions: "not masked".into(),
            max_turns: Some(3),
            purpose: Some("not masked".into()),
            ..Behavior::default()
        };
        let mut sent = other.clone();
        change(&mut sent);
        let after = updated(&world, &id, Some(sent), &mask).await.map(bare);
        assert_eq!(after, Some(changed), "{field} set with a mask");
        // Absent and masked: cleared, or refused where it is required.
        for absent in [None, Some(Behavior::default())] {
            let request = update(&id, absent, &mask);
            match clear {
                Some(clear) => {
                    let mut cleared = full();
                    clear(&mut cleared);
                    let after = granted(world.caller.agents().update_voice_agent(request).await).behavior.map(bare);
                    assert_eq!(after, Some(cleared), "{field} cleared");
                }
                None => {
                    let named = faults(world.caller.agents().update_voice_agent(request).await);
                    assert_eq!(named, [format!("voice_agent.behavior.{field}")], "{field} is required");
                }
            }
        }
        assert_eq!(updated(&world, &id, Some(full()), &["behavior"]).await.map(bare), Some(full()), "{field} back");
    }
}

async fn a_mask_names_the_behavior_or_what_is_inside(world: World) {
    let id = world.create(agent_with(full())).await.id;
    let own: Vec<String> = FIELDS.iter().map(|(field, ..)| format!("behavior.{field}")).collect();
    let known: Vec<&str> = own.iter().map(String::as_str).chain(WHOLES).collect();
    assert_eq!(updated(&world, &id, Some(full()), &known).await.map(bare), Some(full()), "every path at once");
    let after = updated(&world, &id, Some(with(|b| controls(b).tone = Some(2))), &["behavior.controls"]).await;
    let only_tone = Some(Controls { tone: Some(2), ..Controls::default() });
    assert_eq!(after.map(bare), Some(Behavior { controls: only_tone, ..full() }), "as a whole");
    let after = updated(&world, &id, None, &["behavior.controls"]).await;
    assert_eq!(after.map(bare), Some(Behavior { controls: None, ..full() }));
    let after = updated(&world, &id, Some(minimal()), &["behavior"]).await;
    assert_eq!(after.map(bare), Some(filled(minimal())), "replaced, not merged");
    let unknown =
        ["behavior.nonsense", "behavior.voice.speed", "behavior.tools.name", "behavior.", "behavior.controls.*"];
    let named = faults(world.caller.agents().update_voice_agent(update(&id, Some(full()), &unknown)).await);
    assert_eq!(named, unknown.map(|path| format!("update_mask.{path}")));
    assert_eq!(updated(&world, &id, None, &["behavior"]).await, None, "cleared");
}

async fn a_behavior_begins_with_what_is_written_into_it(world: World) {
    let id = world.create(minimal_agent()).await.id;
    // There is nothing to clear, and that is no fault.
    assert_eq!(updated(&world, &id, None, &["behavior.purpose", "behavior.voice", "behavior"]).await, None);
    assert_eq!(updated(&world, &id, Some(Behavior::default()), &["behavior.voice.language_code"]).await, None);
    // Whatever is written first, a behavior needs its instructions.
    for paths in [&["behavior.max_turns"][..], &[]] {
        let patch = Some(Behavior { max_turns: Some(9), ..Behavior::default() });
        let named = faults(world.caller.agents().update_voice_agent(update(&id, patch, paths)).await);
        assert_eq!(named, ["voice_agent.behavior.instructions"]);
    }
    let after = updated(&world, &id, Some(Behavior { max_turns: Some(9), ..minimal() }), &[]).await;
    assert_eq!(after.map(bare), Some(filled(Behavior { max_turns: Some(9), ..minimal() })));
}

async fn the_output_only_text_is_ignored_in_a_body_and_refused_in_a_mask(world: World) {
    let forged = Behavior { system_instruction: "forged".into(), ..minimal() };
    let agent = world.create(agent_with(forged.clone())).await;
    assert!(!agent.behavior.clone().expect("a behavior").system_instruction.contains("forged"));
    let after = updated(&world, &agent.id, Some(forged.clone()), &[]).await;
    assert_eq!(after, agent.behavior);
    let request = update(&agent.id, Some(forged), &["behavior.system_instruction"]);
    let named = faults(world.caller.agents().update_voice_agent(request).await);
    assert_eq!(named, ["update_mask.behavior.system_instruction"]);
}

async fn preview(world: &World, behavior: Behavior) -> String {
    let request = PreviewSystemInstructionRequest { behavior: Some(behavior) };
    granted(world.caller.agents().preview_system_instruction(request).await).system_instruction
}

async fn the_compiled_text_follows_every_change_and_the_preview_saves_nothing(world: World) {
    let id = world.create(agent_with(full())).await.id;
    let before = preview(&world, full()).await;
    for (field, change, _) in FIELDS {
        let mut changed = full();
        change(&mut changed);
        let expected = preview(&world, changed.clone()).await;
        assert_ne!(expected, before, "{field} is not in the text");
        let after = updated(&world, &id, Some(changed), &["behavior"]).await.expect("a behavior");
        assert_eq!(after.system_instruction, expected, "{field}");
        let back = updated(&world, &id, Some(full()), &["behavior"]).await.expect("a behavior");
        assert_eq!(back.system_instruction, before, "the same for the same input");
    }
    assert!(before.starts_with("You are Ada.\n"), "{before}");
    let listed = granted(world.caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
    assert_eq!(listed.total_size, 1);
}

async fn a_full_behavior_reads_back_as_it_was_answered(world: World) {
    let agent = world.create(agent_with(full())).await;
    assert_eq!(agent.behavior.clone().map(bare), Some(full()));
    let mut agents = world.caller.agents();
    let read = GetVoiceAgentRequest { id: agent.id.clone(), ..GetVoiceAgentRequest::default() };
    assert_eq!(granted(agents.get_voice_agent(read).await), agent);
    let listed = granted(agents.list_voice_agents(ListVoiceAgentsRequest::default()).await);
    assert_eq!(listed.voice_agents, std::slice::from_ref(&agent));
    let pause = PauseVoiceAgentRequest { id: agent.id.clone(), etag: String::new() };
    assert_eq!(granted(agents.pause_voice_agent(pause).await).behavior, agent.behavior);
    let renamed = VoiceAgent { id: agent.id, name: Some("Grace".into()), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(renamed), update_mask: None };
    assert_eq!(granted(agents.update_voice_agent(request).await).behavior, agent.behavior);
}

async fn an_admitted_call_and_its_node_are_told_the_behavior_as_it_was(world: World) {
    // The deepest schemas: what was accepted must reach a node through every message around it.
    let tools = vec![Tool { parameters: Some(deepest(32)), ..tool("a") }];
    let agent = world.create(agent_with(Behavior { tools, output_schema_strict: Some(deepest(32)), ..full() })).await;
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let call = unique("call");
    let slot = granted(world.try_admit(acquire(&call, &agent.id)).await);
    assert_eq!(slot.routing.expect("routing").behavior, agent.behavior);
    let told = raw.assigned().await.slot.expect("a slot");
    assert_eq!(told.routing.expect("routing").behavior, agent.behavior);
    // A later edit changes nothing in a session, and everything for the next call.
    let edited = updated(&world, &agent.id, Some(minimal()), &["behavior"]).await;
    let again = granted(world.try_admit(acquire(&call, &agent.id)).await);
    assert_eq!(again.routing.expect("routing").behavior, agent.behavior);
    let probe = AcquireSlotRequest { validate_only: true, ..acquire(&unique("call"), &agent.id) };
    assert_eq!(granted(world.try_admit(probe).await).routing.expect("routing").behavior, edited);
}

/// A behavior just below its limit as a whole (48,000 characters of schema and 26,000 bytes of instructions, each of
/// them once more in the text), with the widest of everything else beside it.
fn largest_agent() -> VoiceAgent {
    VoiceAgent {
        ws_url: Some(format!("wss://h/{}", "😀".repeat(2_040))),
        auth_token: Some("x".repeat(4_096)),
        metadata: (0..32).map(|number| (format!("{number:0>64}"), "😀".repeat(500))).collect(),
        ..agent_with(Behavior { output_schema_strict: long(48_000), instructions: text(13_000), ..minimal() })
    }
}

async fn the_largest_call_of_the_largest_behavior_reaches_its_node(world: World) {
    let agent = world.create(largest_agent()).await;
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    // As large on the wire as 16 KiB of JSON can be.
    let metadata = schema!({ "a": vec![0; 8_180] });
    let request = AcquireSlotRequest { metadata: metadata.clone(), ..acquire(&unique("call"), &agent.id) };
    let slot = granted(world.try_admit(request).await);
    assert_eq!(slot.routing.expect("routing").behavior, agent.behavior);
    let told = raw.assigned().await;
    assert_eq!(told.metadata, metadata);
    assert_eq!(told.slot.expect("a slot").routing.expect("routing").behavior, agent.behavior);
}

async fn a_schema_too_deep_to_be_read_is_a_fault_of_the_request(world: World) {
    let behavior = Behavior { output_schema_strict: Some(deepest(40)), ..minimal() };
    assert_eq!(faults(world.caller.agents().create_voice_agent(create(behavior)).await), ["request"]);
}

async fn a_page_of_the_largest_behaviors_fits_into_its_message(world: World) {
    let largest = largest_agent();
    for _ in 0..3 {
        world.create(largest.clone()).await;
    }
    let (mut token, mut seen) = (String::new(), 0);
    loop {
        let request = ListVoiceAgentsRequest { page_token: token, ..ListVoiceAgentsRequest::default() };
        let page = granted(world.caller.agents().list_voice_agents(request).await);
        seen += page.voice_agents.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 3);
}
