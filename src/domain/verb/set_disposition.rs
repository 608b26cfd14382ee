//! Stores how the conversation went; a later one replaces it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Done, Effect, Executor, Rules, Session};
use crate::domain::event::{Event, EventType};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDisposition {
    pub disposition: String,
    pub notes: Option<String>,
}

impl Rules for SetDisposition {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.record.disposition = Some(self.disposition.clone());
        session.record.notes.clone_from(&self.notes);
        let data = json!({"disposition": self.disposition, "notes": self.notes});
        Effect { events: vec![Event::new(EventType::AiSessionDispositionSet, data)], ..Effect::default() }
    }
}
