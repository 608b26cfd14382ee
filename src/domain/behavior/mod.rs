//! A behavior: what the tenant's AI service is told about its task. Handed over, never interpreted here.
//!
//! A [`BehaviorDraft`] is what a caller wrote, a [`Behavior`] is what is allowed to exist; [`Behavior::parse`] is the
//! only way from one to the other, names every field at fault and compiles the system instruction. Tools and questions
//! have one type on both sides: those of a `Behavior` are checked.

mod compile;
mod draft;
mod output;
mod parse;
pub mod schema;
mod size;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    draft::{BehaviorDraft, ControlsDraft, Field, VoiceDraft},
    output::OutputType,
    schema::Schemas,
};
use super::{verb::JsonObject, words::words};

/// Limits of contract section 2.1.
pub const INSTRUCTIONS_MAX_CHARS: usize = 16_000;
pub const LANGUAGE_DEFAULT: &str = "en-US";
pub const PURPOSE_MAX_CHARS: usize = 200;
pub const VOICE_ID_MAX_CHARS: usize = 128;
pub const TOOLS_MAX: usize = 64;
pub const TOOL_DESCRIPTION_MAX_CHARS: usize = 1_024;
pub const MAX_TURNS_MAX: u32 = 10_000;
pub const MAX_TURNS_DEFAULT: u32 = 50;
pub const QUESTIONS_MAX: usize = 64;
pub const ASK_MAX_CHARS: usize = 2_000;
pub const OPTIONS_MAX: usize = 64;
pub const OPTION_MAX_CHARS: usize = 200;
pub const GREETING_MAX_CHARS: usize = 2_000;
pub const ESCALATION_PHRASE_MAX_CHARS: usize = 2_000;
pub const CLOSING_MESSAGE_MAX_CHARS: usize = 4_000;
pub const OUTPUT_SCHEMA_MAX_ENTRIES: usize = 64;
pub const OUTPUT_TYPE_MAX_CHARS: usize = 200;
pub const EXTRACTION_MODEL_MAX_CHARS: usize = 128;
pub const INITIAL_MESSAGE_MAX_CHARS: usize = 2_000;
/// A schema, serialised.
pub const SCHEMA_MAX_CHARS: usize = 48_000;
/// Objects and lists inside each other in a schema, the schema itself counted.
pub const SCHEMA_MAX_DEPTH: usize = 32;
/// Regular expressions in all schemas of a behavior together: each is compiled before it is believed.
pub const PATTERNS_MAX: usize = 100;
/// A whole behavior as it is sent, its compiled text included. The largest message that carries one is a call's
/// assignment to its node: 256 KiB hold it beside the call's metadata and the rest of the routing.
pub const BEHAVIOR_MAX_BYTES: usize = 150 * 1024;

words!(QuestionType { Text = "TEXT", Number = "NUMBER", Boolean = "BOOLEAN", Date = "DATE", Enum = "ENUM" });
words!(Tone { Professional = "PROFESSIONAL", Friendly = "FRIENDLY", Neutral = "NEUTRAL", Empathetic = "EMPATHETIC" });
words!(SpeakingPace { Slow = "SLOW", Normal = "NORMAL", Fast = "FAST" });
words!(ResponseLength { Brief = "BRIEF", Moderate = "MODERATE", Detailed = "DETAILED" });

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Behavior {
    pub instructions: String,
    pub language: String,
    pub purpose: Option<String>,
    pub voice: Option<Voice>,
    pub tools: Vec<Tool>,
    pub max_turns: u32,
    pub questions: Vec<Question>,
    pub controls: Controls,
    pub output_schema: BTreeMap<String, String>,
    pub output_schema_strict: Option<JsonObject>,
    pub extraction_model: Option<String>,
    pub initial_message: Option<String>,
    /// Compiled from all of the above when it was parsed, and kept: a stored behavior keeps the text that it had.
    pub system_instruction: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voice {
    pub voice_id: String,
    pub language_code: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// Absent: it takes no arguments.
    pub parameters: Option<JsonObject>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub key: String,
    pub ask: String,
    pub kind: QuestionType,
    pub options: Vec<String>,
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// What is absent is left to the AI service. `Seconds` is a checked number, or whatever number a caller wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Controls<Seconds = u32> {
    pub greeting: Option<String>,
    pub tone: Option<Tone>,
    pub speaking_pace: Option<SpeakingPace>,
    pub response_length: Option<ResponseLength>,
    pub escalation_phrase: Option<String>,
    pub closing_message: Option<String>,
    pub max_duration_seconds: Option<Seconds>,
    pub silence_timeout_seconds: Option<Seconds>,
    pub allow_interruptions: Option<bool>,
    pub follow_up_enabled: Option<bool>,
    pub require_all_questions: Option<bool>,
    pub end_conversation_after_questions: Option<bool>,
}

impl Controls {
    /// How long a conversation may last.
    pub fn max_duration(&self) -> Option<Duration> {
        self.max_duration_seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }
}
