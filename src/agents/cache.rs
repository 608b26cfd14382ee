//! The agents and fallbacks that calls need, in memory.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use super::{Fallback, VoiceAgentStore};
use crate::{
    db::cache::{Cache, Freshness},
    domain::{
        Result,
        ids::{TenantId, VoiceAgentId},
        voice_agent::VoiceAgent,
    },
};

/// What a replica keeps in memory of rows that it reads at every call.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Voice agents, in bytes (default 64 MiB: some 60,000 small ones, or 200 with the largest behavior).
    pub agents_max_bytes: usize,
    /// Tenants and API keys, in bytes each (default 16 MiB: some 16,000).
    pub tenants_max_bytes: usize,
    /// Age at which an agent or a tenant is read again although no notice of a change came (default 5,000 ms).
    pub fresh_ms: u64,
    /// The same of an API key (default 800 ms: a revoked key is refused within a second
    /// by every replica that reaches the database).
    pub key_fresh_ms: u64,
    /// How long agents and tenants that are known are used while the database is away (default 3,600,000 ms).
    pub outage_ms: u64,
    /// The same of API keys (default 300,000 ms: for as long a replica that is cut off may not hear that one was revoked).
    pub key_outage_ms: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            agents_max_bytes: 64 << 20,
            tenants_max_bytes: 16 << 20,
            fresh_ms: 5_000,
            key_fresh_ms: 800,
            outage_ms: 3_600_000,
            key_outage_ms: 300_000,
        }
    }
}

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
