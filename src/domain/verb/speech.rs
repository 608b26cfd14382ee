//! What a call or a leg is to hear.

use serde::{Deserialize, Serialize};

use crate::domain::behavior::Voice;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speech {
    pub source: Source,
    /// For a text. Absent: the behavior's, else the node's own.
    pub voice: Option<Voice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    AudioUrl(String),
    TtsText(String),
}
