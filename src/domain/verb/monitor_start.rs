//! Lets this call listen to another one.

use serde::{Deserialize, Serialize};

use super::{CallId, Done, Effect, Executor, Result, Rules, Scene, Session};
use crate::domain::{
    Error,
    conference::{MONITORS_MAX, Monitor, MonitorMode, Relation},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorStart {
    pub target: CallId,
    pub mode: MonitorMode,
}

impl Rules for MonitorStart {
    const EXECUTOR: Executor = Executor::Node;

    fn target(&self) -> Option<&CallId> {
        Some(&self.target)
    }

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        let session = scene.session;
        if self.target == session.call {
            return Err(Error::invalid("target_call_id", "must be another call"));
        }
        if !scene.is_admin && !scene.target.is_some_and(|target| session.state.shares_conference(&target.state)) {
            // Also where there is no such call: whoever drives one call is not told which others there are.
            return Err(scene.unrelated(&self.target, Relation::Conference));
        }
        scene.require_live(&self.target)?;
        match session.state.monitor(&self.target) {
            Some(monitor) if monitor.mode == self.mode => Err(scene.invalid("already_monitoring")),
            None if session.state.monitors.len() >= MONITORS_MAX => Err(scene.invalid("too_many_monitors")),
            Some(_) | None => Ok(self),
        }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        match session.state.monitor_mut(&self.target) {
            Some(monitor) => monitor.mode = self.mode,
            None => {
                let monitor = Monitor { target: self.target.clone(), mode: self.mode, barged: false };
                session.state.monitors.push(monitor);
            }
        }
        Effect::default()
    }
}
