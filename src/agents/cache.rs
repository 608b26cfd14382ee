//! The agents and fallbacks that calls need, in memory.

use std::{sync::Arc, time::Duration};

use super::{Fallback, VoiceAgentStore};
use crate::{
    db::{
        CacheSettings,
        cache::{Cache, Freshness},
    },
    domain::{
        Result,
        ids::{TenantId, VoiceAgentId},
        voice_agent::VoiceAgent,
    },
};

#[derive(Debug)]
pub struct AgentCache {
    store: Arc<dyn VoiceAgentStore>,
    agents: Cache<(TenantId, VoiceAgentId), VoiceAgent>,
    fallbacks: Cache<TenantId, Fallback>,
}

impl AgentCache {
    pub fn new(store: Arc<dyn VoiceAgentStore>, settings: &CacheSettings) -> Self {
        let freshness = Freshness {
            fresh: Duration::from_millis(settings.fresh_ms),
            outage: Duration::from_millis(settings.outage_ms),
        };
        Self {
            store,
            agents: Cache::new("voice_agents", settings.agents_max_bytes, freshness, weight),
            fallbacks: Cache::new("fallbacks", settings.tenants_max_bytes, freshness, |_| 1_024),
        }
    }

    /// The agent, at most as old as the settings say.
    pub async fn get(&self, tenant: TenantId, id: VoiceAgentId) -> Result<Option<Arc<VoiceAgent>>> {
        self.agents.get(&(tenant, id), || self.store.get(tenant, id)).await
    }

    /// What the tenant's calls fall back to, at most as old.
    pub async fn fallback(&self, tenant: TenantId) -> Result<Fallback> {
        let load = || async { self.store.fallback(tenant).await.map(Some) };
        let found = self.fallbacks.get(&tenant, load).await?;
        Ok(found.map(|found| Fallback::clone(&found)).unwrap_or_default())
    }

    pub fn forget(&self, tenant: TenantId, id: VoiceAgentId) {
        self.agents.forget(&(tenant, id));
    }

    pub fn forget_fallback(&self, tenant: TenantId) {
        self.fallbacks.forget(&tenant);
    }

    pub fn doubt_everything(&self) {
        self.agents.doubt_everything();
        self.fallbacks.doubt_everything();
    }
}

/// About: the texts, and as much again for what holds them.
fn weight(agent: &VoiceAgent) -> usize {
    let spec = &agent.spec;
    let metadata: usize = spec.metadata.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
    let behavior = spec.behavior.as_ref().map_or(0, |behavior| behavior.bytes());
    1_024 + spec.name.len() + spec.ws_url.len() + metadata + 2 * behavior
}
