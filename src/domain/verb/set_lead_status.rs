//! Stores where the lead behind the call stands.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Done, Effect, Executor, Rules, Session};
use crate::domain::{
    event::{Event, EventType},
    session::LeadStatus,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLeadStatus {
    pub status: LeadStatus,
}

impl Rules for SetLeadStatus {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.record.lead_status = Some(self.status);
        let data = json!({"status": self.status});
        Effect { events: vec![Event::new(EventType::LeadUpdated, data)], ..Effect::default() }
    }
}
