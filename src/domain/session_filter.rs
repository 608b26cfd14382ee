//! Which sessions a list is of. What is absent narrows nothing.

use super::{clock::Timestamp, ids::VoiceAgentId, session::SessionStatus};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionFilter {
    pub agent: Option<VoiceAgentId>,
    pub status: Option<SessionStatus>,
    /// Those that started then or later.
    pub from: Option<Timestamp>,
    /// Those that started earlier.
    pub before: Option<Timestamp>,
}

impl SessionFilter {
    /// The statuses to look through. An active session may leave its status between two looks and the others never do, so
    /// it comes first: a session that ends meanwhile is seen twice and never missed.
    pub fn statuses(&self) -> &[SessionStatus] {
        const ALL: [SessionStatus; 3] = [SessionStatus::Active, SessionStatus::Ended, SessionStatus::Expired];
        match &self.status {
            Some(status) => std::slice::from_ref(status),
            None => &ALL,
        }
    }
}
