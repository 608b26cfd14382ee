//! Where sessions are kept.
//!
//! A session ends once: [`SessionStore::end`] tells the one caller who ended it from all others, and that one
//! tells the world. Writers work on what they read: `update` refuses a session that changed meanwhile.

mod sql;

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;

pub use self::sql::SqlSessionStore;
use crate::domain::{
    Result,
    clock::Timestamp,
    ids::{CallId, LeaseId, NodeId, SessionId, TenantId, VoiceAgentId},
    node::NodeAddress,
    session::{Outcome, Session, SessionStatus},
};

#[derive(Debug, Clone)]
pub enum Opened {
    New,
    /// A session of this lease stands already (the acquire came twice).
    Existing(Box<Session>),
}

/// As much of an active session as its comparison with leases and nodes takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveCall {
    pub session: SessionId,
    pub call: CallId,
    pub lease: LeaseId,
    pub node: Option<NodeId>,
    pub sandbox: bool,
    pub ws_connected: bool,
}

impl ActiveCall {
    pub fn node_address(&self, tenant: TenantId) -> Option<NodeAddress> {
        let node = self.node.clone()?;
        Some(NodeAddress { tenant, sandbox: self.sandbox, node })
    }
}

#[async_trait]
pub trait SessionStore: Send + Sync + std::fmt::Debug {
    /// Writes a new active session. Another active session of the call, left over from a lease that ran out, ends
    /// with LEASE_EXPIRED in the same transaction.
    ///
    /// `NotFound` if the session's agent does not exist: of an opening and a deletion of the agent that race, one
    /// sees the other. `LeaseLost` if the call's active session is of the same agent with a higher fence: the lease
    /// ran out before its holder came here, and a successor's stands. Neither changes anything.
    async fn open(&self, tenant: TenantId, session: &Session) -> Result<Opened>;

    async fn get(&self, tenant: TenantId, id: SessionId) -> Result<Option<Session>>;

    /// The call's active session, or else its newest.
    async fn of_call(&self, tenant: TenantId, call: &CallId) -> Result<Option<Session>>;

    /// Writes `node`, `state` and `answered_at` if the row is still at `session.version` and active; the row is then one
    /// version further. False otherwise.
    async fn update(&self, tenant: TenantId, session: &Session) -> Result<bool>;

    /// Ends an active session and answers it as it is now; nothing if it was not active.
    async fn end(&self, tenant: TenantId, id: SessionId, outcome: Outcome, now: Timestamp) -> Result<Option<Session>>;

    /// Active sessions of an agent, oldest first, at most `limit`.
    async fn active_of_agent(&self, tenant: TenantId, agent: VoiceAgentId, limit: u16) -> Result<Vec<Session>>;

    /// Active sessions of all tenants whose lease was last known to run out before `moment`, the longest overdue
    /// first: the sweep asks the slot store about these.
    async fn due(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>>;

    /// Sessions of all tenants that ended at `from` or later, in the order in which they ended.
    async fn ended_since(&self, from: Timestamp, limit: u16) -> Result<Vec<Session>>;

    /// Notes until when a session's lease is known to live, and that it is given at least `life` at once. Not a change
    /// of the session: its version stays.
    async fn lease_known_until(
        &self,
        tenant: TenantId,
        id: SessionId,
        expires_at: Timestamp,
        life: Duration,
    ) -> Result<()>;

    /// The longest life that the lease of an active session of the tenant is given at once; nothing if none is active.
    async fn longest_lease(&self, tenant: TenantId) -> Result<Option<Duration>>;

    /// The tenants that have active sessions.
    async fn tenants_with_calls(&self) -> Result<Vec<TenantId>>;

    /// The tenant's active sessions, at most `most`.
    async fn active_calls(&self, tenant: TenantId, most: usize) -> Result<Vec<ActiveCall>>;

    /// What became of those of these sessions that there are.
    async fn statuses(&self, tenant: TenantId, ids: &[SessionId]) -> Result<HashMap<SessionId, SessionStatus>>;
}
