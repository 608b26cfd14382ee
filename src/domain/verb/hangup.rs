//! Ends the call; its session ends with HANGUP and its slot is free.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, JsonObject, Outcome, Rules, Session};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hangup {
    pub metadata: JsonObject,
}

impl Rules for Hangup {
    const EXECUTOR: Executor = Executor::Node;

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.over();
        Effect::default()
    }

    fn ends(&self) -> Option<Outcome> {
        Some(Outcome::Hangup)
    }
}
