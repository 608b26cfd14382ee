//! Asks for a person's help: an event that the tenant's own services act on.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Done, Effect, Executor, Rules, Session};
use crate::domain::{
    event::{Event, EventType},
    words::words,
};

words!(
    /// When the help is needed: when somebody is free, or now.
    Urgency { Low = "LOW", High = "HIGH" }
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSupervisor {
    pub reason: String,
    pub urgency: Urgency,
}

impl Rules for RequestSupervisor {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn effect(&self, _: &mut Session, _: &Done) -> Effect {
        let data = json!({"reason": self.reason, "urgency": self.urgency});
        Effect { events: vec![Event::new(EventType::AiSessionEscalated, data)], ..Effect::default() }
    }
}
