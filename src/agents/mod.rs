//! Where voice agents are kept.
//!
//! [`VoiceAgentStore`] is what the service needs of a database; `sql` serves it on Postgres and on SQLite from
//! one query text. Every call takes the tenant first and sees that tenant's rows alone: another tenant's
//! id is an id that does not exist. Rules about what may be written are in `domain::voice_agent`.

mod cache;
pub mod heavy;
mod resolve;
mod rewrap;
mod service;
mod sql;

use async_trait::async_trait;

pub use self::{
    cache::AgentCache,
    resolve::{Found, Hints, Resolved, Source, Step},
    rewrap::rewrap,
    service::{Patch, Transition, VoiceAgents},
    sql::SqlVoiceAgentStore,
};
use crate::domain::{
    Result,
    clock::Timestamp,
    hash::Sha256,
    ids::{TenantId, VoiceAgentId},
    keyring::Sealed,
    page::{Page, PageRequest},
    voice_agent::{Status, VoiceAgent},
};

/// Which agents a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub external_agent_id: Option<String>,
    /// Compared byte for byte, so that upper and lower case differ on every database.
    pub name_prefix: Option<String>,
}

/// A create that may come twice: its `request_id`, and a digest of what it asks for.
#[derive(Debug, Clone, Copy)]
pub struct CreateRequest {
    pub id: uuid::Uuid,
    pub digest: Sha256,
    /// Requests that are older are forgotten.
    pub remembered_since: Timestamp,
}

#[derive(Debug, Clone)]
pub enum Created {
    New,
    /// The same request made this agent before; as it is now.
    Replayed(Box<VoiceAgent>),
    /// The id was used for a request that asked for something else.
    RequestIdReused,
}

/// What became of a change that was based on one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Done,
    /// The agent is at another revision by now, or gone.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Done,
    Stale,
    /// Sessions of the agent are active.
    InUse {
        active_sessions: i64,
    },
}

/// What a tenant's calls fall back to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fallback {
    pub voice_agent: Option<VoiceAgentId>,
    /// Where an agent is made from when nothing names one.
    pub ws_url: Option<String>,
}

/// A sealed secret of one revision.
#[derive(Debug, Clone)]
pub struct SealedToken {
    pub tenant: TenantId,
    pub agent: VoiceAgentId,
    pub revision: i64,
    pub sealed: Sealed,
}

#[async_trait]
pub trait VoiceAgentStore: Send + Sync + std::fmt::Debug {
    /// Writes a new agent as its first revision, and remembers `request` with it, in one transaction.
    /// `NotFound(Tenant)` if the tenant does not exist.
    async fn create(&self, tenant: TenantId, agent: &VoiceAgent, request: Option<CreateRequest>) -> Result<Created>;

    async fn get(&self, tenant: TenantId, id: VoiceAgentId) -> Result<Option<VoiceAgent>>;

    /// The agent as it was at `revision`.
    async fn at(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<Option<VoiceAgent>>;

    /// The agent as it was at each revision, newest first, each before that of `before`; at most `limit`. None where
    /// the agent does not exist.
    async fn revisions(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<VoiceAgent>>;

    /// Newest first by `(created_at, id)`; `total_size` counts what the filter matches.
    async fn list(&self, tenant: TenantId, filter: &Filter, page: PageRequest) -> Result<Page<VoiceAgent>>;

    /// Replaces the row by `agent` and keeps it as a revision, if the row still is at `agent.revision - 1`.
    async fn update(&self, tenant: TenantId, agent: &VoiceAgent) -> Result<Changed>;

    /// Removes the row and its revisions if it is at `revision` and no session of it is active; clears it as the
    /// tenant's default.
    async fn delete(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<Deleted>;

    /// `NotFound(Tenant)` if the tenant does not exist.
    async fn fallback(&self, tenant: TenantId) -> Result<Fallback>;

    /// Pins or clears the tenant's default; `NotFound(VoiceAgent)` if the agent is not the tenant's, `VoiceAgentArchived`
    /// if it is archived.
    async fn set_default(&self, tenant: TenantId, id: Option<VoiceAgentId>, now: Timestamp) -> Result<()>;

    /// Creates `agent` and pins it as the tenant's default, unless the tenant has one: however many race, one agent is
    /// made. Answers the tenant's default; it is `agent` for the one who made it.
    async fn create_default(&self, tenant: TenantId, agent: &VoiceAgent) -> Result<VoiceAgentId>;

    /// Sealed secrets of all tenants in the order of `(tenant, agent, revision)`, those after `after`.
    async fn sealed_tokens(&self, after: Option<&SealedToken>, limit: u16) -> Result<Vec<SealedToken>>;

    /// Puts `sealed` in the place of `old` in its revision, and in the agent if it is there too. False where the
    /// revision holds another by now.
    async fn reseal(&self, old: &SealedToken, sealed: &Sealed) -> Result<bool>;
}
