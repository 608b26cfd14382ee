//! Brings a party into the call's conference.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, JsonObject, Outbound, Result, Rules, Scene, Session};
use crate::domain::{
    conference::{Invitee, MEMBERS_MAX, Member},
    event::conference_changed,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConferenceAdd {
    pub invitee: Invitee,
    pub metadata: JsonObject,
    /// Filled from the session: the conference that is meant.
    #[serde(default)]
    pub conference: String,
}

impl Rules for ConferenceAdd {
    const EXECUTOR: Executor = Executor::Node;

    fn outbound(&self) -> Option<Outbound<'_>> {
        self.invitee.outbound()
    }

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        let conference = scene.conference()?;
        if conference.members.len() >= MEMBERS_MAX {
            return Err(scene.invalid("conference_full"));
        }
        Ok(Self { conference: conference.id.clone(), ..self })
    }

    fn effect(&self, session: &mut Session, done: &Done) -> Effect {
        let id = done.member_id();
        let member = Member { id: id.clone(), invitee: Some(self.invitee.clone()) };
        let Some(conference) = session.state.conference_mut(&self.conference) else { return Effect::default() };
        conference.members.push(member);
        let events = vec![conference_changed(conference, "member_added", Some(&id))];
        Effect { member_id: Some(id), events, ..Effect::default() }
    }
}
