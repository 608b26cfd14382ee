//! Plays or speaks to one leg of another call, heard by that leg alone.

use serde::{Deserialize, Serialize};

use super::{CallId, Executor, Result, Rules, Scene, Speech};
use crate::domain::conference::{MonitorMode, Relation};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whisper {
    pub target: CallId,
    pub speech: Speech,
}

impl Rules for Whisper {
    const EXECUTOR: Executor = Executor::Node;

    fn target(&self) -> Option<&CallId> {
        Some(&self.target)
    }

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.monitor(&self.target)?.mode != MonitorMode::ListenAndWhisper {
            return Err(scene.unrelated(&self.target, Relation::Whisper));
        }
        scene.require_live(&self.target)?;
        Ok(self)
    }
}
