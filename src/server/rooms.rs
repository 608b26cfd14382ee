//! The rooms that keep rows in memory, on one database: the service's, and those of one-off work.

use std::{sync::Arc, time::Duration};

use super::Stores;
use crate::{
    agents::{AgentCache, CacheSettings, SqlVoiceAgentStore, VoiceAgents},
    db::{Change, Database},
    domain::Env,
    tenants::{Directory, DirectoryLimits, SqlTenantStore, TenantStore, Tenants},
};

pub(super) struct Rooms {
    pub(super) agents: VoiceAgents,
    pub(super) tenants: Tenants,
    pub(super) directory: Arc<Directory>,
    pub(super) tenant_store: Arc<dyn TenantStore>,
    agent_cache: Arc<AgentCache>,
}

impl Rooms {
    pub(super) fn on(stores: &Stores, settings: &CacheSettings, env: &Env) -> Self {
        let agent_store = Arc::new(SqlVoiceAgentStore::new(stores.database.clone()));
        let agent_cache = Arc::new(AgentCache::new(agent_store.clone(), settings));
        let (tenants, directory, tenant_store) = tenants_on(&stores.database, settings, env);
        Self {
            agents: VoiceAgents::new(agent_store, agent_cache.clone(), stores.ring.clone(), env.clone()),
            tenants,
            directory,
            tenant_store,
            agent_cache,
        }
    }

    /// What to do when another replica has changed something.
    pub(super) fn on_change(&self) -> impl Fn(Change) + Send + Sync + 'static {
        let (agents, directory) = (self.agent_cache.clone(), self.directory.clone());
        move |change| match change {
            Change::VoiceAgent(tenant, agent) => agents.forget(tenant, agent),
            Change::Tenant(tenant) => {
                agents.forget_fallback(tenant);
                directory.forget_tenant(tenant);
            }
            Change::ApiKey(hash) => directory.forget_key(hash),
            Change::Anything => {
                agents.doubt_everything();
                directory.doubt_everything();
            }
        }
    }
}

/// Without the key ring, which tenants and their keys do without.
pub(super) fn tenants_on(
    database: &Database,
    settings: &CacheSettings,
    env: &Env,
) -> (Tenants, Arc<Directory>, Arc<dyn TenantStore>) {
    let store: Arc<dyn TenantStore> = Arc::new(SqlTenantStore::new(database.clone()));
    let limits = DirectoryLimits {
        max_bytes: settings.tenants_max_bytes,
        tenant_fresh: Duration::from_millis(settings.fresh_ms),
        key_fresh: Duration::from_millis(settings.key_fresh_ms),
        outage: Duration::from_millis(settings.outage_ms),
    };
    let directory = Arc::new(Directory::new(store.clone(), limits));
    (Tenants::new(store.clone(), directory.clone(), env.clone()), directory, store)
}
