//! Pauses the recording, for instance while a card number is read out.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingPause {
    pub reason: Option<String>,
}

impl Rules for RecordingPause {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.state.recording_paused { Err(scene.invalid("recording_paused")) } else { Ok(self) }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.recording_paused = true;
        Effect::default()
    }
}
