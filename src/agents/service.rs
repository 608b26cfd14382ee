//! What may be done with a tenant's voice agents.
//!
//! Reading is from memory, and as old as [`CacheSettings`](crate::db::CacheSettings) allow; changing never is.
//! Every change is made on the revision that was read and written only if that still is the current one, so no
//! update is lost: with an etag the loser is told, without one the change is made again on what is there now.

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};

use super::{AgentCache, Changed, CreateRequest, Created, Deleted, Filter, VoiceAgentStore, heavy};
use crate::domain::{
    Env, Error, Result,
    error::Resource,
    hash::Sha256,
    ids::{TenantId, VoiceAgentId},
    keyring::KeyRing,
    page::{Page, PageRequest},
    violations::Violations,
    voice_agent::{AuthToken, Draft, Path, Spec, Status, VoiceAgent},
};

/// How long the answer to a `request_id` is kept.
const REQUEST_MEMORY: Duration = Duration::from_hours(24);

#[derive(Debug, Clone)]
pub struct VoiceAgents {
    pub(super) store: Arc<dyn VoiceAgentStore>,
    pub(super) cache: Arc<AgentCache>,
    ring: Arc<KeyRing>,
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
    pub fn new(store: Arc<dyn VoiceAgentStore>, cache: Arc<AgentCache>, ring: Arc<KeyRing>, env: Env) -> Self {
        Self { store, cache, ring, env }
    }

    /// Creates an agent; the same `request` (its id and what it asks for) again answers the same agent.
    pub async fn create(
        &self,
        tenant: TenantId,
        spec: Spec,
        request: Option<(uuid::Uuid, Sha256)>,
        actor: String,
    ) -> Result<VoiceAgent> {
        let mut agent = self.first_revision(tenant, spec, actor);
        let secret = self.reveal(&agent)?;
        self.seal(&mut agent)?;
        let remembered_since = agent.created_at.minus(REQUEST_MEMORY);
        let create = request.map(|(id, digest)| CreateRequest { id, digest, remembered_since });
        match (self.store.create(tenant, &agent, create).await?, request) {
            (Created::New, _) => Ok(agent),
            (Created::Replayed(earlier), Some((request, _))) => {
                // The digest lacks the secret; the first revision has it.
                let first = self.at(tenant, earlier.id, 1).await?;
                let text = |secret: &Option<SecretString>| secret.as_ref().map(|it| it.expose_secret().to_owned());
                match text(&self.reveal(&first)?) == text(&secret) {
                    true => Ok(*earlier),
                    false => Err(Error::IdempotencyKeyReused { key: request.to_string() }),
                }
            }
            (Created::Replayed(earlier), None) => Ok(*earlier),
            (Created::RequestIdReused, Some((id, _))) => Err(Error::IdempotencyKeyReused { key: id.to_string() }),
            (Created::RequestIdReused, None) => Err(Error::internal("a request without id was found used")),
        }
    }

    pub(super) fn first_revision(&self, tenant: TenantId, spec: Spec, actor: String) -> VoiceAgent {
        let now = self.env.now();
        VoiceAgent {
            id: VoiceAgentId::new(&self.env),
            tenant,
            spec,
            status: Status::Active,
            revision: 1,
            created_at: now,
            updated_at: now,
            updated_by: actor,
        }
    }

    pub async fn get(&self, tenant: TenantId, id: VoiceAgentId) -> Result<Arc<VoiceAgent>> {
        self.cache.get(tenant, id).await?.ok_or_else(|| Error::not_found(Resource::VoiceAgent, id))
    }

    /// As it is at this moment, for a change that is built on it.
    pub async fn current(&self, tenant: TenantId, id: VoiceAgentId) -> Result<VoiceAgent> {
        self.store.get(tenant, id).await?.ok_or_else(|| Error::not_found(Resource::VoiceAgent, id))
    }

