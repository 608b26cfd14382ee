//! What a verb is judged by, and the refusals that verbs share.

use super::{CallId, Result, Session};
use crate::domain::{
    Error,
    conference::{Conference, Monitor, Relation},
    error::Resource,
};

#[derive(Debug, Clone, Copy)]
pub struct Scene<'s> {
    pub session: &'s Session,
    /// The session of the other call that the verb names; nothing where the tenant has none on this side of the sandbox
    /// fence.
    pub target: Option<&'s Session>,
    /// Whether the verb may reach beyond its own call's conference.
    pub is_admin: bool,
}

impl<'s> Scene<'s> {
    /// Of a verb that concerns its own call alone.
    pub const fn alone(session: &'s Session) -> Self {
        Self { session, target: None, is_admin: false }
    }

    /// The state does not allow the verb; `state` says which.
    pub fn invalid(&self, state: &'static str) -> Error {
        Error::InvalidCallState { call: self.session.call.clone(), state }
    }

    /// The call has not `required` to do with `target`.
    pub fn unrelated(&self, target: &CallId, required: Relation) -> Error {
        Error::ConferenceMembershipRequired { call: self.session.call.clone(), target: target.clone(), required }
    }

    pub fn conference(&self) -> Result<&'s Conference> {
        self.session.state.conference.as_ref().ok_or_else(|| self.invalid("no_conference"))
    }

    pub fn monitor(&self, target: &CallId) -> Result<&'s Monitor> {
        self.session.state.monitor(target).ok_or_else(|| self.unrelated(target, Relation::Monitor))
    }

    /// The other call, of id `target`, must be live.
    pub fn require_live(&self, target: &CallId) -> Result<()> {
        match self.target {
            Some(session) if session.is_active() => Ok(()),
            Some(_) => Err(self.invalid("target_ended")),
            None => Err(Error::not_found(Resource::Call, target)),
        }
    }
}
