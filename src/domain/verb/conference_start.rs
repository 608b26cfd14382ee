//! Turns the call into a conference of its present parties.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};
use crate::domain::{conference::Conference, event::conference_changed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConferenceStart;

impl Rules for ConferenceStart {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        match scene.session.state.conference {
            Some(_) => Err(scene.invalid("already_in_conference")),
            None => Ok(self),
        }
    }

    fn effect(&self, session: &mut Session, done: &Done) -> Effect {
        let id = done.conference_id();
        let conference = Conference { id: id.clone(), members: Vec::new() };
        let events = vec![conference_changed(&conference, "started", None)];
        session.state.conference = Some(conference);
        Effect { conference_id: Some(id), events, ..Effect::default() }
    }
}
