//! Appends an object to the session's log; no event, and no node is asked.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, JsonObject, Result, Rules, Scene, Session};
use crate::domain::{Error, text::json_bytes};

/// Of one session's log: GetSession answers all of it, and a message has 256 KiB.
pub const LOG_MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Log {
    pub metadata: JsonObject,
}

impl Rules for Log {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.record.log_bytes + json_bytes(&self.metadata) > LOG_MAX_BYTES {
            let full = format!("does not fit: the log of a session holds {LOG_MAX_BYTES} bytes as JSON");
            return Err(Error::invalid("metadata", full));
        }
        Ok(self)
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.record.log_entries += 1;
        session.record.log_bytes += json_bytes(&self.metadata);
        Effect { log: Some(self.metadata.clone()), ..Effect::default() }
    }
}
