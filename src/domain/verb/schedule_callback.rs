//! Notes that the caller is to be called back: an event that the tenant's own services act on.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Done, Effect, Executor, Rules, Session};
use crate::domain::{
    clock::Timestamp,
    event::{Event, EventType},
    ids::VoiceAgentId,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleCallback {
    pub at: Timestamp,
    pub reason: Option<String>,
    /// Absent: the agent of this call.
    pub agent: Option<VoiceAgentId>,
}

impl Rules for ScheduleCallback {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn effect(&self, session: &mut Session, done: &Done) -> Effect {
        let id = done.callback_id();
        let agent = self.agent.unwrap_or(session.agent);
        let data = json!({
            "callback_id": id, "scheduled_at": self.at, "reason": self.reason,
            "callback_voice_agent_id": agent.to_string(),
        });
        let events = vec![Event::new(EventType::CallbackScheduled, data)];
        Effect { callback_id: Some(id), events, ..Effect::default() }
    }
}
