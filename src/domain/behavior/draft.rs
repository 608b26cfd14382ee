//! What a caller wrote of a behavior, and which of its fields a change is about.

use std::collections::BTreeMap;

use super::{Behavior, Controls, Question, Tool};
use crate::domain::{verb::JsonObject, words::words};

/// Nothing is checked yet, and absent means absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BehaviorDraft {
    pub instructions: Option<String>,
    pub language: Option<String>,
    pub purpose: Option<String>,
    pub voice: VoiceDraft,
    pub tools: Vec<Tool>,
    pub max_turns: Option<i32>,
    pub questions: Vec<Question>,
    pub controls: ControlsDraft,
    pub output_schema: BTreeMap<String, String>,
    pub output_schema_strict: Option<JsonObject>,
    pub extraction_model: Option<String>,
    pub initial_message: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VoiceDraft {
    pub voice_id: Option<String>,
    pub language_code: Option<String>,
}

pub type ControlsDraft = Controls<i32>;

/// Whether a caller wrote something here.
trait Written {
    fn is_written(&self) -> bool;
}

impl<T> Written for Option<T> {
    fn is_written(&self) -> bool {
        self.is_some()
    }
}

impl<T> Written for Vec<T> {
    fn is_written(&self) -> bool {
        !self.is_empty()
    }
}

impl Written for BTreeMap<String, String> {
    fn is_written(&self) -> bool {
        !self.is_empty()
    }
}

impl Written for VoiceDraft {
    fn is_written(&self) -> bool {
        *self != Self::default()
    }
}

impl Written for ControlsDraft {
    fn is_written(&self) -> bool {
        *self != Self::default()
    }
}

/// Pairs each path with its place in the draft.
macro_rules! fields {
    ($($field:ident = $path:literal => $($place:ident).+),+ $(,)?) => {
        words!(
            /// The paths inside of a behavior that an `update_mask` may name.
            Field { $($field = $path),+ }
        );

        impl BehaviorDraft {
            fn has(&self, field: Field) -> bool {
                match field { $(Field::$field => self.$($place).+.is_written()),+ }
            }

            fn take(&mut self, patch: &Self, field: Field) {
                match field { $(Field::$field => self.$($place).+.clone_from(&patch.$($place).+)),+ }
            }
        }
    };
}

fields! {
    Instructions = "instructions" => instructions,
    Language = "language" => language,
    Purpose = "purpose" => purpose,
    Voice = "voice" => voice,
    VoiceId = "voice.voice_id" => voice.voice_id,
    VoiceLanguage = "voice.language_code" => voice.language_code,
    Tools = "tools" => tools,
    MaxTurns = "max_turns" => max_turns,
    Questions = "questions" => questions,
    Controls = "controls" => controls,
    Greeting = "controls.greeting" => controls.greeting,
    Tone = "controls.tone" => controls.tone,
    SpeakingPace = "controls.speaking_pace" => controls.speaking_pace,
    ResponseLength = "controls.response_length" => controls.response_length,
    EscalationPhrase = "controls.escalation_phrase" => controls.escalation_phrase,
    ClosingMessage = "controls.closing_message" => controls.closing_message,
    MaxDuration = "controls.max_duration_seconds" => controls.max_duration_seconds,
    SilenceTimeout = "controls.silence_timeout_seconds" => controls.silence_timeout_seconds,
    AllowInterruptions = "controls.allow_interruptions" => controls.allow_interruptions,
    FollowUpEnabled = "controls.follow_up_enabled" => controls.follow_up_enabled,
    RequireAllQuestions = "controls.require_all_questions" => controls.require_all_questions,
    EndAfterQuestions = "controls.end_conversation_after_questions" => controls.end_conversation_after_questions,
    OutputSchema = "output_schema" => output_schema,
    OutputSchemaStrict = "output_schema_strict" => output_schema_strict,
    ExtractionModel = "extraction_model" => extraction_model,
    InitialMessage = "initial_message" => initial_message,
}

impl BehaviorDraft {
    /// The fields that a caller wrote: what an update without a mask changes. Of `voice` and `controls` those inside,
    /// so that the others stay.
    pub fn present(&self) -> Vec<Field> {
        let whole = |field: &Field| matches!(field, Field::Voice | Field::Controls);
        Field::ALL.iter().filter(|field| !whole(field) && self.has(**field)).copied().collect()
    }

    /// Takes `field` over from `patch`, absent values included. Where there is no behavior there is nothing to clear,
    /// and one begins with what is written into it.
    pub fn overlay(current: &mut Option<Self>, patch: Option<&Self>, field: Field) {
        let nothing = Self::default();
        let patch = patch.unwrap_or(&nothing);
        if current.is_some() || patch.has(field) {
            current.get_or_insert_default().take(patch, field);
        }
    }
}

impl From<&Behavior> for BehaviorDraft {
    fn from(behavior: &Behavior) -> Self {
        let voice = behavior.voice.as_ref();
        Self {
            instructions: Some(behavior.instructions.clone()),
            language: Some(behavior.language.clone()),
            purpose: behavior.purpose.clone(),
            voice: VoiceDraft {
                voice_id: voice.map(|voice| voice.voice_id.clone()),
                language_code: voice.and_then(|voice| voice.language_code.clone()),
            },
            tools: behavior.tools.clone(),
            max_turns: i32::try_from(behavior.max_turns).ok(),
            questions: behavior.questions.clone(),
            controls: behavior.controls.clone().map_seconds(|seconds| i32::try_from(seconds).ok()),
            output_schema: behavior.output_schema.clone(),
            output_schema_strict: behavior.output_schema_strict.clone(),
            extraction_model: behavior.extraction_model.clone(),
            initial_message: behavior.initial_message.clone(),
        }
    }
}

impl<Seconds> Controls<Seconds> {
    /// The same with its numbers read otherwise; what cannot be read is absent.
    pub fn map_seconds<To>(self, mut read: impl FnMut(Seconds) -> Option<To>) -> Controls<To> {
        Controls {
            greeting: self.greeting,
            tone: self.tone,
            speaking_pace: self.speaking_pace,
            response_length: self.response_length,
            escalation_phrase: self.escalation_phrase,
            closing_message: self.closing_message,
            max_duration_seconds: self.max_duration_seconds.and_then(&mut read),
            silence_timeout_seconds: self.silence_timeout_seconds.and_then(&mut read),
            allow_interruptions: self.allow_interruptions,
            follow_up_enabled: self.follow_up_enabled,
            require_all_questions: self.require_all_questions,
            end_conversation_after_questions: self.end_conversation_after_questions,
        }
    }
}
