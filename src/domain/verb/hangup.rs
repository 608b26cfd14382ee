//! Ends the call; its session ends with HANGUP and its slot is free.

use serde::{Deserialize, Serialize};

use super::{CallState, Executor, JsonObject, Outcome, Result, Rules, Session};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hangup {
    pub metadata: JsonObject,
}

impl Rules for Hangup {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, _: &Session) -> Result<Self> {
        Ok(self)
    }

    fn effect(&self, state: &mut CallState) {
        *state = CallState { turn_count: state.turn_count, ..CallState::default() };
    }

    fn ends(&self) -> Option<Outcome> {
        Some(Outcome::Hangup)
    }
}
