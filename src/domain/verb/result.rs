//! What came of a verb.

use serde::{Deserialize, Serialize};

use super::{JsonObject, Session};
use crate::domain::{
    clock::Timestamp,
    event::Event,
    ids::OperationId,
    lease::Usage,
    session::{CallState, Outcome},
};

/// What a node names when it acknowledges a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeResult {
    pub playback_id: Option<String>,
    pub conference_id: Option<String>,
    pub member_id: Option<String>,
}

/// A verb that has happened.
#[derive(Debug, Clone)]
pub struct Done {
    pub operation: OperationId,
    pub at: Timestamp,
    pub node: NodeResult,
}

impl Done {
    pub fn playback_id(&self) -> String {
        self.named("play", self.node.playback_id.as_deref())
    }

    pub fn conference_id(&self) -> String {
        self.named("conf", self.node.conference_id.as_deref())
    }

    pub fn member_id(&self) -> String {
        self.named("member", self.node.member_id.as_deref())
    }

    pub fn callback_id(&self) -> String {
        self.named("cbk", None)
    }

    /// As the node names it. Where nobody does, after the operation: done again it has the same name.
    fn named(&self, kind: &str, by_node: Option<&str>) -> String {
        by_node.map_or_else(|| format!("{kind}_{}", self.operation.as_uuid()), str::to_owned)
    }
}

/// What a verb leaves behind besides the session's change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effect {
    pub playback_id: Option<String>,
    pub conference_id: Option<String>,
    pub member_id: Option<String>,
    pub callback_id: Option<String>,
    pub events: Vec<Event>,
    /// An entry for the session's log.
    pub log: Option<JsonObject>,
}

/// The result of a verb that happened: kept with its operation and answered again to a replay, as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerbResult {
    pub call_state: CallState,
    pub answered: bool,
    pub node: Option<String>,
    pub agent: String,
    /// Of the call's agent; absent when the slot store could not tell.
    pub usage: Option<Usage>,
    /// How the verb ended the session, if it did.
    pub outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub playback_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conference_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_id: Option<String>,
}

impl VerbResult {
    pub fn of(session: &Session, usage: Option<Usage>) -> Self {
        Self {
            call_state: session.state.clone(),
            answered: session.answered_at.is_some(),
            node: session.node.as_ref().map(ToString::to_string),
            agent: session.agent.to_string(),
            usage,
            ..Self::default()
        }
    }

    /// With what the verb has named.
    #[must_use]
    pub fn naming(self, effect: &Effect) -> Self {
        let Effect { playback_id, conference_id, member_id, callback_id, .. } = effect.clone();
        Self { playback_id, conference_id, member_id, callback_id, ..self }
    }
}
