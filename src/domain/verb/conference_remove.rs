//! Removes a member from the call's conference.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};
use crate::domain::{Error, event::conference_changed};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConferenceRemove {
    pub member: String,
    /// Filled from the session: the conference that is meant.
    #[serde(default)]
    pub conference: String,
}

impl Rules for ConferenceRemove {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        let conference = scene.conference()?;
        if !conference.members.iter().any(|member| member.id == self.member) {
            return Err(Error::MemberNotFound { call: scene.session.call.clone(), member: self.member });
        }
        Ok(Self { conference: conference.id.clone(), ..self })
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        let Some(conference) = session.state.conference_mut(&self.conference) else { return Effect::default() };
        conference.members.retain(|member| member.id != self.member);
        Effect {
            events: vec![conference_changed(conference, "member_removed", Some(&self.member))],
            ..Effect::default()
        }
    }
}
