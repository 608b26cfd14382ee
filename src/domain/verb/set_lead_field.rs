//! Stores one field of the lead behind the call; a later value replaces an earlier one.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};
use crate::domain::{
    Error,
    event::{Event, EventType},
    text::json_bytes,
};

/// Of all fields of one lead: GetSession answers all of them, and a message has 256 KiB.
pub const LEAD_MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetLeadField {
    pub field: String,
    pub value: Value,
}

impl Rules for SetLeadField {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        let mut fields = scene.session.record.lead_fields.clone();
        fields.insert(self.field.clone(), self.value.clone());
        if json_bytes(&fields) > LEAD_MAX_BYTES {
            let full = format!("does not fit: the fields of a lead hold {LEAD_MAX_BYTES} bytes as JSON");
            return Err(Error::invalid("value", full));
        }
        Ok(self)
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.record.lead_fields.insert(self.field.clone(), self.value.clone());
        let data = json!({"field": self.field, "value": self.value});
        Effect { events: vec![Event::new(EventType::LeadUpdated, data)], ..Effect::default() }
    }
}
