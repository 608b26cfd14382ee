//! Events: what happened to a call, written with the change that it tells of.

use serde_json::{Map, Value, json};

use super::{conference::Conference, verb::JsonObject, words::words};

words!(
    /// Contract section 7. This release writes those of verbs.
    EventType {
        AiSessionEnded = "ai_session.ended",
        AiSessionTransferred = "ai_session.transferred",
        AiSessionEscalated = "ai_session.escalated",
        AiSessionConferenceChanged = "ai_session.conference_changed",
        AiSessionDispositionSet = "ai_session.disposition_set",
        LeadUpdated = "lead.updated",
        CallbackScheduled = "callback.scheduled",
    }
);

/// One that is about to be written; the session adds whose it is and which number it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: EventType,
    pub data: JsonObject,
}

impl Event {
    /// `data` is an object.
    pub fn new(kind: EventType, data: Value) -> Self {
        let data = match data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        Self { kind, data }
    }
}

/// A conference began, gained or lost a member, or was left by the AI.
pub fn conference_changed(conference: &Conference, change: &str, member: Option<&str>) -> Event {
    let data = json!({"conference_id": conference.id, "change": change, "member_id": member});
    Event::new(EventType::AiSessionConferenceChanged, data)
}
