//! Where sessions are kept.
//!
//! A session ends once: [`SessionStore::end`] tells the one caller who ended it from all others, and that one
//! tells the world. Writers work on what they read: `update` refuses a session that changed meanwhile.

mod sql;

use async_trait::async_trait;

pub use self::sql::SqlSessionStore;
use crate::domain::{
    Result,
    clock::Timestamp,
    ids::{CallId, SessionId, TenantId, VoiceAgentId},
    session::{Outcome, Session},
};

#[derive(Debug, Clone)]
pub enum Opened {
    New,
    /// A session of this lease stands already (the acquire came twice).
    Existing(Box<Session>),
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

    /// Notes until when a session's lease is known to live. Not a change of the session: its version stays.
    async fn lease_known_until(&self, tenant: TenantId, id: SessionId, expires_at: Timestamp) -> Result<()>;
}
