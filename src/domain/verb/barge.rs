//! Makes the monitor of another call a full party of it.

use serde::{Deserialize, Serialize};

use super::{CallId, Done, Effect, Executor, Result, Rules, Scene, Session};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barge {
    pub target: CallId,
}

impl Rules for Barge {
    const EXECUTOR: Executor = Executor::Node;

    fn target(&self) -> Option<&CallId> {
        Some(&self.target)
    }

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.monitor(&self.target)?.barged {
            return Err(scene.invalid("already_barged"));
        }
        scene.require_live(&self.target)?;
        Ok(self)
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        if let Some(monitor) = session.state.monitor_mut(&self.target) {
            monitor.barged = true;
        }
        Effect::default()
    }
}
