//! The AI's leg drops and the others stay; its session ends and its slot is free.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Outcome, Result, Rules, Scene, Session};
use crate::domain::event::conference_changed;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConferenceLeave {
    /// Filled from the session: the conference that is meant.
    #[serde(default)]
    pub conference: String,
}

impl Rules for ConferenceLeave {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        Ok(Self { conference: scene.conference()?.id.clone() })
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        let left = session.state.conference.as_ref();
        let events = left.map(|left| conference_changed(left, "left", None)).into_iter().collect();
        session.state.over();
        Effect { events, ..Effect::default() }
    }

    fn ends(&self) -> Option<Outcome> {
        Some(Outcome::ConferenceLeft)
    }
}
