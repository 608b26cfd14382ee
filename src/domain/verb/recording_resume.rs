//! Resumes a paused recording.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingResume;

impl Rules for RecordingResume {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.state.recording_paused { Ok(self) } else { Err(scene.invalid("recording_not_paused")) }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.recording_paused = false;
        Effect::default()
    }
}
