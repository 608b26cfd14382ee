//! What is asked when a call wants a slot, and what is answered.

use std::time::Duration;

use secrecy::SecretString;

use crate::{
    agents::{Hints, Resolved},
    domain::{
        direct::DirectRequest,
        ids::{CallId, LeaseId, NodeId, SessionId, VoiceAgentId},
        lease::{Direction, Lease, Usage},
        lease_token::LeaseToken,
        session::{Routing, Session},
        verb::JsonObject,
        voice_agent::Subprotocol,
    },
    tenants::SignedToken,
};

/// A call that wants a slot.
#[derive(Debug, Clone)]
pub struct Admit {
    pub call: CallId,
    /// The agent; absent: found by the hints.
    pub agent: Option<VoiceAgentId>,
    pub hints: Hints,
    pub direction: Direction,
    /// Precedence over calls that wait.
    pub priority: u8,
    /// The node that hosts the call; absent: one is chosen.
    pub node: Option<NodeId>,
    /// What the caller can speak; refused if the agent speaks another.
    pub subprotocol: Option<Subprotocol>,
    pub ttl: Duration,
    pub metadata: JsonObject,
    /// Of a client that streams to the agent directly: no node hosts it.
    pub direct: Option<DirectRequest>,
    /// Came with a sandbox key.
    pub sandbox: bool,
    /// Answers what would happen and takes nothing.
    pub validate_only: bool,
    /// The names under which it waits. A lease of that name was granted to this request, and is given up with it.
    pub ticket: Option<(LeaseId, SessionId)>,
}

/// A call that was admitted.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The agent, and how it was found.
    pub resolved: Resolved,
    pub revision: i64,
    pub routing: Routing,
    pub auth_token: Option<SecretString>,
    pub usage: Usage,
    /// Absent when nothing was taken.
    pub held: Option<Held>,
}

/// What the call holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub lease: Lease,
    /// What the caller is to name the lease by.
    pub lease_token: LeaseToken,
    pub session: Session,
    pub token: SignedToken,
    /// Whether it was granted to this very request.
    pub granted: bool,
}

impl Admit {
    /// Whether the lease is the one that this request waited for.
    pub(super) fn names(&self, lease: LeaseId) -> bool {
        self.ticket.is_some_and(|(name, _)| name == lease)
    }
}

impl Admission {
    pub(super) fn of(resolved: Resolved, auth_token: Option<SecretString>, usage: Usage) -> Self {
        Self {
            revision: resolved.agent.revision,
            routing: Routing::from(&resolved.agent.spec),
            resolved,
            auth_token,
            usage,
            held: None,
        }
    }
}
