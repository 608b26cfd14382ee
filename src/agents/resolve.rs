//! Which agent takes a call that names none: the flow node's, else the campaign's, else the tenant's default, else one
//! that is made from the tenant's `default_ws_url`.
//!
//! A pinned agent is never skipped: what somebody chose and is gone, paused or archived is a mistake to be told, not a
//! reason to let the call speak with another. Of all who find that one has to be made, one makes it.

use std::sync::Arc;

use super::VoiceAgents;
use crate::domain::{
    Error, Result,
    ids::{TenantId, VoiceAgentId},
    voice_agent::{Draft, Spec, Status, VoiceAgent},
};

/// Calls that an agent made from `default_ws_url` takes at once.
const LAZY_MAX_CONCURRENT: i32 = 100;
const LAZY_NAME: &str = "Default voice agent";
/// Who makes it, in the record of revisions: nobody asked for it by name.
const LAZY_ACTOR: &str = "voxgate";

/// What a call brings along about who it is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    pub flow_node: Option<VoiceAgentId>,
    pub campaign: Option<VoiceAgentId>,
}

/// Where an agent came from, in the order in which the sources are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The request named it; nothing else was looked at.
    Explicit,
    FlowNode,
    Campaign,
    TenantDefault,
    LazyDefault,
}

/// What a source held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    NotSet,
    Chosen,
    Created,
    WouldCreate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub source: Source,
    pub found: Found,
    pub agent: Option<VoiceAgentId>,
}

/// An agent, and how it was found. The last step decided.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub agent: Arc<VoiceAgent>,
    pub steps: Vec<Step>,
}

impl Resolved {
    pub fn source(&self) -> Source {
        self.steps.last().map_or(Source::Explicit, |step| step.source)
    }

    /// Whether there is such an agent, or would only be one.
    pub fn exists(&self) -> bool {
        self.steps.last().is_none_or(|step| step.found != Found::WouldCreate)
    }

    /// The agent that a request named.
    pub fn explicit(agent: Arc<VoiceAgent>) -> Self {
        let step = Step { source: Source::Explicit, found: Found::Chosen, agent: Some(agent.id) };
        Self { agent, steps: vec![step] }
    }
}

impl VoiceAgents {
    /// As [`VoiceAgents::resolve`], and the agent takes calls.
    pub async fn resolve_active(&self, tenant: TenantId, hints: Hints, validate_only: bool) -> Result<Resolved> {
        let resolved = self.resolve(tenant, hints, validate_only).await?;
        match resolved.agent.status {
            Status::Active => Ok(resolved),
            Status::Paused => Err(Error::VoiceAgentPaused { agent: resolved.agent.id }),
            Status::Archived => Err(Error::VoiceAgentArchived { agent: resolved.agent.id }),
        }
    }

    /// Finds the agent for `hints`, whatever its status, and makes one where there is none but a `default_ws_url`. With
    /// `validate_only` it says what it would make.
    pub async fn resolve(&self, tenant: TenantId, hints: Hints, validate_only: bool) -> Result<Resolved> {
        let mut steps = Vec::with_capacity(4);
        for (source, hint) in [(Source::FlowNode, hints.flow_node), (Source::Campaign, hints.campaign)] {
            if let Some(id) = hint {
                return self.chosen(tenant, source, id, steps).await;
            }
            steps.push(Step { source, found: Found::NotSet, agent: None });
        }
        let fallback = self.cache.fallback(tenant).await?;
        if let Some(id) = fallback.voice_agent {
            match self.chosen(tenant, Source::TenantDefault, id, steps.clone()).await {
                Err(Error::NotFound { .. }) => self.cache.forget_fallback(tenant),
                answer => return answer,
            }
        }
        // What is kept in memory may be some seconds old; that there is nothing is not taken from there.
        let fallback = self.store.fallback(tenant).await?;
        if let Some(id) = fallback.voice_agent {
            self.cache.forget_fallback(tenant);
            return self.chosen(tenant, Source::TenantDefault, id, steps).await;
        }
        steps.push(Step { source: Source::TenantDefault, found: Found::NotSet, agent: None });
        let ws_url = fallback.ws_url.ok_or(Error::NoVoiceAgentConfigured { tenant })?;
        let agent = self.lazy(tenant, ws_url)?;
        if validate_only {
            steps.push(Step { source: Source::LazyDefault, found: Found::WouldCreate, agent: None });
            return Ok(Resolved { agent: Arc::new(agent), steps });
        }
        let default = self.store.create_default(tenant, &agent).await?;
        self.cache.forget_fallback(tenant);
        if default != agent.id {
            steps.pop();
            return self.chosen(tenant, Source::TenantDefault, default, steps).await;
        }
        steps.push(Step { source: Source::LazyDefault, found: Found::Created, agent: Some(default) });
        Ok(Resolved { agent: Arc::new(agent), steps })
    }

    async fn chosen(
        &self,
        tenant: TenantId,
        source: Source,
        id: VoiceAgentId,
        mut steps: Vec<Step>,
    ) -> Result<Resolved> {
        let agent = self.get(tenant, id).await?;
        steps.push(Step { source, found: Found::Chosen, agent: Some(id) });
        Ok(Resolved { agent, steps })
    }

    /// The agent that `default_ws_url` makes; contract section 2 says what it is like.
    fn lazy(&self, tenant: TenantId, ws_url: String) -> Result<VoiceAgent> {
        let draft = Draft {
            name: Some(LAZY_NAME.to_owned()),
            ws_url: Some(ws_url),
            max_concurrent: Some(LAZY_MAX_CONCURRENT),
            ..Draft::default()
        };
        let spec = Spec::parse(draft).map_err(|faults| Error::internal(faults.summary()))?;
        Ok(self.first_revision(tenant, spec, LAZY_ACTOR.to_owned()))
    }
}
