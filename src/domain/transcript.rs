//! What was said in a session, as its AI service posts it.

use serde::{Deserialize, Serialize};

use super::{clock::Timestamp, results::ResultWarning, verb::JsonObject, violations::Fault, words::words};

/// Turns of one transcript.
pub const TURNS_MAX: usize = 5_000;
pub const TURN_TEXT_MAX_CHARS: usize = 16_000;

words!(
    /// Who spoke.
    TranscriptRole { Caller = "CALLER", Agent = "AGENT", System = "SYSTEM", Tool = "TOOL" }
);

/// One turn. One letter a name: there may be thousands of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    #[serde(rename = "r")]
    pub role: TranscriptRole,
    #[serde(rename = "t")]
    pub text: String,
    #[serde(rename = "a", skip_serializing_if = "Option::is_none", default)]
    pub spoken_at: Option<Timestamp>,
}

impl Turn {
    /// What may have been said: a breath that was heard as a blank, too.
    pub fn parse_text(text: String) -> Result<String, Fault> {
        if text.is_empty() {
            return Err(Fault::required());
        }
        if text.chars().count() > TURN_TEXT_MAX_CHARS {
            return Err(Fault::new(format!("must be 1 to {TURN_TEXT_MAX_CHARS} characters")));
        }
        if text.contains('\0') {
            return Err(Fault::new("must not contain a NUL character"));
        }
        Ok(text)
    }
}

/// What is posted of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    pub transcript: Vec<Turn>,
    /// By key of the output schema; absent: nothing was found out.
    pub results: Option<JsonObject>,
}

/// The same, with what in its results does not fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Posted {
    pub completion: Completion,
    pub warnings: Vec<ResultWarning>,
}
