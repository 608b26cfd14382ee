//! Events: what happened to a call, written with the change that it tells of.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    clock::Timestamp,
    conference::Conference,
    ids::{CallId, VoiceAgentId},
    session::{Outcome, Session},
    verb::JsonObject,
    words::words,
};

words!(
    /// Contract section 7.
    EventType {
        CallStarted = "call.started",
        CallAnswered = "call.answered",
        CallEnded = "call.ended",
        CallRecordingReady = "call.recording_ready",
        AiSessionStarted = "ai_session.started",
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

    /// Of a call that is answered.
    pub fn answered() -> Self {
        Self::new(EventType::CallAnswered, json!({}))
    }

    /// Of a session that ends, whoever ends it.
    pub fn ended(outcome: Outcome) -> [Self; 2] {
        [EventType::AiSessionEnded, EventType::CallEnded].map(|kind| Self::new(kind, json!({"outcome": outcome})))
    }

    /// All of a session that is written as it stands, with when each was.
    pub fn of_life(session: &Session) -> Vec<(Timestamp, Self)> {
        let direction = json!({"direction": session.direction.as_str()});
        let started = Self::new(EventType::CallStarted, direction);
        let revision = json!({"voice_agent_revision": session.agent_revision});
        let begun = Self::new(EventType::AiSessionStarted, revision);
        let mut life = vec![(session.started_at, started), (session.started_at, begun)];
        life.extend(session.answered_at.map(|at| (at, Self::answered())));
        if let Some((outcome, at)) = session.outcome.zip(session.ended_at) {
            life.extend(Self::ended(outcome).map(|event| (at, event)));
        }
        life
    }
}

/// What a node says of a recording that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    pub url: String,
    pub stereo: bool,
    pub duration: Option<Duration>,
}

impl From<Recording> for Event {
    fn from(Recording { url, stereo, duration }: Recording) -> Self {
        let duration_seconds = duration.map(|duration| duration.as_secs_f64());
        let data = json!({"url": url, "stereo": stereo, "duration_seconds": duration_seconds});
        Self::new(EventType::CallRecordingReady, data)
    }
}

/// Which events are meant: those that all of this is true of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Nothing: of all types, also of those that only a newer release knows.
    pub kinds: Option<Vec<EventType>>,
    pub call: Option<CallId>,
    pub agent: Option<VoiceAgentId>,
}

impl EventFilter {
    /// Whether it lets an event of that type and call with that data through.
    pub fn admits(&self, kind: &str, call: &CallId, data: &JsonObject) -> bool {
        let of_agent = |agent: VoiceAgentId| {
            let told = data.get("voice_agent_id").and_then(Value::as_str);
            told.is_some_and(|told| told.parse() == Ok(agent))
        };
        self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|it| it.as_str() == kind))
            && self.call.as_ref().is_none_or(|it| it == call)
            && self.agent.is_none_or(of_agent)
    }
}

/// A conference began, gained or lost a member, or was left by the AI.
pub fn conference_changed(conference: &Conference, change: &str, member: Option<&str>) -> Event {
    let data = json!({"conference_id": conference.id, "change": change, "member_id": member});
    Event::new(EventType::AiSessionConferenceChanged, data)
}
