//! Stops listening to another call, which may be over by now.

use serde::{Deserialize, Serialize};

use super::{CallId, Done, Effect, Executor, Result, Rules, Scene, Session};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorStop {
    pub target: CallId,
}

impl Rules for MonitorStop {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        scene.monitor(&self.target).map(|_| ())?;
        Ok(self)
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.monitors.retain(|monitor| monitor.target != self.target);
        Effect::default()
    }
}
