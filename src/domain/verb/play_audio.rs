//! Plays a file or speaks a text to the call.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Rules, Session, Speech};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlayAudio {
    pub speech: Speech,
}

impl Rules for PlayAudio {
    const EXECUTOR: Executor = Executor::Node;

    fn effect(&self, _: &mut Session, done: &Done) -> Effect {
        Effect { playback_id: Some(done.playback_id()), ..Effect::default() }
    }
}
