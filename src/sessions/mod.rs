//! Where sessions are kept.
//!
//! What happens to a session is told by events that are written with it, in one transaction.
//!
//! A session ends once: [`SessionStore::end`] tells the one caller who ended it from all others, and that one
//! tells the world. Writers work on what they read: `update` refuses a session that changed meanwhile.
//!
//! Nobody who admits or releases a call waits for the database: the [`Journal`] takes what is to be written and writes
//! it behind, in batches, into the [`History`]. It is itself a [`SessionStore`], whose readers see what was said before.

mod audit;
mod events;
mod journal;
mod operations;
mod sql;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    audit::{AUDIT_PATIENCE, AuditLog, AuditPage, AuditStore},
    events::{
        EventLog, EventNews, EventPage, EventSignal, EventStore, Heard, Position, RedisEventSignal, Sequencer,
        TenantEvent,
    },
    journal::{Journal, JournalSettings, Place, Room},
    operations::{Begun, Carried, OperationStore, Settled, WrittenEvent},
    sql::{SqlAuditStore, SqlEventStore, SqlOperationStore, SqlSessionStore},
};
use crate::domain::{
    Result,
    clock::Timestamp,
    event::Event,
    ids::{CallId, LeaseId, NodeId, SessionId, TenantId, VoiceAgentId},
    journal::Ending,
    node::NodeAddress,
    page::{Cursor, PageRequest},
    session::{Outcome, Routing, Session, SessionStatus},
    session_filter::SessionFilter,
    transcript::Posted,
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

/// Sessions, newest first, without their routing, and where the next page starts.
#[derive(Debug, Clone)]
pub struct SessionPage {
    pub sessions: Vec<Session>,
    pub next: Option<Cursor>,
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

    /// Writes `node`, `state`, `answered_at` and `ends_at` if the row is still at `session.version` and active; the row is then one
    /// version further. False otherwise.
    async fn update(&self, tenant: TenantId, session: &Session) -> Result<bool>;

    /// Adds an event to a session, active or ended, unless it tells of a URL that the session has an event of the same
    /// type about. False if there is no such session.
    async fn tell(&self, tenant: TenantId, id: SessionId, event: Event, now: Timestamp) -> Result<bool>;

    /// Ends an active session and answers it as it is now; nothing if it was not active.
    async fn end(&self, tenant: TenantId, id: SessionId, outcome: Outcome, now: Timestamp) -> Result<Option<Session>>;

    /// Active sessions of an agent, oldest first, at most `limit`.
    async fn active_of_agent(&self, tenant: TenantId, agent: VoiceAgentId, limit: u16) -> Result<Vec<Session>>;

    /// The tenant's sessions that pass the filter, newest first: of two that started at one moment, the one of the
    /// greater id. Their routing is not read, and is [`Routing::unknown`].
    async fn list(&self, tenant: TenantId, filter: SessionFilter, page: PageRequest) -> Result<SessionPage>;

    /// Writes what was posted of a session, in the place of what was before, and answers the session; nothing if there is
    /// none. Whether it is active does not matter, and stays as it is.
    async fn post(&self, tenant: TenantId, id: SessionId, posted: &Posted) -> Result<Option<Session>>;

    /// What was posted last of the session.
    async fn posted(&self, tenant: TenantId, id: SessionId) -> Result<Option<Posted>>;

    /// Active sessions of all tenants whose lease was last known to run out before `moment`, the longest overdue
    /// first: the sweep asks the slot store about these.
    async fn due(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>>;

    /// Active sessions of all tenants that were to end before `moment`, however well they went; the longest overdue first.
    async fn over(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>>;

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

/// What is to be written of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub session: SessionId,
    /// The session as it began; absent where that was written before.
    pub opening: Option<Arc<Session>>,
    pub ending: Option<Ending>,
}

impl Entry {
    /// The session as its row will be, where that begins with this.
    pub fn session(&self) -> Option<Session> {
        let opening = Session::clone(self.opening.as_ref()?);
        Some(match self.ending {
            Some(ending) => ending.applied_to(opening),
            None => opening,
        })
    }
}

/// Who knows where the calls of agents went.
#[async_trait]
pub trait Routings: Send + Sync + std::fmt::Debug {
    /// At a revision of the agent; nothing if it was deleted.
    async fn at(&self, tenant: TenantId, agent: VoiceAgentId, revision: i64) -> Result<Option<Routing>>;
}

/// What became of an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The row says what the entry says, or was ended otherwise before.
    Done,
    /// Nothing was written: another session of the call is active, which may have ended without anyone having written
    /// that yet. `by` is absent if it was gone when it was looked for.
    Blocked { by: Option<SessionId> },
    /// The agent is not there any more: the session was written as one that ended with AGENT_DELETED.
    AgentDeleted,
    /// The end of a session that has no row.
    Missing,
}

/// A store that takes many sessions at once. Writing an entry again changes nothing.
#[async_trait]
pub trait History: SessionStore {
    /// Writes entries of different sessions in one transaction; answers what became of each, in order.
    async fn write(&self, tenant: TenantId, entries: Vec<Entry>, now: Timestamp) -> Result<Vec<Written>>;

    /// Writes an opening that was blocked. Of it and the call's active session the one of the higher fence stays, the
    /// other has ended with LEASE_EXPIRED when that one began. Never `Blocked`.
    async fn displace(&self, tenant: TenantId, entry: Entry, now: Timestamp) -> Result<Written>;

    /// All tenants in the order of their ids, those after `after`.
    async fn tenants(&self, after: Option<TenantId>, limit: u16) -> Result<Vec<TenantId>>;
}