    /// As it was at `revision`.
    pub async fn at(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<VoiceAgent> {
        self.store.at(tenant, id, revision).await?.ok_or(Error::RevisionNotFound { agent: id, revision })
    }

    /// As it was at each revision before `before`, newest first; at most `limit`.
    pub async fn revisions(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<VoiceAgent>> {
        let found = self.store.revisions(tenant, id, before, limit).await?;
        if found.is_empty() {
            // The end of the list, or of the agent.
            self.current(tenant, id).await?;
        }
        Ok(found)
    }

    /// The agent's secret, for those who may see it.
    pub fn reveal(&self, agent: &VoiceAgent) -> Result<Option<SecretString>> {
        let token = agent.spec.auth_token.as_ref();
        token.map(|token| token.reveal(&self.ring, agent.tenant, agent.id)).transpose()
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
        patch: Patch,
        actor: &str,
    ) -> Result<VoiceAgent> {
        let heavy = patch.paths.iter().any(|path| path.is_behavior());
        self.change(tenant, id, (etag, actor), heavy, move |agent| {
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
        actor: &str,
    ) -> Result<VoiceAgent> {
        self.change(tenant, id, (etag, actor), false, move |agent| {
            let status = transition.applied_to(agent)?;
            let moves = status != agent.status;
            agent.status = status;
            Ok(moves)
        })
        .await
    }

    /// Makes an earlier revision's settings current again, as a new revision; the status stays.
    pub async fn roll_back(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        etag: Option<&str>,
        revision: i64,
        actor: &str,
    ) -> Result<VoiceAgent> {
        let earlier = self.at(tenant, id, revision).await?.spec;
        self.change(tenant, id, (etag, actor), earlier.behavior.is_some(), move |agent| {
            // What was valid then must be so by today's rules; and its system instruction is compiled anew.
            agent.spec = earlier.written_anew().map_err(Error::from)?;
            Ok(true)
        })
        .await
    }

    async fn change(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        (etag, actor): (Option<&str>, &str),
        heavy: bool,
        change: impl Fn(&mut VoiceAgent) -> Result<bool> + Send + Sync + 'static,
    ) -> Result<VoiceAgent> {
        let change = Arc::new(change);
        loop {
            let mut agent = self.current(tenant, id).await?;
            if etag.is_some_and(|etag| etag != agent.etag()) {
                return Err(Error::EtagMismatch { current: agent.etag() });
            }
            let change = change.clone();
            let (differs, mut agent) =
                heavy::check(heavy, move || Ok::<_, Error>((change(&mut agent)?, agent))).await?;
            if !differs {
                return Ok(agent);
            }
            agent.revision += 1;
            agent.updated_at = self.env.now();
            actor.clone_into(&mut agent.updated_by);
            self.seal(&mut agent)?;
            let written = self.store.update(tenant, &agent).await;
            // Also after an error, which may have come after the change.
            self.cache.forget(tenant, id);
            match written? {
                Changed::Done => return Ok(agent),
                // With an etag the next look tells the caller; without one the change is made on what is there now.
                Changed::Stale => {}
            }
        }
    }

    fn seal(&self, agent: &mut VoiceAgent) -> Result<()> {
        let token = agent.spec.auth_token.take();
        // What is carried on comes under the key that seals now, so that a change never undoes a rewrap.
        let seal = |token: AuthToken| token.sealed(&self.ring, &self.env, (agent.tenant, agent.id), agent.revision);
        agent.spec.auth_token = token.map(seal).transpose()?;
        Ok(())
    }

    /// Removes the agent, if it is at `revision` and no session of it is active.
    pub async fn delete(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<Deleted> {
        let deleted = self.store.delete(tenant, id, revision).await;
        self.cache.forget(tenant, id);
        self.cache.forget_fallback(tenant);
        deleted
    }

    pub async fn default(&self, tenant: TenantId) -> Result<Option<VoiceAgentId>> {
        Ok(self.store.fallback(tenant).await?.voice_agent)
    }

    pub async fn set_default(&self, tenant: TenantId, id: Option<VoiceAgentId>) -> Result<()> {
        let set = self.store.set_default(tenant, id, self.env.now()).await;
        self.cache.forget_fallback(tenant);
        set
    }
}
