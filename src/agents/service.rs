//! What may be done with a tenant's voice agents.
//!
//! Every change is made on the revision that was read and written only if that still is the current one, so no
//! update is lost: with an etag the loser is told, without one the change is made again on what is there now.

use std::{sync::Arc, time::Duration};

use super::{Changed, CreateRequest, Created, Filter, VoiceAgentStore};
use crate::domain::{
    Env, Error, Result,
    error::Resource,
    hash::Sha256,
    ids::{TenantId, VoiceAgentId},
    page::{Page, PageRequest},
    violations::Violations,
    voice_agent::{Draft, Path, Spec, Status, VoiceAgent},
};

/// How long the answer to a `request_id` is kept.
const REQUEST_MEMORY: Duration = Duration::from_hours(24);

#[derive(Debug, Clone)]
pub struct VoiceAgents {
    store: Arc<dyn VoiceAgentStore>,
    env: Env,
}

/// A change of some fields, with what was at fault already when it was read: the caller hears of everything at once.
#[derive(Debug, Clone)]
pub struct Patch {
    pub draft: Draft,
    pub paths: Vec<Path>,
    pub faults: Violations,
}

impl Patch {
    fn applied_to(&self, spec: &Spec) -> Result<Spec, Violations> {
        let mut faults = self.faults.clone();
        let patched = spec.patched(&self.draft, &self.paths).map_err(|part| faults.absorb("voice_agent", part));
        faults.into_result(patched.ok())
    }
}

/// A move between statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Pause,
    Resume,
    Archive,
    Unarchive,
}

impl Transition {
    fn applied_to(self, agent: &VoiceAgent) -> Result<Status> {
        match (self, agent.status) {
            (Self::Pause | Self::Resume, Status::Archived) => Err(Error::VoiceAgentArchived { agent: agent.id }),
            (Self::Pause, _) => Ok(Status::Paused),
            (Self::Resume, _) | (Self::Unarchive, Status::Archived) => Ok(Status::Active),
            (Self::Archive, _) => Ok(Status::Archived),
            (Self::Unarchive, unchanged) => Ok(unchanged),
        }
    }
}

impl VoiceAgents {
    pub fn new(store: Arc<dyn VoiceAgentStore>, env: Env) -> Self {
        Self { store, env }
    }

    /// Creates an agent; the same `request` (its id and what it asks for) again answers the same agent.
    pub async fn create(
        &self,
        tenant: TenantId,
        spec: Spec,
        request: Option<(uuid::Uuid, Sha256)>,
    ) -> Result<VoiceAgent> {
        let now = self.env.now();
        let agent = VoiceAgent {
            id: VoiceAgentId::new(&self.env),
            tenant,
            spec,
            status: Status::Active,
            revision: 1,
            created_at: now,
            updated_at: now,
        };
        let remembered_since = now.minus(REQUEST_MEMORY);
        let create = request.map(|(id, digest)| CreateRequest { id, digest, remembered_since });
        match (self.store.create(tenant, &agent, create).await?, request) {
            (Created::New, _) => Ok(agent),
            (Created::Replayed(earlier), _) => Ok(*earlier),
            (Created::RequestIdReused, Some((id, _))) => Err(Error::IdempotencyKeyReused { key: id.to_string() }),
            (Created::RequestIdReused, None) => Err(Error::internal("a request without id was found used")),
        }
    }

    pub async fn get(&self, tenant: TenantId, id: VoiceAgentId) -> Result<VoiceAgent> {
        self.store.get(tenant, id).await?.ok_or_else(|| Error::not_found(Resource::VoiceAgent, id))
    }

    pub async fn list(&self, tenant: TenantId, filter: &Filter, page: PageRequest) -> Result<Page<VoiceAgent>> {
        self.store.list(tenant, filter, page).await
    }

    /// Lays the patch over the agent.
    pub async fn update(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        etag: Option<&str>,
        patch: &Patch,
    ) -> Result<VoiceAgent> {
        self.change(tenant, id, etag, |agent| {
            agent.spec = patch.applied_to(&agent.spec)?;
            Ok(!patch.paths.is_empty())
        })
        .await
    }

    /// Moves the agent; where it is there already, nothing changes and that is a success.
    pub async fn transition(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        etag: Option<&str>,
        transition: Transition,
    ) -> Result<VoiceAgent> {
        self.change(tenant, id, etag, |agent| {
            let status = transition.applied_to(agent)?;
            let moves = status != agent.status;
            agent.status = status;
            Ok(moves)
        })
        .await
    }

    async fn change(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        etag: Option<&str>,
        change: impl Fn(&mut VoiceAgent) -> Result<bool>,
    ) -> Result<VoiceAgent> {
        loop {
            let mut agent = self.get(tenant, id).await?;
            if etag.is_some_and(|etag| etag != agent.etag()) {
                return Err(Error::EtagMismatch { current: agent.etag() });
            }
            if !change(&mut agent)? {
                return Ok(agent);
            }
            agent.revision += 1;
            agent.updated_at = self.env.now();
            match self.store.update(tenant, &agent).await? {
                Changed::Done => return Ok(agent),
                // With an etag the next look tells the caller; without one the change is made on what is there now.
                Changed::Stale => {}
            }
        }
    }

    pub async fn default(&self, tenant: TenantId) -> Result<Option<VoiceAgentId>> {
        self.store.default(tenant).await
    }

    pub async fn set_default(&self, tenant: TenantId, id: Option<VoiceAgentId>) -> Result<()> {
        if let Some(id) = id {
            let agent = self.get(tenant, id).await?;
            if agent.status == Status::Archived {
                return Err(Error::VoiceAgentArchived { agent: id });
            }
        }
        self.store.set_default(tenant, id, self.env.now()).await
    }
}
