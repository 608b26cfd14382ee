//! Where voice agents are kept.
//!
//! [`VoiceAgentStore`] is what the service needs of a database; `sql` serves it on Postgres and on SQLite from
//! one query text. Every call takes the tenant first and sees that tenant's rows alone: another tenant's
//! id is an id that does not exist. Rules about what may be written are in `domain::voice_agent`.

mod service;
mod sql;

use async_trait::async_trait;

pub use self::{
    service::{Patch, Transition, VoiceAgents},
    sql::SqlVoiceAgentStore,
};
use crate::domain::{
    Result,
    clock::Timestamp,
    hash::Sha256,
    ids::{TenantId, VoiceAgentId},
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

#[async_trait]
pub trait VoiceAgentStore: Send + Sync + std::fmt::Debug {
    /// Writes a new agent, and remembers `request` with it in one transaction. `NotFound(Tenant)` if the tenant does not exist.
    async fn create(&self, tenant: TenantId, agent: &VoiceAgent, request: Option<CreateRequest>) -> Result<Created>;

    async fn get(&self, tenant: TenantId, id: VoiceAgentId) -> Result<Option<VoiceAgent>>;

    /// Newest first by `(created_at, id)`; `total_size` counts what the filter matches.
    async fn list(&self, tenant: TenantId, filter: &Filter, page: PageRequest) -> Result<Page<VoiceAgent>>;

    /// Replaces the row by `agent` if it still is at `agent.revision - 1`.
    async fn update(&self, tenant: TenantId, agent: &VoiceAgent) -> Result<Changed>;

    /// Removes the row if it is at `revision` and no session of it is active; clears it as the tenant's default.
    async fn delete(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<Deleted>;

    /// The tenant's default. `NotFound(Tenant)` if the tenant does not exist.
    async fn default(&self, tenant: TenantId) -> Result<Option<VoiceAgentId>>;

    /// Pins or clears the tenant's default; `NotFound(VoiceAgent)` if the agent is not the tenant's.
    async fn set_default(&self, tenant: TenantId, id: Option<VoiceAgentId>, now: Timestamp) -> Result<()>;
}
